"""Values out of JSON files, checked as they are taken."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import read_text, shown
from oskar.errors import InputError

Value = TypeVar("Value")


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError naming file, line and fix."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} line {error.lineno}: not JSON ({error.msg})", fix="write the file again: it may be cut short"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", fix="check its permissions") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply", fix="write the file again") from error


def typed(item: Any, key: str, kind: type[Value], where: str) -> Value:
    """The value under ``key`` of an object, which must be there and of that kind."""
    if not isinstance(item, dict):
        raise InputError(f"{where}: a {type(item).__name__}, not an object", fix=f"write an object with the key {key}")
    value = item.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = f"a {type(value).__name__}" if key in item else "missing"
        raise InputError(f"{where}: {key} is {problem}", fix=f"write a {kind.__name__}")
    return value


def number(value: Any, where: str) -> float:
    """A number; NaN passes, as a missing value is often written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} is {shown(str(value))}, not a number", fix="write a number")
    return float(value)


def numbers(value: Any, where: str, *, count: int | None = None) -> NDArray[np.float64]:
    """A flat list of numbers, of ``count`` of them where it is given."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        problem = f"{len(value)} values" if isinstance(value, list) else f"a {type(value).__name__}"
        wanted = "a list of numbers" if count is None else f"a list of {count} numbers"
        raise InputError(f"{where} is {problem}", fix=f"write {wanted}")
    return np.array([number(v, where) for v in value], dtype=np.float64)


def triples(value: Any, where: str) -> NDArray[np.float64]:
    """A flat list x, y, c, x, y, c, ... as ``[J, 3]``."""
    flat = numbers(value, where)
    if len(flat) == 0 or len(flat) % 3:
        raise InputError(f"{where} holds {len(flat)} numbers", fix="write x, y and confidence of each joint")
    return flat.reshape(-1, 3)


def corners(value: Any, where: str) -> NDArray[np.float64]:
    """x1, y1, x2, y2 of a list x, y, width, height."""
    x, y, width, height = numbers(value, where, count=4)
    return np.array([x, y, x + width, y + height])


def trailing_number(name: str, where: str) -> int:
    """The last whole number in a file's name, without its suffix."""
    found = re.findall(r"[0-9]+", Path(name).stem)
    if not found:
        raise InputError(f"{where}: {shown(name)} holds no frame number", fix="name frames by their number")
    return int(found[-1])


def from_zero(named: dict[Any, int], n_frames: int, first_frame: int | None) -> dict[Any, int]:
    """Frame numbers counted from 0; without ``first_frame`` they count from 1 where frame ``n_frames`` is named."""
    if first_frame is None:
        values = named.values()
        first_frame = 1 if values and min(values) >= 1 and max(values) == n_frames else 0
    return {key: frame - first_frame for key, frame in named.items()}
