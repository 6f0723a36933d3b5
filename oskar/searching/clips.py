"""What is known of the indexed clips, in SQLite: filters on any column, and words looked up in captions."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from oskar.errors import InputError

# Name, type and index of the columns that every index has; a manifest's further columns follow as text.
COLUMNS = {
    "clip_id": "TEXT", "path": "TEXT", "folder": "TEXT", "window": "INTEGER", "start_seconds": "REAL",
    "end_seconds": "REAL", "fps": "REAL", "stride_frames": "REAL", "caption": "TEXT", "label": "TEXT",
    "label_id": "INTEGER", "subject": "TEXT", "split": "TEXT", "source_sha256": "TEXT",
}  # fmt: skip
_WORD = re.compile(r"\w+")
_FIX_INDEX = "write the index again with `oskar index`"

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which clips to search among: ``where`` is a condition in SQL, ``equal`` pairs of column and value."""

    where: str | None = None
    equal: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self.where is not None or bool(self.equal)


def write_clips(path: Path, rows: Sequence[Values], columns: Sequence[str]) -> None:
    """Write a new file of rows 0, 1, ...; ``columns`` are those beside ``COLUMNS``."""
    names = [*COLUMNS, *columns]
    typed = [f"{_quoted(name)} {COLUMNS.get(name, 'TEXT')}" for name in names]
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(f"CREATE TABLE clips (row INTEGER PRIMARY KEY, {', '.join(typed)})")
        try:
            base.execute("CREATE VIRTUAL TABLE captions USING fts5(caption, tokenize='porter unicode61')")
        except sqlite3.OperationalError as error:
            raise InputError(
                f"the SQLite {sqlite3.sqlite_version} of this Python has no full-text search ({error})",
                fix="use a Python whose sqlite3 has FTS5, as those of python.org, conda and Debian have",
            ) from error
        places = ", ".join("?" * (len(names) + 1))
        values = ((i, *(row.get(name) for name in names)) for i, row in enumerate(rows))
        base.executemany(f"INSERT INTO clips VALUES ({places})", values)
        base.execute("INSERT INTO captions(rowid, caption) SELECT row, caption FROM clips WHERE caption IS NOT NULL")
        for name in ("label", "clip_id"):
            base.execute(f"CREATE INDEX {_quoted('by_' + name)} ON clips({_quoted(name)})")


class Clips:
    """The rows of an index, opened read-only; may be used by several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        with self._errors("open"):
            self._base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            described = self._base.execute("SELECT * FROM clips LIMIT 0").description
        self.columns = tuple(name for name, *_ in described if name != "row")

    def close(self) -> None:
        self._base.close()

    def fetch(self, row_idx: Sequence[int]) -> list[Values]:
        """The values of some rows, in the order asked for."""
        found: dict[int, Values] = {}
        for start in range(0, len(row_idx), 500):
            some = [int(i) for i in row_idx[start : start + 500]]
            query = f"SELECT * FROM clips WHERE row IN ({', '.join('?' * len(some))})"
            found |= {
                values[0]: dict(zip(("row", *self.columns), values, strict=True)) for values in self._all(query, some)
            }
        return [found[int(i)] for i in row_idx]

    def allowed(self, filters: Filters) -> list[int]:
        """The rows that pass, in order.

        Raises:
            InputError: an unknown column, or a condition that SQL cannot read.
        """
        for column, _ in filters.equal:
            self.require_column(column)
        parts = [f"{_quoted(column)} = ?" for column, _ in filters.equal]
        if filters.where is not None:
            parts.append(f"({filters.where}\n)")  # a comment in it ends with the line
        query = f"SELECT row FROM clips WHERE {' AND '.join(parts) or '1'} ORDER BY row"
        try:
            return [row for (row,) in self._all(query, [value for _, value in filters.equal])]
        except sqlite3.Error as error:
            raise InputError(
                f"--where {filters.where!r} is no condition on the clips ({error})",
                fix=f"write SQL such as \"label = 'kick'\"; the columns are {', '.join(self.columns)}",
            ) from error

    def by_words(self, text: str, n_top: int, allowed_idx: Sequence[int] | None = None) -> list[tuple[int, float]]:
        """Rows whose captions share words with ``text`` and their scores (BM25, larger is better), best first.

        Word endings of English are ignored. No encoder has a part in this.
        """
        words = _WORD.findall(text)
        if not words:
            raise InputError(f"--captions {text!r} holds no word", fix="write words that a caption may hold")
        wanted = " OR ".join(f'"{word}"' for word in words)
        query = "SELECT rowid, -bm25(captions) FROM captions WHERE captions MATCH ? ORDER BY bm25(captions), rowid"
        allowed = None if allowed_idx is None else frozenset(allowed_idx)
        found = (pair for pair in self._all(query, [wanted]) if allowed is None or pair[0] in allowed)
        return [(row, score) for (row, score), _ in zip(found, range(n_top), strict=False)]

    def values_of(self, column: str, most: int) -> list[str]:
        """The different values of a column, the most frequent first."""
        self.require_column(column)
        name = _quoted(column)
        query = (
            f"SELECT {name} FROM clips WHERE {name} IS NOT NULL GROUP BY {name} ORDER BY count(*) DESC, {name} LIMIT ?"
        )
        return [str(value) for (value,) in self._all(query, [most])]

    def rows_of_clip(self, clip_id: str) -> list[int]:
        """The rows of one clip, in the order of its windows."""
        return [row for (row,) in self._all("SELECT row FROM clips WHERE clip_id = ? ORDER BY window, row", [clip_id])]

    def require_column(self, column: str) -> None:
        if column not in self.columns:
            raise InputError(f"the index has no column {column!r}", fix=f"use one of {', '.join(self.columns)}")

    def _all(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self._path}: cannot {what} ({error})", fix=_FIX_INDEX) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


__all__ = ["COLUMNS", "Clips", "Filters", "Values", "write_clips"]
