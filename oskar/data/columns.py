"""The columns a manifest may have, and reading them from a CSV file without guessing."""

import csv
import difflib
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from oskar.errors import InputError

# fmt: off
ROW_COLUMNS = frozenset(
    (
        "clip_id", "path", "joints_path", "row", "start", "end", "caption", "caption_source", "label",
        "label_id", "group", "subject", "n_frames", "fps", "width", "height", "has_joints",
    )
)
METADATA_COLUMNS = frozenset(
    (
        "action", "actions", "bytes", "camera", "jhmdb_name", "match_dice", "match_margin",
        "mediapipe_missing_frames", "repetition", "setup", "source_path", "source_repository",
        "src_depth_frames", "src_height", "src_skeleton_frames", "src_width", "trial", "view", "viewpoint",
    )
)
# fmt: on
ALIASES: Mapping[str, str] = {"file": "path", "frames": "n_frames"}
OWN_PREFIX = "x_"
_SPLIT = re.compile(r"split\d*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """The non-empty cells of one row by column; ``where`` names the row in errors."""

    where: str
    values: Mapping[str, str]

    def error(self, column: str, problem: str, fix: str) -> InputError:
        """An InputError naming row, column, value and fix."""
        return InputError(f"{self.where}, {column} = {shown(self.values.get(column, ''))}: {problem}", fix=fix)

    def integer(self, column: str, *, minimum: int) -> int | None:
        """The whole number in a column, None where the cell is empty; InputError below ``minimum``."""
        text = self.values.get(column)
        if text is None:
            return None
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or int(text) < minimum:
            raise self.error(column, f"not a whole number of at least {minimum}", "correct the cell, or leave it empty")
        return int(text)

    def positive(self, column: str) -> float | None:
        """The positive finite number in a column, None where the cell is empty."""
        text = self.values.get(column)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise self.error(column, "not a positive number", "correct the cell, or leave it empty")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows as listed; aliases among ``columns`` are replaced."""

    source: Path
    columns: tuple[str, ...]
    rows: tuple[Cells, ...]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped); InputError naming file and line otherwise."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})", fix="check the file and its permissions"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        value = raw[error.start : error.start + 1]
        raise InputError(f"{path} line {line}: not UTF-8 (byte {value!r})", fix="save the file as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path} line {line}: holds a NUL character", fix="save the file as UTF-8 text")
    return text


def read_table(path: Path) -> Table:
    """Read a comma-separated manifest with a header line; empty lines are passed over.

    Where the files are named in a column ``file`` and there is no ``clip_id``, a clip's id is the
    stem of its file, or the whole path where two files share a stem.

    Raises:
        InputError: not UTF-8, not CSV, no header, an unknown or repeated column, a row with too many
            or too few cells, no rows.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: list[Cells] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path} line {reader.line_num}"
            if not columns:
                header = tuple(cell.strip() for cell in cells)
                columns = check_header(header, where)
                continue
            if len(cells) != len(columns):
                raise InputError(
                    f"{where}: {len(cells)} cells, but the header has {len(columns)} columns",
                    fix='put values that hold a comma in "double quotes"',
                )
            values = {column: cell.strip() for column, cell in zip(columns, cells, strict=True) if cell.strip()}
            rows.append(Cells(where=where, values=values))
    except csv.Error as error:
        raise InputError(
            f"{path} line {reader.line_num}: not CSV ({error})", fix="check the quotes of this line and those before it"
        ) from error
    if not columns:
        raise InputError(f"{path}: is empty", fix="start it with a line of column names, such as clip_id,path,label")
    if not rows:
        raise InputError(f"{path}: lists no clip", fix="add one line per clip below the header")
    if "file" in header and "clip_id" not in header:
        rows = _name_by_file(rows)
    return Table(source=path, columns=columns, rows=tuple(rows))


def check_name(name: str, known: Collection[str], where: str, kind: str) -> None:
    """InputError with the nearest known name unless ``name`` is known or starts with ``x_``."""
    if name in known or (name.startswith(OWN_PREFIX) and len(name) > len(OWN_PREFIX)):
        return
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"use some of {', '.join(sorted(known))}"
    raise InputError(
        f"{where}: unknown {kind} {shown(name)}",
        fix=f"{hint} To carry a {kind} of your own along, prefix it: {OWN_PREFIX}{name.strip()[:40]}",
    )


def check_encodable(text: str, where: str) -> str:
    """The text itself; InputError where it holds half characters, which no UTF-8 file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {ascii(text)[:80]} is not UTF-8 text", fix="rename or rewrite it in UTF-8"
        ) from error
    return text


def shown(text: str) -> str:
    """A value for an error message, cut to 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _name_by_file(rows: list[Cells]) -> list[Cells]:
    files = [cells.values.get("path", "") for cells in rows]
    uses = Counter(Path(file).stem for file in files)
    ids = [Path(file).stem if uses[Path(file).stem] == 1 else file for file in files]
    return [
        Cells(where=cells.where, values={"clip_id": clip_id, **cells.values} if clip_id else cells.values)
        for cells, clip_id in zip(rows, ids, strict=True)
    ]


def check_header(header: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The columns' names without aliases; InputError for an unknown or repeated one."""
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        raise InputError(f"{where}: the header {shown(header[0])} has one column", fix="separate the columns by commas")
    known = ROW_COLUMNS | METADATA_COLUMNS | set(ALIASES) | {"split"}
    for name in header:
        if not _SPLIT.fullmatch(name):
            check_name(name, known, where, "column")
    columns = tuple(ALIASES.get(name, name) for name in header)
    for i, name in enumerate(columns):
        if name in columns[:i]:
            raise InputError(
                f"{where}: column {name!r} is there twice (file means path, frames means n_frames)",
                fix="keep one of the two",
            )
    return columns
