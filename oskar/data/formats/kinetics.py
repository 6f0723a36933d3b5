"""The official lists of Kinetics (Kay et al. 2017), and the plain lists of VideoMAE and V-JEPA."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from oskar.data.columns import read_text, shown
from oskar.data.formats.listed_clips import ListedClip, Split
from oskar.errors import InputError

_NEEDED = ("youtube_id", "time_start", "time_end", "split")
_SPLITS: Mapping[str, Split] = MappingProxyType({"train": "train", "val": "val", "validate": "val", "test": "test"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFile:
    """A line of a plain list: where a video lies, and its class counted from 0."""

    path: str
    label_id: int


def read_kinetics(path: Path) -> tuple[ListedClip, ...]:
    """The clips of an official csv; columns go by their names in the header, others than those needed are passed over.

    A clip is ``{youtube_id}_{start:06d}_{end:06d}``, its file that name with ``.mp4``, perhaps in a folder of its
    label, with spaces or underscores. Only clips of the split test may come without a label.

    Raises InputError naming file, line, column, value and fix.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    clips: list[ListedClip] = []
    line_of: dict[str, int] = {}
    try:
        columns = reader.fieldnames or ()
        if lacking := [name for name in _NEEDED if name not in columns]:
            raise InputError(
                f"{path} line 1: no column {', '.join(lacking)}", fix=f"give a header with {', '.join(_NEEDED)}"
            )
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            if None in cells or None in cells.values():
                raise InputError(f"{where}: not {len(columns)} cells", fix="put values that hold a comma in quotes")
            clip = _read_clip(cells, where)
            if clip.clip_id in line_of:
                raise InputError(
                    f"{where}: clip {clip.clip_id} is also on line {line_of[clip.clip_id]}", fix="list every clip once"
                )
            line_of[clip.clip_id] = reader.line_num
            clips.append(clip)
    except csv.Error as error:
        raise InputError(f"{path} line {reader.reader.line_num}: not CSV ({error})", fix="check the quotes") from error
    if not clips:
        raise InputError(f"{path}: lists no clip", fix="fetch the list again")
    return tuple(clips)


def kinetics_classes(train: Sequence[ListedClip]) -> tuple[str, ...]:
    """The labels of the training clips in sorted order; a class is its place here."""
    return tuple(sorted({clip.label for clip in train if clip.split == "train" and clip.label is not None}))


def read_plain_list(path: Path) -> tuple[LabelledFile, ...]:
    """The lines ``path label`` of a list without a header; the last space of a line splits it.

    Raises InputError naming file, line, value and fix.
    """
    files: list[LabelledFile] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.rstrip().rpartition(" ")
        if not name.strip() or not (label.isascii() and label.isdecimal()):
            raise InputError(
                f"{path} line {number}: {shown(line)} is not a path, a space and a class",
                fix="write: videos/a b.mp4 17",
            )
        files.append(LabelledFile(path=name, label_id=int(label)))
    if not files:
        raise InputError(f"{path}: lists no video", fix="write one line `path label` per video")
    return tuple(files)


def _read_clip(cells: Mapping[str, str], where: str) -> ListedClip:
    youtube_id, label = cells["youtube_id"].strip(), cells.get("label", "").strip()
    split = _SPLITS.get(cells["split"].strip())
    if split is None:
        raise InputError(f"{where}, split = {shown(cells['split'])}", fix=f"use one of {', '.join(_SPLITS)}")
    if not youtube_id or "/" in youtube_id:
        raise InputError(f"{where}, youtube_id = {shown(youtube_id)}", fix="give the id of the video")
    if not label and split != "test":
        raise InputError(f"{where}, label = '': a clip of {split} has none", fix="fetch the list with labels")
    start, end = (_seconds(cells[column], f"{where}, {column}") for column in ("time_start", "time_end"))
    clip_id = f"{youtube_id}_{start:06d}_{end:06d}"
    folders = ("", f"{label}/", f"{label.replace(' ', '_')}/") if label else ("",)
    return ListedClip(
        clip_id=clip_id,
        file_names=tuple(dict.fromkeys(f"{folder}{clip_id}.mp4" for folder in folders)),
        label=label or None,
        split=split,
    )


def _seconds(text: str, where: str) -> int:
    """Whole seconds of a time that may be written as a float."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{where} = {shown(text)}: not a time", fix="give seconds from the start of the video")
    return int(seconds)
