"""The rows of a data set with every fault of its list, where reading it to train would end at the first."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from oskar.data.audit.findings import Finding, Kind
from oskar.data.columns import Cells, Table
from oskar.data.labels import find_class, order_classes
from oskar.data.manifest import OpenTable, choose_split_column, flag_composed, open_table
from oskar.data.rows import Files, Row, read_rows
from oskar.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The rows that can be read; ``findings`` are the faults of the list and of the others.

    ``empty_captions`` are clips whose caption is empty while others have one.
    """

    folder: Path
    source: Path
    rows: tuple[Row, ...]
    n_listed: int
    findings: tuple[Finding, ...]
    empty_captions: tuple[str, ...]


def list_clips(data: str | Path, split_column: str | None = None) -> Listing:
    """Read the list row by row.

    Raises:
        InputError: the data is not there, or ``split_column`` is not in it.
    """
    faults: dict[str, InputError] = {}
    if not os.path.exists(data):
        open_table(data)  # raises
    try:
        opened = open_table(data, faults)
    except InputError as error:
        folder = Path(data) if os.path.isdir(data) else Path(data).parent
        return Listing(
            folder=folder,
            source=Path(data),
            rows=(),
            n_listed=0,
            findings=(_fault("index", None, error),),
            empty_captions=(),
        )
    split_column = choose_split_column(opened.table, split_column)
    found = [_fault("row", clip_id, error) for clip_id, error in faults.items()]
    good, rows = _readable(opened, split_column, found)
    rows, good = _labelled(rows, good, opened.classes, found)
    if rows:
        rows = flag_composed(rows, replace(opened.table, rows=tuple(good)))
    has_captions = any(row.caption is not None for row in rows)
    return Listing(
        folder=opened.folder,
        source=opened.table.source,
        rows=tuple(rows),
        n_listed=len(opened.table.rows),
        findings=tuple(found),
        empty_captions=tuple(row.clip_id for row in rows if has_captions and row.caption is None),
    )


def _readable(opened: OpenTable, split_column: str | None, found: list[Finding]) -> tuple[list[Cells], list[Row]]:
    """The rows that can be read each for itself, and their cells; the faults of the others are added."""
    files = Files(folder=opened.folder, real_folder=Path(os.path.realpath(opened.folder)), is_missing_kept=False)
    where_of: dict[str, str] = {}
    good: list[Cells] = []
    rows: list[Row] = []
    for cells in opened.table.rows:
        clip_id = cells.values.get("clip_id")
        try:
            row = read_rows(
                Table(source=opened.table.source, columns=opened.table.columns, rows=(cells,)), files, split_column
            )[0]
            if row.clip_id in where_of:
                raise cells.error("clip_id", f"is also in {where_of[row.clip_id]}", "give every clip its own id")
        except InputError as error:
            # an id that is there twice cannot be left out by its id
            found.append(_fault("row", clip_id if clip_id not in where_of else None, error))
            continue
        where_of[row.clip_id] = cells.where
        good.append(cells)
        rows.append(row)
    return good, rows


def _labelled(
    rows: list[Row], good: list[Cells], classes: tuple[str, ...], found: list[Finding]
) -> tuple[list[Row], list[Cells]]:
    """The rows with their classes; a row with a label that is none is left out and added to the faults."""
    try:
        classes = classes or order_classes(good)
    except InputError as error:
        found.append(_fault("index", None, error))
        return rows, good
    id_of = {name: i for i, name in enumerate(classes)}
    labelled: list[Row] = []
    kept: list[Cells] = []
    for row, cells in zip(rows, good, strict=True):
        try:
            index = find_class(cells, classes, id_of)
        except InputError as error:
            found.append(_fault("row", row.clip_id, error))
            continue
        labelled.append(row if index is None else replace(row, label=classes[index], label_id=index))
        kept.append(cells)
    return labelled, kept


def _fault(kind: Kind, clip_id: str | None, error: InputError) -> Finding:
    ids = () if clip_id is None else (clip_id,)
    return Finding(kind=kind, clip_ids=ids, message=error.what, fix=error.fix, quarantined=ids)
