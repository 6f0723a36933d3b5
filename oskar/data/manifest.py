"""Manifests: the clips of a data set, one row each, checked before anything is decoded."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from oskar.data.columns import Table, read_table, shown
from oskar.data.folder import list_folder, list_videos
from oskar.data.formats.ntu_folder import is_ntu_folder, list_ntu_folder
from oskar.data.formats.ntu_names import NtuProtocol
from oskar.data.joint_arrays import Arrays
from oskar.data.labels import find_class, order_classes, read_classes
from oskar.data.parquet import INDEX_PARQUET, parquet_of, read_parquet_table
from oskar.data.quarantine import read_quarantine
from oskar.data.rows import PACKED_FILE, Files, Row, read_rows
from oskar.errors import AbsentError, InputError

__all__ = [
    "Manifest",
    "Row",
    "fingerprint",
    "read_manifest",
    "read_manifests",
    "read_ntu_folder",
    "read_videos",
    "select",
]

INDEX_FILE = "index.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The rows of one data set; ``classes[label_id]`` is a label.

    ``split_column`` is the column the rows' splits were read from, None where there is none.
    ``n_quarantined`` rows of the list were left out because the data's quarantine list names them.
    ``id_prefix`` is what pooling put before every clip id. ``missing_rows`` are clips that official lists name and
    that are not there; ``joints`` are the packed joints where they are in memory, not in the folder.
    """

    name: str
    folder: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...] = ()
    split_column: str | None = None
    id_prefix: str = ""
    n_quarantined: int = 0
    missing_rows: tuple[Row, ...] = ()
    joints: Arrays | None = field(default=None, compare=False, repr=False)

    @property
    def packed_path(self) -> Path:
        """The file that ``Row.packed_rows`` point into."""
        return self.folder / PACKED_FILE


def read_manifest(
    data: str | Path,
    *,
    split_column: str | None = None,
    missing: Literal["error", "keep"] = "error",
    quarantine: Literal["honour", "ignore"] = "ignore",
) -> Manifest:
    """Read a folder with an ``index.csv`` or ``index.parquet``, a plain folder of videos, or a manifest file.

    A folder of NTU RGB+D files is read as ``read_ntu_folder`` does without a protocol.
    Paths are relative to the folder of the index and stay inside it. ``split_column`` names the
    column of the splits; without it that is ``split``, or ``split1`` where there is no ``split``.
    ``missing="keep"`` keeps rows whose files are not there, for callers that count them.
    ``quarantine="honour"`` leaves the clips out that ``oskar check`` has put on the quarantine list, unread.

    Raises:
        InputError: naming file, line, column, value and fix; the first fault ends the reading.
    """
    opened = open_table(data)
    if quarantine == "ignore":
        return _read_rows(opened, split_column, missing)
    ids = read_quarantine(Path(data))
    kept = tuple(cells for cells in opened.table.rows if cells.values.get("clip_id") not in ids)
    if not kept:
        raise InputError(
            f"data {data}: all {len(opened.table.rows)} clips are in quarantine",
            fix="repair them and run oskar check again, or set data.quarantine=ignore",
        )
    manifest = _read_rows(replace(opened, table=replace(opened.table, rows=kept)), split_column, missing)
    return replace(manifest, n_quarantined=len(opened.table.rows) - len(kept))


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTable:
    """The table of a data set before its rows are checked: its folder, and the classes the folder or protocol names."""

    table: Table
    folder: Path
    classes: tuple[str, ...]


def open_table(data: str | Path, faults: dict[str, InputError] | None = None) -> OpenTable:
    """The table of a folder or manifest file, found as ``read_manifest`` says; ``faults`` as in ``list_folder``."""
    source = Path(data)
    if os.path.isfile(source):
        if source.suffix.lower() not in (".csv", ".parquet"):
            raise InputError(
                f"data {source}: a {source.suffix or 'nameless'} file",
                fix="name a folder, a .csv manifest or a .parquet one",
            )
        is_csv = source.suffix.lower() == ".csv"
        table = read_table(source) if is_csv else read_parquet_table(source)
        return OpenTable(table=table, folder=source.parent, classes=read_classes(source.parent))
    if not os.path.isdir(source):
        raise InputError(f"data {source}: does not exist", fix="name a folder, a .csv manifest or people")
    has_index = os.path.lexists(source / INDEX_FILE)
    if not has_index and is_ntu_folder(source):
        return _open_ntu_folder(source, None)
    classes, parquet = read_classes(source), parquet_of(source)
    if parquet is not None:
        table = read_parquet_table(parquet)
    else:
        table = read_table(source / INDEX_FILE) if has_index else list_folder(source, classes, faults)
    return OpenTable(table=table, folder=source, classes=classes)


def read_videos(folder: Path, videos: Sequence[Path]) -> Manifest:
    """Some videos below a folder, with the files beside them, as ``read_manifest`` reads all of a plain folder."""
    classes = read_classes(folder)
    opened = OpenTable(table=list_videos(folder, videos, classes), folder=folder, classes=classes)
    return _read_rows(opened, None, "error")


def read_ntu_folder(
    folder: Path, protocol: NtuProtocol | None = None, *, missing: Literal["error", "keep"] = "error"
) -> Manifest:
    """The samples of an official protocol among ``.skeleton`` files and ``_rgb.avi`` videos of NTU RGB+D.

    See ``list_ntu_folder``. The classes are the names in ``classes.txt``, or A001 and so on; the class is A - 1.

    Raises:
        InputError: as ``read_manifest`` and ``list_ntu_folder``.
    """
    return _read_rows(_open_ntu_folder(folder, protocol), None, missing)


def read_manifests(
    data: Sequence[str | Path],
    *,
    split_column: str | None = None,
    missing: Literal["error", "keep"] = "error",
    read: Callable[[str | Path], Manifest] | None = None,
) -> list[Manifest]:
    """Read several manifests to be pooled: clip ids become ``name/clip_id``, names are told apart by ``~2``, ``~3`` ...

    ``read`` reads one of them, in place of ``read_manifest``.

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
        manifest = read(source) if read else read_manifest(source, split_column=split_column, missing=missing)
        name = free_name(manifest.name, names)
        names.add(name)
        rows, absent = (
            tuple(replace(row, clip_id=f"{name}/{row.clip_id}") for row in some)
            for some in (manifest.rows, manifest.missing_rows)
        )
        manifests.append(replace(manifest, name=name, rows=rows, missing_rows=absent, id_prefix=f"{name}/"))
    return manifests


def free_name(name: str, taken: Collection[str]) -> str:
    """The name itself, or with ``~2``, ``~3`` ... where others have it."""
    free, copy = name, 1
    while free in taken:
        copy += 1
        free = f"{name}~{copy}"
    return free


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
        raise AbsentError(f"data {manifest.folder}: no clip of split {shown(split)}", fix=fix)
    return replace(manifest, rows=rows, missing_rows=tuple(r for r in manifest.missing_rows if r.split == split))


def fingerprint(*manifests: Manifest) -> str:
    """SHA-256 over ids, labels, label ids and splits: independent of the order of rows and of the folder's name."""
    entries = sorted(
        json.dumps([row.clip_id[len(manifest.id_prefix) :], row.label, row.label_id, row.split])
        for manifest in manifests
        for row in manifest.rows
    )
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _open_ntu_folder(folder: Path, protocol: NtuProtocol | None) -> OpenTable:
    table, protocol = list_ntu_folder(folder, protocol)
    return OpenTable(table=table, folder=folder, classes=read_classes(folder) or protocol.classes)


def _read_rows(opened: OpenTable, split_column: str | None, missing: Literal["error", "keep"]) -> Manifest:
    table, folder = opened.table, opened.folder
    real_folder = Path(os.path.realpath(folder))
    files = Files(folder=folder, real_folder=real_folder, is_missing_kept=missing == "keep")
    split_column = choose_split_column(table, split_column)
    rows = read_rows(table, files, split_column)
    rows, classes = _label_rows(rows, table, opened.classes)
    is_index = table.source.name in (INDEX_FILE, INDEX_PARQUET) or table.source == folder
    return Manifest(
        name=real_folder.name if is_index else f"{real_folder.name}.{table.source.stem}",
        folder=folder,
        rows=tuple(flag_composed(rows, table)),
        classes=classes,
        split_column=split_column,
    )


def choose_split_column(table: Table, wanted: str | None) -> str | None:
    """The column of the splits: the wanted one, else ``split`` or ``split1``, else None."""
    if wanted is not None:
        if wanted not in table.columns:
            known = [column for column in table.columns if re.fullmatch(r"split\d*", column)]
            fix = f"use one of {', '.join(known)}" if known else "add the column"
            raise InputError(f"{table.source}: has no column {shown(wanted)} to take the splits from", fix=fix)
        return wanted
    return next((column for column in ("split", "split1") if column in table.columns), None)


def _label_rows(rows: Sequence[Row], table: Table, classes: tuple[str, ...]) -> tuple[list[Row], tuple[str, ...]]:
    classes = classes or order_classes(table.rows)
    id_of = {name: i for i, name in enumerate(classes)}
    ids = [find_class(cells, classes, id_of) for cells in table.rows]
    labelled = [
        row if i is None else replace(row, label=classes[i], label_id=i) for row, i in zip(rows, ids, strict=True)
    ]
    return labelled, classes


def flag_composed(rows: Sequence[Row], table: Table) -> list[Row]:
    """Flag captions of no stated source where the label alone decides them: they would give it away."""
    is_open = [
        "caption_source" not in cells.values and row.caption is not None and row.label is not None
        for row, cells in zip(rows, table.rows, strict=True)
    ]
    captions_of: defaultdict[str | None, set[str | None]] = defaultdict(set)
    for row, is_undecided in zip(rows, is_open, strict=True):
        if is_undecided:
            captions_of[row.label].add(row.caption)
    is_one_each = all(len(captions) == 1 for captions in captions_of.values())
    if not (is_one_each and sum(is_open) > len(captions_of)):
        return list(rows)
    return [
        replace(row, is_caption_composed=True) if is_undecided else row
        for row, is_undecided in zip(rows, is_open, strict=True)
    ]
