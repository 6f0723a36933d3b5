"""Manifests: the clips of a data set, one row each, checked before anything is decoded."""

import hashlib
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import METADATA_COLUMNS, OWN_PREFIX, Cells, Table, read_table, shown
from oskar.data.folder import list_folder
from oskar.data.labels import find_class, order_classes, read_classes
from oskar.errors import InputError
from oskar.modalities import Modality

INDEX_FILE = "index.csv"
PACKED_FILE = "skeletons.npz"


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
class Manifest:
    """The rows of one data set; ``classes[label_id]`` is a label.

    ``split_column`` is the column the rows' splits were read from, None where there is none.
    ``id_prefix`` is what pooling put before every clip id.
    """

    name: str
    folder: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...] = ()
    split_column: str | None = None
    id_prefix: str = ""

    @property
    def packed_path(self) -> Path:
        """The file that ``Row.packed_rows`` point into."""
        return self.folder / PACKED_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
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
        if path.name == ".." or real.is_symlink():
            real = Path(os.path.realpath(path))
        if Path(text).is_absolute() or not real.is_relative_to(self.real_folder):
            raise cells.error(
                column, f"is not below {self.folder}", "move the file into the folder and write its path from there"
            )
        is_there = real.is_file()
        if not is_there and not self.is_missing_kept:
            problem = "is not a file" if real.exists() else "does not exist"
            raise cells.error(column, f"{path} {problem}", "correct the path, or remove the row")
        return path, is_there


def read_manifest(
    data: str | Path, *, split_column: str | None = None, missing: Literal["error", "keep"] = "error"
) -> Manifest:
    """Read a folder with an ``index.csv``, a plain folder of videos, or a manifest file (``.csv``).

    Paths are relative to the folder of the index and stay inside it. ``split_column`` names the
    column of the splits; without it that is ``split``, or ``split1`` where there is no ``split``.
    ``missing="keep"`` keeps rows whose files are not there, for callers that count them.

    Raises:
        InputError: naming file, line, column, value and fix; the first fault ends the reading.
    """
    source = Path(data)
    if source.is_file():
        if source.suffix.lower() != ".csv":
            raise InputError(f"data {source}: a {source.suffix or 'nameless'} file", fix="name a folder or a .csv manifest")
        folder, table = source.parent, read_table(source)
    elif source.is_dir():
        folder = source
        has_index = (source / INDEX_FILE).exists()
        table = read_table(source / INDEX_FILE) if has_index else list_folder(source, read_classes(source))
    else:
        raise InputError(f"data {source}: does not exist", fix="name a folder or a .csv manifest")
    real_folder = Path(os.path.realpath(folder))
    files = _Files(folder=folder, real_folder=real_folder, is_missing_kept=missing == "keep")
    split_column = _choose_split_column(table, split_column)
    rows = _read_rows(table, files, split_column)
    rows, classes = _label_rows(rows, table, read_classes(folder))
    is_index = table.source.name == INDEX_FILE or table.source == folder
    return Manifest(
        name=real_folder.name if is_index else f"{real_folder.name}.{table.source.stem}",
        folder=folder,
        rows=tuple(_flag_composed(rows, table)),
        classes=classes,
        split_column=split_column,
    )


def read_manifests(
    data: Sequence[str | Path], *, split_column: str | None = None, missing: Literal["error", "keep"] = "error"
) -> list[Manifest]:
    """Read several manifests to be pooled: clip ids become ``name/clip_id``, names are told apart by ``~2``, ``~3`` ...

    Raises:
        InputError: as ``read_manifest``, or the same data given twice.
    """
    manifests: list[Manifest] = []
    seen: set[Path] = set()
    names: set[str] = set()
    for source in data:
        real = Path(os.path.realpath(source))
        real = real / INDEX_FILE if (real / INDEX_FILE).exists() else real
        if real in seen:
            raise InputError(f"data {source}: given twice", fix="name every folder or manifest once")
        seen.add(real)
        manifest = read_manifest(source, split_column=split_column, missing=missing)
        name, copy = manifest.name, 1
        while name in names:
            copy += 1
            name = f"{manifest.name}~{copy}"
        names.add(name)
        rows = tuple(replace(row, clip_id=f"{name}/{row.clip_id}") for row in manifest.rows)
        manifests.append(replace(manifest, name=name, rows=rows, id_prefix=f"{name}/"))
    return manifests


def select(manifest: Manifest, *, split: str | None, keep_unsplit: bool = False) -> Manifest:
    """The rows of one split; ``split=None`` selects all.

    Rows without a split are left out, as evaluation needs it; pretraining asks for them with
    ``keep_unsplit=True``.

    Raises:
        InputError: no row is left.
    """
    if split is None:
        return manifest
    rows = tuple(row for row in manifest.rows if row.split == split or (keep_unsplit and row.split is None))
    if not rows:
        splits = sorted({row.split for row in manifest.rows if row.split is not None})
        fix = f"use one of {', '.join(splits)}" if splits else "fill the column split in, or use all rows"
        raise InputError(f"data {manifest.folder}: no clip of split {shown(split)}", fix=fix)
    return replace(manifest, rows=rows)


def fingerprint(*manifests: Manifest) -> str:
    """SHA-256 over ids, labels, label ids and splits: independent of the order of rows and of the folder's name."""
    entries = sorted(
        json.dumps([row.clip_id[len(manifest.id_prefix) :], row.label, row.label_id, row.split])
        for manifest in manifests
        for row in manifest.rows
    )
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _choose_split_column(table: Table, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in table.columns:
            known = [column for column in table.columns if re.fullmatch(r"split\d*", column)]
            fix = f"use one of {', '.join(known)}" if known else "add the column"
            raise InputError(f"{table.source}: has no column {shown(wanted)} to take the splits from", fix=fix)
        return wanted
    return next((column for column in ("split", "split1") if column in table.columns), None)


def _read_rows(table: Table, files: _Files, split_column: str | None) -> list[Row]:
    offsets = _read_offsets(files) if {"row", "start", "end"} & set(table.columns) else None
    where_of: dict[str, str] = {}
    rows: list[Row] = []
    for cells in table.rows:
        row = _read_row(cells, files, split_column, offsets, table.has_file_ids)
        if row.clip_id in where_of:
            raise cells.error(
                "clip_id", f"clip {shown(row.clip_id)} is also in {where_of[row.clip_id]}", "give every clip its own id"
            )
        where_of[row.clip_id] = cells.where
        rows.append(row)
    if all(row.missing for row in rows):
        example = table.rows[0]
        raise InputError(
            f"{table.source}: none of the listed files is there, the first is {example.values.get(rows[0].missing[0])!r}",
            fix="paths are relative to the folder of the index: correct them, or move the index",
        )
    return rows


def _read_row(
    cells: Cells, files: _Files, split_column: str | None, offsets: NDArray[np.int64] | None, has_file_ids: bool
) -> Row:
    video_path, is_video_there = files.find(cells, "path")
    joints_path, are_joints_there = files.find(cells, "joints_path")
    _check_suffixes(cells, video_path, joints_path)
    clip_id = cells.values.get("clip_id")
    if clip_id is None and has_file_ids and video_path is not None:
        clip_id = video_path.stem
    if clip_id is None:
        raise cells.error("clip_id", "is missing", "give every clip an id in the column clip_id")
    packed_rows = _read_packed_rows(cells, offsets)
    if packed_rows is not None and joints_path is not None:
        raise cells.error("joints_path", "the row also has start and end", f"use its own file or {PACKED_FILE}")
    missing = (("path",) if not is_video_there else ()) + (("joints_path",) if not are_joints_there else ())
    if packed_rows is not None and offsets is None:
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
