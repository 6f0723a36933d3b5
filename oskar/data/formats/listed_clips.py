"""Videos as the official lists of a data set name them, and which of them are there."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oskar.data.columns import shown
from oskar.errors import InputError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedClip:
    """One video of a list; ``file_names`` are where it may lie below the folder of videos, first choice first."""

    clip_id: str
    file_names: tuple[str, ...]
    label: str | None
    split: Split


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundClips:
    """The files of the clips that are there, by clip id, and the ids of the others, in the order of their list."""

    paths: Mapping[str, Path]
    missing: tuple[str, ...]

    @property
    def n_expected(self) -> int:
        return len(self.paths) + len(self.missing)

    @property
    def n_found(self) -> int:
        return len(self.paths)


def count_splits(clips: Sequence[ListedClip]) -> dict[Split, int]:
    """Clips in each split."""
    return dict(Counter(clip.split for clip in clips))


def label_ids(clips: Sequence[ListedClip], classes: Sequence[str], source: Path) -> tuple[int | None, ...]:
    """The place of each label among the classes, None where a clip has none; InputError where a label is no class."""
    id_of = {name: i for i, name in enumerate(classes)}
    for clip in clips:
        if clip.label is not None and clip.label not in id_of:
            raise InputError(
                f"{source}: clip {clip.clip_id} has label {shown(clip.label)}, not one of the {len(classes)} classes",
                fix="use lists of one release for all splits",
            )
    return tuple(None if clip.label is None else id_of[clip.label] for clip in clips)


def find_clips(clips: Sequence[ListedClip], folder: Path) -> FoundClips:
    """Look for the files below ``folder``; raises InputError where there is no such folder.

    Each folder is listed once, since asking for hundreds of thousands of files one by one is slow.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder", fix="name the folder that holds the videos")
    listed: dict[Path, frozenset[str]] = {}
    paths: dict[str, Path] = {}
    for clip in clips:
        for name in clip.file_names:
            path = folder / name
            if path.parent not in listed:
                listed[path.parent] = frozenset(os.listdir(path.parent) if path.parent.is_dir() else ())
            if path.name in listed[path.parent]:
                paths[clip.clip_id] = path
                break
    return FoundClips(paths=paths, missing=tuple(clip.clip_id for clip in clips if clip.clip_id not in paths))
