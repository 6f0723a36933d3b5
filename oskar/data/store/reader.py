"""Clips of a token store: joints, boxes and words at once, video tokens when they are chosen."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.bounded_folder import BoundedFolder
from oskar.data.reader import Draw, ReadClips, TrainingDraw, n_repeats, repeated_id
from oskar.data.store.index import (
    INDEX_FILE,
    PLAN_FILE,
    ClipTable,
    StoreIndex,
    read_clips,
    read_index,
    require_same_cut,
)
from oskar.data.store.place import FolderPlace, StorePlace, UrlPlace
from oskar.data.store.shards import Shards
from oskar.data.store.tubelets import StoredTubelets
from oskar.errors import InputError
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.randomness import clip_keys, hash_id, integers
from oskar.tokens.words import Words

_VIEW_STREAM = 9004


def is_store(data: str) -> bool:
    """Whether ``--data`` names a token store: a URL, or a folder with its index or the beginnings of one."""
    return "://" in data or any((Path(data) / name).is_file() for name in (INDEX_FILE, PLAN_FILE))


class Store:
    """An opened store: its index and the table of its clips.

    Raises:
        InputError: no store, one that was not finished, or one that does not fit ``config``.
    """

    def __init__(self, data: str, config: Config) -> None:
        self.data = data
        self.place: StorePlace = _url_place(data, config) if "://" in data else FolderPlace(Path(data))
        if self.place.is_local and not (Path(data) / INDEX_FILE).is_file():
            raise InputError(f"{data}: an unfinished token store", fix="run the same `oskar tokenize` again")
        self.index: StoreIndex = read_index(self.place.index_text(), f"{data}/{INDEX_FILE}")
        require_same_cut(self.index, config, data)
        self.clips: ClipTable = read_clips(self.place.fetch(self.index.clips), self.index.clips)
        self._captions = config.data.captions
        self.of_split = self._of_split(config.data.split)

    def _of_split(self, split: str) -> NDArray[np.int64]:
        """Numbers of the clips of a split and of those without one."""
        known, made_of = self.index.splits, self.index.split
        if made_of not in (None, split):
            raise InputError(
                f"data.split = {split!r}, but {self.data} was made of split {made_of!r}",
                fix=f"set data.split={made_of}, or make another store with store.split=null",
            )
        wanted = known.index(split) if split in known else -1
        split_id = np.asarray(self.clips.split_id)
        found = np.flatnonzero((split_id == -1) | (split_id == wanted))
        if not len(found):
            raise InputError(f"data {self.data}: no clip of split {split!r}", fix=f"use one of {', '.join(known)}")
        return found

    def has_caption(self, clips: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which clips have a caption that counts as text."""
        if self._captions == "none":
            return np.zeros(len(clips), np.bool_)
        offsets = np.asarray(self.clips.captions.offsets)
        is_there: NDArray[np.bool_] = offsets[clips + 1] > offsets[clips]
        if self._captions == "all":
            return is_there
        is_written: NDArray[np.bool_] = np.asarray(self.clips.is_composed)[clips] == 0
        return is_there & is_written

    def captions(self) -> Iterator[str]:
        """Those that count as text, of the run's split."""
        for i in self.of_split[self.has_caption(self.of_split)].tolist():
            yield self.clips.captions[i]


class StoreReader:
    """Training clips of a store; ``name`` is what it is called among pooled data.

    A step shows one of a clip's stored views, chosen by (seed, step, clip id). Clips that have none of the
    recipe's modalities are left out, and so are those that could not be read when the store was made.
    """

    def __init__(self, store: Store, config: Config, words: Words | None, name: str) -> None:
        self._index, self._table, self._shards = store.index, store.clips, Shards(store.place, store.index)
        self._config, self._words = config, words
        self._prefix = f"{name}/" if store.index.has_prefix else ""
        self.classes = store.index.classes
        modalities = config.tokens.modalities
        rows = store.of_split
        self._has_text = words is not None and "text" in modalities
        is_text = store.has_caption(rows) if self._has_text else np.zeros(len(rows), np.bool_)
        is_video = (np.asarray(self._table.video)[rows] >= 0) & ("video" in modalities)
        is_skeleton = (np.asarray(self._table.skeleton)[rows] >= 0) & ("skeleton" in modalities)
        is_kept = is_text | is_video | is_skeleton
        self._rows, self._is_text = rows[is_kept], is_text[is_kept]
        self.n_left_out = len(rows) - len(self._rows) + len(store.index.bad)
        if not len(self._rows):
            raise InputError(
                f"data {store.data}: no clip has any of {', '.join(modalities)}",
                fix="choose a recipe that has the store's modalities, or set tokens.modalities",
            )
        # Shards that are fetched should be used up before the next ones are.
        shards = np.asarray(self._table.shard)[self._rows]
        self.blocks = () if store.place.is_local else tuple(np.unique(shards, return_counts=True)[1].tolist())

    @property
    def identity(self) -> str:
        """Tells these clips from all others, for fingerprints."""
        digest = hashlib.sha256(self._index.to_json().encode()).hexdigest()
        return f"store:{digest}:{len(self._rows)}"

    def __len__(self) -> int:
        return len(self._rows)

    def clip_id(self, index: int) -> str:
        return self._prefix + self._table.ids[int(self._rows[index])]

    def label(self, index: int) -> int:
        return int(self._table.label_id[self._rows[index]])

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        if not isinstance(draw, TrainingDraw):
            raise InputError("a token store has no evaluation windows", fix="evaluate on the data it was made from")
        names = [self.clip_id(i) for i in indices]
        ids = torch.tensor([hash_id(repeated_id(name, place % n_repeats(draw))) for place, name in enumerate(names)])
        view = integers(clip_keys(draw.seed, draw.step, ids), _VIEW_STREAM, self._index.views).numpy()
        rows = self._rows[np.asarray(indices)]
        bad: dict[int, str] = {}
        people, tubelets = self._people(rows, view, bad), self._tubelets(rows, view, names, bad)
        clips = ClipBatch(
            clip_ids=ids,
            labels=torch.from_numpy(np.asarray(self._table.label_id)[rows].astype(np.int64)),
            word_ids=self._word_ids(indices, rows, bad),
            joints=None if people is None else people[0],
            boxes=None if people is None else people[1],
            has_skeleton=None if people is None else people[2],
            tubelets=tubelets,
            has_video=None if tubelets is None else tubelets.is_stored,
        )
        kept = torch.tensor([i not in bad for i in range(len(names))])
        self._table.file.forget_pages()
        listed = tuple((names[i], reason) for i, reason in bad.items())
        return ReadClips(clips.rows(kept) if bool(kept.any()) else None, listed)

    def _word_ids(self, indices: Sequence[int], rows: NDArray[np.int64], bad: dict[int, str]) -> Tensor | None:
        is_text = self._is_text[np.asarray(indices)]
        if self._words is None or not is_text.any():
            return None
        n_words = self._config.tokens.n_words
        word_ids = torch.full((len(rows), n_words), -1, dtype=torch.int64)
        for i in np.flatnonzero(is_text).tolist():
            try:
                ids = self._words.encode(self._table.captions[int(rows[i])], n_words)
            except InputError as error:
                bad[i] = str(error)
                continue
            word_ids[i, : len(ids)] = ids
        return word_ids

    def _people(
        self, rows: NDArray[np.int64], view: NDArray[np.int64], bad: dict[int, str]
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Joints, boxes and which clips have them."""
        place = self._places("skeleton", rows)
        if not (place >= 0).any():
            return None
        tokens = self._config.tokens
        joints = torch.zeros(len(rows), tokens.n_people, tokens.n_frames, N_JOINTS, 3)
        boxes = torch.zeros(len(rows), tokens.n_people, tokens.n_frames, 4)
        for i in np.flatnonzero(place >= 0).tolist():
            try:
                shard = int(self._table.shard[rows[i]])
                found = self._shards.people(shard, int(place[i] * self._index.views + view[i]))
            except InputError as error:
                bad[i] = str(error)
                continue
            joints[i] = torch.from_numpy(found[0][: tokens.n_people]).transpose(1, 2)
            boxes[i] = torch.from_numpy(found[1][: tokens.n_people])
        return joints, boxes, torch.from_numpy(place >= 0)

    def _tubelets(
        self, rows: NDArray[np.int64], view: NDArray[np.int64], names: Sequence[str], bad: dict[int, str]
    ) -> StoredTubelets | None:
        place = self._places("video", rows)
        if not (place >= 0).any():
            return None
        shard_idx = np.asarray(self._table.shard)[rows].astype(np.int64)
        row_idx = place * self._index.views + view
        is_valid = torch.from_numpy(place >= 0)[:, None].repeat(
            1, modality_specs(self._config.tokens)["video"].n_tokens
        )
        for i in np.flatnonzero(place >= 0).tolist():
            try:
                self._shards.open(int(shard_idx[i]))
                if self._config.tokens.min_contrast > 0 and self._index.tokenizer.kind == "raw":
                    contrast = self._shards.contrast(int(shard_idx[i]), int(row_idx[i]))
                    shown = torch.from_numpy(contrast).float() / 255.0 >= self._config.tokens.min_contrast
                    is_valid[i] = shown.T.flatten()
            except InputError as error:
                bad[i] = str(error)
        store_idx = torch.from_numpy(np.where(place >= 0, 0, -1))
        return StoredTubelets(
            (self._shards,), tuple(names), store_idx, torch.from_numpy(shard_idx), torch.from_numpy(row_idx), is_valid
        )

    def _places(self, modality: Modality, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place of each clip among those of its shard that have a modality; -1 where it is not there or not wanted."""
        if modality not in self._config.tokens.modalities:
            return np.full(len(rows), -1, np.int64)
        column = self._table.video if modality == "video" else self._table.skeleton
        return np.asarray(column)[rows].astype(np.int64)


def _url_place(data: str, config: Config) -> UrlPlace:
    if config.data.cache_dir is None:
        raise InputError(
            f"--data {data}: the shards of a store behind a URL are kept on this machine",
            fix="set data.cache_dir to a folder, and data.cache_dir_gib to its size",
        )
    limit = int(config.data.cache_dir_gib * 2**30)
    return UrlPlace(data, BoundedFolder(Path(config.data.cache_dir), limit))
