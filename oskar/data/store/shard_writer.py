"""One shard while it is made: clips read by a worker, cut into tokens, written whole or not at all."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from oskar.data.store.arrays_file import Column, write_arrays
from oskar.data.store.index import SHARDS_FOLDER, StoredFile
from oskar.data.store.shards import people_crc, token_crc
from oskar.data.store.source import ClipSource
from oskar.data.store.tokenizers import VideoTokenizer
from oskar.errors import InputError
from oskar.files import TEMPORARY, not_written, sync_folder, write_text_atomic


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """What became of a slice of the clips; ``stored`` is None where none of them could be read.

    ``clips`` are the numbers of those that are in the shard, ``has_video`` and ``has_skeleton`` say what they have.
    """

    stored: StoredFile | None
    bad: tuple[tuple[str, str], ...]
    clips: tuple[int, ...]
    has_video: tuple[bool, ...]
    has_skeleton: tuple[bool, ...]


@dataclass(slots=True)
class CutClip:
    """One clip as read by a worker: views stacked, or the reason why it could not be read."""

    number: int
    problem: tuple[str, str] | None = None
    frames: Tensor | None = None
    joints: Tensor | None = None
    boxes: Tensor | None = None


class Clips(Dataset[CutClip]):
    """Clips by number, all views of each."""

    def __init__(self, source: ClipSource, n_views: int, seed: int) -> None:
        self._source, self._n_views, self._seed = source, n_views, seed

    def __getitem__(self, number: int) -> CutClip:
        try:
            views = [self._source.read(number, view, self._seed) for view in range(self._n_views)]
        except InputError as error:
            return CutClip(number, problem=(self._source.clip_id(number), str(error)))

        def stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
            given = [part for part in parts if part is not None]
            return torch.stack(given) if given else None

        joints = stacked([clip.joints for clip in views])
        return CutClip(
            number,
            frames=stacked([clip.frames for clip in views]),
            joints=joints,
            boxes=None if joints is None else stacked([clip.boxes for clip in views]),
        )


@dataclass(slots=True)
class Shard:
    """The arrays of one shard while they are gathered."""

    cutter: VideoTokenizer
    n_people: int
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)
    has_video: list[bool] = field(default_factory=list)
    has_skeleton: list[bool] = field(default_factory=list)

    def add(self, clip: CutClip) -> None:
        if clip.problem is not None:
            self.bad.append(clip.problem)
            return
        self.clips.append(clip.number)
        self.has_video.append(clip.frames is not None)
        self.has_skeleton.append(clip.joints is not None)
        if clip.frames is not None:
            self._add_video(clip.frames)
        if clip.joints is not None and clip.boxes is not None:
            self._add_people(clip.joints, clip.boxes)

    def _add_video(self, frames: Tensor) -> None:
        tokens = self.cutter.tokens(frames)
        self._put("video", tokens)
        self._put("video_crc", token_crc(tokens.reshape(-1, tokens.shape[-1])).reshape(tokens.shape[:-1]))
        if self.cutter.facts.kind == "raw":
            self._put("contrast", tokens.max(-1) - tokens.min(-1))

    def _add_people(self, joints: Tensor, boxes: Tensor) -> None:
        """The first people, and empty ones where there are fewer; joints lie tube by tube."""
        shape = (len(joints), self.n_people, *joints.shape[2:])
        placed, around = joints.new_zeros(shape), boxes.new_zeros(*shape[:3], 4)
        n = min(self.n_people, joints.shape[1])
        placed[:, :n], around[:, :n] = joints[:, :n], boxes[:, :n]
        tubes, frames = placed.transpose(2, 3).contiguous().numpy(), around.numpy()
        self._put("joints", tubes)
        self._put("boxes", frames)
        checks = [people_crc(of_view, box) for of_view, box in zip(tubes, frames, strict=True)]
        self._put("skeleton_crc", np.array(checks, np.uint32))

    def _put(self, name: str, values: NDArray[Any]) -> None:
        self.columns.setdefault(name, []).append(values[None])

    def to_columns(self) -> dict[str, Column]:
        kinds = {"video": self.cutter.facts.type, "contrast": "U8", "joints": "F32", "boxes": "F32"}
        order = ("video", "video_crc", "joints", "boxes", "skeleton_crc", "contrast")
        found = {name: self.columns[name] for name in order if name in self.columns}
        columns = {name: Column(kinds.get(name, "U32"), parts[0].shape[1:], parts) for name, parts in found.items()}
        return columns or {"nothing": Column("U8", (), [])}  # clips that are text alone


def _shard_name(i: int) -> str:
    return f"{SHARDS_FOLDER}/shard-{i:06d}.safetensors"


def facts_path(out: Path, i: int) -> Path:
    return out / SHARDS_FOLDER / f"shard-{i:06d}.json"


def write_shard(out: Path, i: int, shard: Shard) -> FinishedShard:
    """The shard's file, then what is in it: a slice is done when the second is there."""
    stored = None
    if shard.clips:
        stored = write_file(out, _shard_name(i), shard.to_columns(), n_clips=len(shard.clips))
    finished = FinishedShard(
        stored, tuple(shard.bad), tuple(shard.clips), tuple(shard.has_video), tuple(shard.has_skeleton)
    )
    write_text_atomic(facts_path(out, i), json.dumps(asdict(finished)) + "\n")
    return finished


def write_file(out: Path, name: str, columns: dict[str, Column], n_clips: int) -> StoredFile:
    """Write arrays beside the final name and rename; raises StoppedRunError where the disk is full."""
    path = out / name
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        write_arrays(temporary, columns)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        n_bytes = temporary.stat().st_size
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, sum(column.n_bytes for column in columns.values()), str(error)) from error
    return StoredFile(file=name, bytes=n_bytes, sha256=digest, n_clips=n_clips)


def finished_shard(out: Path, i: int) -> FinishedShard | None:
    """What is known of a slice that is done; None where it is not, or its file is not what was written."""
    try:
        facts = json.loads(facts_path(out, i).read_text("utf-8"))
        stored = None if facts["stored"] is None else StoredFile(**facts["stored"])
        bad = tuple((str(name), str(reason)) for name, reason in facts["bad"])
        finished = FinishedShard(
            stored, bad, tuple(facts["clips"]), tuple(facts["has_video"]), tuple(facts["has_skeleton"])
        )
        if stored is not None:
            with (out / stored.file).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
                    return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return finished
