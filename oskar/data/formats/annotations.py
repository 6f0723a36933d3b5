"""Annotation files of video-text data sets as records whose errors name file, place, key and fix."""

import csv
import io
import json
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from oskar.data.columns import check_encodable, read_text, shown
from oskar.errors import InputError

_OFFICIAL = "fetch the official file again, or correct this entry"
_Key = TypeVar("_Key", bound=Hashable)


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry of a file by key; ``where`` names file and place."""

    where: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The text under a key without outer whitespace; InputError if it is absent, empty or no text."""
        return one_text(self._value(key), f"{self.where}, {key}")

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of a list that is not empty."""
        return several_texts(self._value(key), f"{self.where}, {key}")

    def number(self, key: str) -> int:
        """The whole number of at least 0 under a key."""
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(key, "not a whole number of at least 0")
        return value

    def error(self, key: str, problem: str, fix: str = _OFFICIAL) -> InputError:
        """An InputError naming place, key and value."""
        return InputError(f"{self.where}, {key} = {shown(repr(self.values[key]))}: {problem}", fix=fix)

    def _value(self, key: str) -> object:
        if key not in self.values:
            raise InputError(f"{self.where}: has no {key!r}, only {', '.join(map(repr, self.values))}", fix=_OFFICIAL)
        return self.values[key]


def one_text(value: object, where: str) -> str:
    """A text without outer whitespace; InputError if it is something else, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} = {shown(repr(value))}: not a text, or an empty one", fix=_OFFICIAL)
    return check_encodable(value.strip(), where)


def several_texts(value: object, where: str) -> tuple[str, ...]:
    """The texts of a list that is not empty."""
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} = {shown(repr(value))}: not a list of texts, or an empty one", fix=_OFFICIAL)
    return tuple(one_text(item, f"{where}[{i}]") for i, item in enumerate(value))


def read_json(path: Path) -> object:
    """The value in a JSON file; InputError naming the line otherwise."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg})", fix=_OFFICIAL) from error


def read_object(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not an object", fix="name another file")
    return value


def records(value: object, where: str) -> tuple[Record, ...]:
    """The objects of a list that is not empty, named ``where[i]``."""
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: a {type(value).__name__}, not a list of objects, or an empty one", fix=_OFFICIAL)
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise InputError(f"{where}[{i}] = {shown(repr(item))}: not an object", fix=_OFFICIAL)
    return tuple(Record(where=f"{where}[{i}]", values=item) for i, item in enumerate(value))


def read_json_lines(path: Path) -> tuple[Record, ...]:
    """One object a line; empty lines are passed over."""
    found: list[Record] = []
    for i, line in enumerate(read_text(path).split("\n")):
        if not line.strip():
            continue
        where = f"{path} line {i + 1}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg})", fix=_OFFICIAL) from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: holds a {type(value).__name__}, not an object", fix=_OFFICIAL)
        found.append(Record(where=where, values=value))
    return _not_empty(found, path)


def read_columns(path: Path, columns: Collection[str], *, separator: Literal[",", "\t"]) -> tuple[Record, ...]:
    """The rows of a file with a header that names at least ``columns``; only commas know quotes."""
    dialect = csv.excel if separator == "," else _Tabs
    reader = csv.reader(io.StringIO(read_text(path), newline=""), dialect, strict=True)
    header: list[str] = []
    found: list[Record] = []
    try:
        for cells in reader:
            where = f"{path} line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(header, columns, separator, where)
            elif len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells, the header has {len(header)}", fix=_OFFICIAL)
            else:
                found.append(Record(where=where, values=dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: not a table ({error})", fix=_OFFICIAL) from error
    return _not_empty(found, path)


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids of a list file, one a line, with or without a header ``video_id``; InputError for one that is twice."""
    lines = [(line.strip(), f"{path} line {i + 1}") for i, line in enumerate(read_text(path).splitlines())]
    ids = [(name, where) for name, where in lines if name]
    if ids and ids[0][0] == "video_id":
        del ids[0]
    check_unique(ids, "id")
    return _not_empty([name for name, _ in ids], path)


def check_unique(named: Iterable[tuple[_Key, str]], kind: str) -> None:
    """InputError naming both places if one of the (name, where) is there twice."""
    first: dict[_Key, str] = {}
    for name, where in named:
        if name in first:
            raise InputError(f"{where}: {kind} {shown(str(name))} is in {first[name]} too", fix="keep one of the two")
        first[name] = where


_Item = TypeVar("_Item")


def _not_empty(found: list[_Item], path: Path) -> tuple[_Item, ...]:
    if not found:
        raise InputError(f"{path}: lists nothing", fix="fetch the official file again")
    return tuple(found)


def _check_header(header: list[str], columns: Collection[str], separator: str, where: str) -> None:
    absent = [column for column in columns if column not in header]
    if absent or len(set(header)) < len(header):
        kind = "commas" if separator == "," else "tabs"
        raise InputError(
            f"{where}: the header is {shown(separator.join(header))}, without {', '.join(absent) or 'distinct names'}",
            fix=f"start the file with a line that has {', '.join(columns)}, separated by {kind}",
        )
