"""The rows of a manifest: what is known of a clip before it is decoded, and the files it names."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import ROW_COLUMNS, Cells, Table, shown
from oskar.errors import InputError
from oskar.modalities import Modality

PACKED_FILE = "skeletons.npz"
JOINTS_SUFFIXES = (".npz", ".skeleton")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One clip as listed; what its manifest does not say is None.

    ``packed_rows`` are the first frame and the one after the last in the manifest's packed joints.
    ``has_joints`` is False where a joints file holds boxes only (column ``has_joints`` = 0).
    ``is_caption_composed`` says that the caption was made from the label: its ``caption_source``
    starts with "composed", or no source is given and all clips of every label share one caption.
    ``missing`` names the columns whose file is not there (only with ``missing="keep"``).
    Captions may be of any length: the tokenizer cuts them.
    """

    clip_id: str
    video_path: Path | None = None
    joints_path: Path | None = None
    packed_rows: tuple[int, int] | None = None
    has_joints: bool = False
    caption: str | None = None
    is_caption_composed: bool = False
    label: str | None = None
    label_id: int | None = None
    split: str | None = None
    subject: str | None = None
    group: str | None = None
    n_frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    missing: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities this row lists, in the table's order."""
        is_there: dict[Modality, bool] = {
            "video": self.video_path is not None,
            "skeleton": self.has_joints,
            "text": self.caption is not None,
        }
        return tuple(name for name, is_listed in is_there.items() if is_listed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Finds listed files below one folder; real parents are looked up once each."""

    folder: Path
    real_folder: Path
    is_missing_kept: bool
    real_parents: dict[Path, Path] = field(default_factory=dict)

    def find(self, cells: Cells, column: str) -> tuple[Path | None, bool]:
        """The path in a column and whether a file is there; InputError outside the folder or not there."""
        text = cells.values.get(column)
        if text is None:
            return None, True
        path = self.folder / text
        parent = self.real_parents.get(path.parent)
        if parent is None:
            parent = self.real_parents[path.parent] = Path(os.path.realpath(path.parent))
        real = parent / path.name
        if path.name == ".." or os.path.islink(real):
            real = Path(os.path.realpath(path))
        if Path(text).is_absolute() or not real.is_relative_to(self.real_folder):
            raise cells.error(
                column, f"is not below {self.folder}", "move the file into the folder and write its path from there"
            )
        is_there = os.path.isfile(real)  # unlike Path.is_file, False for names no file can have
        if not is_there and not self.is_missing_kept:
            problem = "is not a file" if os.path.exists(real) else "does not exist"
            raise cells.error(column, f"{path} {problem}", "correct the path, or remove the row")
        return path, is_there


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedFile:
    """The packed file: ``offsets`` are where its sequences begin, and its length last, where it says so."""

    is_there: bool
    offsets: NDArray[np.int64] | None


def read_rows(table: Table, files: Files, split_column: str | None) -> list[Row]:
    """The rows of a table, unlabelled yet.

    Raises:
        InputError: a missing or repeated id, a bad number, path or range, no modality, or no file at all.
    """
    is_packed = any("start" in cells.values for cells in table.rows)
    packed = read_packed_file(files) if is_packed else PackedFile(is_there=False, offsets=None)
    where_of: dict[str, str] = {}
    rows: list[Row] = []
    for cells in table.rows:
        row = read_row(cells, files, split_column, packed)
        if row.clip_id in where_of:
            raise cells.error(
                "clip_id", f"clip {shown(row.clip_id)} is also in {where_of[row.clip_id]}", "give every clip its own id"
            )
        where_of[row.clip_id] = cells.where
        rows.append(row)
    if all(row.missing for row in rows):
        first = shown(table.rows[0].values[rows[0].missing[0]])
        raise InputError(
            f"{table.source}: none of the listed files is there, the first is {rows[0].missing[0]} = {first}",
            fix="paths are relative to the folder of the index: correct them, or move the index",
        )
    return rows


def read_row(cells: Cells, files: Files, split_column: str | None, packed: PackedFile) -> Row:
    """One row, unlabelled yet; raises InputError as ``read_rows``."""
    _check_suffixes(cells)
    video_path, is_video_there = files.find(cells, "path")
    joints_path, are_joints_there = files.find(cells, "joints_path")
    clip_id = cells.values.get("clip_id")
    if clip_id is None:
        raise cells.error("clip_id", "is missing", "give every clip an id in the column clip_id")
    packed_rows = _read_packed_rows(cells, packed.offsets)
    if packed_rows is not None and joints_path is not None:
        raise cells.error("joints_path", "the row also has start and end", f"use its own file or {PACKED_FILE}")
    missing = (("path",) if not is_video_there else ()) + (("joints_path",) if not are_joints_there else ())
    if packed_rows is not None and not packed.is_there:
        missing += ("start",)
    caption = cells.values.get("caption")
    row = Row(
        clip_id=clip_id,
        video_path=video_path,
        joints_path=joints_path,
        packed_rows=packed_rows,
        has_joints=_has_joints(cells, joints_path is not None or packed_rows is not None),
        caption=caption if caption is not None and any(c.isprintable() and c != " " for c in caption) else None,
        is_caption_composed=cells.values.get("caption_source", "").startswith("composed"),
        split=cells.values.get(split_column) if split_column is not None else None,
        subject=cells.values.get("subject"),
        group=cells.values.get("group"),
        n_frames=cells.integer("n_frames", minimum=1),
        fps=cells.positive("fps"),
        width=cells.integer("width", minimum=1),
        height=cells.integer("height", minimum=1),
        missing=missing,
        metadata=_metadata(cells, split_column),
    )
    if not row.modalities:
        raise InputError(
            f"{cells.where}: clip {shown(clip_id)} has no modality",
            fix="give it a path, a joints_path (or start and end) or a caption",
        )
    return row


def _check_suffixes(cells: Cells) -> None:
    video, joints = (Path(cells.values.get(column, "")).suffix.lower() for column in ("path", "joints_path"))
    if video in JOINTS_SUFFIXES:
        raise cells.error("path", "holds joints, not a video", "name it in joints_path")
    if joints not in ("", *JOINTS_SUFFIXES):
        raise cells.error(
            "joints_path", f"joints are read from {' and '.join(JOINTS_SUFFIXES)} files", "convert it to .npz"
        )


def _read_packed_rows(cells: Cells, offsets: NDArray[np.int64] | None) -> tuple[int, int] | None:
    """Start and end of a row in the packed file, checked against its ``offsets`` where there are any."""
    index = cells.integer("row", minimum=0)
    start, end = cells.integer("start", minimum=0), cells.integer("end", minimum=0)
    if start is None and end is None and index is None:
        return None
    if start is None or end is None:
        column = "start" if start is None else "end"
        raise cells.error(column, "is missing", f"start and end go together: frames of {PACKED_FILE}")
    if start >= end:
        raise cells.error("start", f"is not before end = {end}", "give the first frame and the one after the last")
    if offsets is not None and end > offsets[-1]:
        raise cells.error("end", f"{PACKED_FILE} holds {offsets[-1]} frames", "correct start and end")
    if offsets is not None and index is not None:
        if index + 1 >= len(offsets):
            raise cells.error("row", f"{PACKED_FILE} holds {len(offsets) - 1} sequences", "correct the row")
        if (start, end) != (offsets[index], offsets[index + 1]):
            raise cells.error(
                "row",
                f"sequence {index} of {PACKED_FILE} is {offsets[index]} to {offsets[index + 1]}, not {start} to {end}",
                "correct row, start and end",
            )
    return start, end


def read_packed_file(files: Files) -> PackedFile:
    """What the packed joints of a folder say of themselves; raises InputError where they cannot be read."""
    path = files.folder / PACKED_FILE
    if files.is_missing_kept and not path.exists():
        return PackedFile(is_there=False, offsets=None)
    fix = "write it with numpy.savez(joints=..., offsets=...), without pickles"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            offsets = arrays["offsets"] if "offsets" in arrays.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({error})", fix=fix) from error
    if offsets is None:
        return PackedFile(is_there=True, offsets=None)
    if offsets.ndim != 1 or len(offsets) == 0 or not np.issubdtype(offsets.dtype, np.integer):
        raise InputError(
            f"{path}: offsets are {offsets.dtype} of shape {offsets.shape}, not a list of numbers", fix=fix
        )
    return PackedFile(is_there=True, offsets=np.asarray(offsets, dtype=np.int64))


def _has_joints(cells: Cells, is_listed: bool) -> bool:
    said = cells.values.get("has_joints")
    if said not in (None, "0", "1"):
        raise cells.error("has_joints", "not 0 or 1", "write 1 where the clip has joints, else 0")
    if said == "1" and not is_listed:
        raise cells.error("has_joints", "the row names no joints", "add a joints_path, or write 0")
    return is_listed and said != "0"


def _metadata(cells: Cells, split_column: str | None) -> dict[str, str]:
    return {
        column: value
        for column, value in cells.values.items()
        if column not in (split_column, *ROW_COLUMNS) or column == "caption_source"
    }
