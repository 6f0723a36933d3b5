"""From the ``--data`` of a command to a reader: folders, manifests, or the built-in people."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oskar.config import Config
from oskar.data.folder_reader import ColumnReader, FolderReader
from oskar.data.manifest import Manifest, fingerprint, free_name, select
from oskar.data.official import read_named
from oskar.data.parquet import Mapped, map_parquet, parquet_of
from oskar.data.people_reader import PeopleReader, parse_people, people_captions
from oskar.data.pooled_reader import PooledReader
from oskar.data.reader import ClipReader
from oskar.data.store.reader import Store, StoreReader, is_store
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.tokens.words import Words, load_words, train_words


@dataclass(frozen=True, slots=True)
class OpenedData:
    """A reader, the words its captions are encoded with, and what identifies the data.

    ``missing`` are the ids of clips that official lists name and that are not there.
    """

    reader: ClipReader
    words: Words | None
    sha256: str
    names: tuple[str, ...]
    n_left_out: int = 0
    n_quarantined: int = 0
    missing: tuple[str, ...] = ()


def open_training(data: Sequence[str], config: Config, words: Words | None = None) -> OpenedData:
    """Open data to pretrain on: rows of ``data.split`` and rows without a split, less those in quarantine.

    Without ``words``, captions are encoded by ``data.tokenizer``, or by WordPiece trained on them.

    Raises:
        InputError: naming the file or key, the value and the fix.
    """
    return _open(data, config, words, config.data.split, is_labelled=False)


def open_split(
    data: Sequence[str], config: Config, words: Words | None, split: str, modality: Modality | None = None
) -> OpenedData:
    """Open one split of labelled data to evaluate on; rows without a split, or without ``modality``, are left out."""
    return _open(data, config, words, split, modality, is_labelled=True)


def _open(
    data: Sequence[str],
    config: Config,
    words: Words | None,
    split: str,
    modality: Modality | None = None,
    *,
    is_labelled: bool,
) -> OpenedData:
    if not data:
        raise InputError("no data", fix="name a folder, a manifest or `people` with --data")
    stores = [Store(name, config) for name in data if is_store(name)]
    if stores and is_labelled:
        raise InputError(
            f"--data {stores[0].data}: a token store holds views to train on",
            fix="evaluate on the data it was made from",
        )
    large = [] if is_labelled else [path for name in data if (path := parquet_of(name)) is not None]
    mapped = [map_parquet(path, config) for path in large]
    folders = [
        name for name in data if parse_people(name) is None and not is_store(name) and parquet_of(name) not in large
    ]
    worlds = [settings for settings in map(parse_people, data) if settings is not None]
    if len({world.seed for world in worlds}) < len(worlds):
        raise InputError(f"--data {' '.join(data)}: the same people twice", fix="give each people a seed of its own")
    quarantine = "ignore" if is_labelled else config.data.quarantine
    manifests = [
        select(m, split=split, keep_unsplit=not is_labelled) for m in read_named(folders, quarantine=quarantine)
    ]
    if words is None and "text" in config.tokens.modalities:
        words = _words(manifests, [*mapped, *stores], config, has_people=bool(worlds))
    folder_readers = [FolderReader(manifest, config, words, modality) for manifest in manifests]
    people_readers = [PeopleReader(people, config, words, split, is_labelled=is_labelled) for people in worlds]
    names = [m.name for m in manifests]
    listed: list[ColumnReader | StoreReader] = []
    for columns in mapped:
        names.append(free_name(columns.name, names))
        listed.append(ColumnReader(columns, config, words, names[-1]))
    for store in stores:
        names.append(free_name(store.index.name, names))
        listed.append(StoreReader(store, config, words, names[-1]))
    readers: list[ClipReader] = [*folder_readers, *listed, *people_readers]
    return OpenedData(
        reader=readers[0] if len(readers) == 1 else PooledReader(readers),
        words=words,
        sha256=_identity(fingerprint(*manifests), [part.identity for part in (*listed, *people_readers)]),
        names=(*names, *("people",) * len(worlds)),
        n_left_out=sum(reader.n_left_out for reader in (*folder_readers, *listed)),
        n_quarantined=sum(manifest.n_quarantined for manifest in manifests),
        missing=tuple(row.clip_id for m in manifests for row in m.missing_rows),
    )


def _identity(sha256: str, others: Sequence[str]) -> str:
    """The manifests' fingerprint, together with those of stores and people where there are any."""
    return hashlib.sha256(json.dumps([sha256, *others]).encode()).hexdigest() if others else sha256


def _words(
    manifests: Sequence[Manifest], others: Sequence[Mapped | Store], config: Config, *, has_people: bool
) -> Words | None:
    """The tokenizer of the run: loaded, or trained on the captions that count as text; None without any."""
    if config.data.tokenizer is not None:
        return load_words(Path(config.data.tokenizer), vocabulary_size=config.tokens.vocabulary_size)
    if config.data.captions == "none":
        return None
    captions = [
        row.caption
        for manifest in manifests
        for row in manifest.rows
        if row.caption is not None and not (config.data.captions == "written" and row.is_caption_composed)
    ]
    captions += [caption for part in others for caption in part.captions()]
    if has_people:
        captions += people_captions(config.train.seed)
    return train_words(captions, config.tokens.vocabulary_size) if captions else None
