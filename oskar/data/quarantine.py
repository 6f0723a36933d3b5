"""The quarantine list: clips that an audit found to be of no use, and that pretraining leaves out."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from oskar.data.columns import read_text
from oskar.errors import InputError
from oskar.files import write_text_atomic

QUARANTINE_FILE = "quarantine.csv"
_COLUMNS = ("clip_id", "kind", "reason")


def quarantine_path(source: Path) -> Path:
    """Where the list of a folder or of its index lies; that of another manifest carries its name."""
    if os.path.isdir(source) or source.name == "index.csv":
        return (source if os.path.isdir(source) else source.parent) / QUARANTINE_FILE
    return source.with_name(f"{source.stem}.{QUARANTINE_FILE}")


def write_quarantine(path: Path, entries: Iterable[tuple[str, str, str]]) -> int:
    """Write clip ids with kind and reason, the first of each id, or remove a list that has become empty.

    Returns the number of clips in it.
    """
    first: dict[str, tuple[str, str, str]] = {}
    for entry in entries:
        first.setdefault(entry[0], entry)
    if not first:
        path.unlink(missing_ok=True)
        return 0
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(entry for _, entry in sorted(first.items()))
    write_text_atomic(path, text.getvalue())
    return len(first)


def read_quarantine(source: Path) -> frozenset[str]:
    """The ids that a data set's quarantine list holds, none where there is no list.

    Raises:
        InputError: a list that is no list of clip ids.
    """
    path = quarantine_path(source)
    if not path.is_file():
        return frozenset()
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error})", fix="run oskar check again, or remove the file") from error
    ids = [row.get("clip_id") for row in rows]
    if any(not clip_id for clip_id in ids):
        raise InputError(f"{path}: has a line without clip_id", fix="run oskar check again, or remove the file")
    return frozenset(clip_id for clip_id in ids if clip_id)
