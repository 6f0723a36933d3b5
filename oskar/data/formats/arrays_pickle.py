"""Official pickles: arrays and plain values, read without running anything that the file names.

Nothing of NumPy is handed to the pickle either, since a forged dtype state can corrupt memory. The
few globals that arrays need are answered by stand-ins, and arrays are built here from their bytes.
"""

import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from oskar.errors import InputError

_NUMPY = ("numpy.core", "numpy._core")  # NumPy 1 and 2 name their insides differently
_BUILTINS = ("builtins", "__builtin__")  # protocols below 3 write the second
_DTYPE = re.compile(r"[biufc][0-9]{1,2}|[SU][0-9]{1,9}")
_PLAIN = (str, bytes, bool, int, float, type(None), np.ndarray, np.generic)
_MALFORMED = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError),
    *(OverflowError, RecursionError, MemoryError),
)
_FIX = "fetch the file again, or convert it to arrays, dicts, lists, tuples, texts and numbers"


def load_array_pickle(path: Path) -> object:
    """The object in a pickle of any protocol, written under NumPy 1 or 2, by Python 3 or 2.

    Allowed are dict, list, tuple, str, bytes, int, float, bool, None, and arrays and scalars of
    numbers, booleans and text. Texts of Python 2 are UTF-8, or Latin-1 where the file holds a text
    or array that is not UTF-8.

    Raises:
        InputError: the file cannot be read, is no whole pickle, names any other global, or holds any
            other type.
    """
    try:
        with path.open("rb") as stream:
            try:
                return _load(stream, path, encoding="utf-8")
            except UnicodeError:
                stream.seek(0)
                return _load(stream, path, encoding="latin1")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror})", fix="check the file and its permissions"
        ) from error
    except _MALFORMED as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole pickle of arrays ({reason})", fix=_FIX) from error


def _load(stream: IO[bytes], path: Path, *, encoding: str) -> object:
    loaded = _ArrayUnpickler(stream, path, encoding=encoding).load()
    return _finished(loaded, path, {})


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], path: Path, *, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self._path = path
        # Python 2 wrote the bytes of arrays as text, which only Latin-1 gives back whole
        to_bytes = partial(_to_bytes, encoding="latin1" if encoding == "latin1" else "ascii")
        calls: dict[tuple[str, str], Callable[..., object]] = {
            ("numpy", "ndarray"): _never,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _encode,
            **{(module, "bytes"): _no_bytes for module in _BUILTINS},
            **{(f"{root}.multiarray", "_reconstruct"): partial(_Array, to_bytes) for root in _NUMPY},
            **{(f"{root}.multiarray", "scalar"): partial(_scalar, to_bytes) for root in _NUMPY},
            **{(f"{root}.numeric", "_frombuffer"): _from_buffer for root in _NUMPY},
        }
        self._calls = calls

    def find_class(self, module: str, name: str) -> "_Global":
        if (module, name) not in self._calls:
            raise InputError(f"{self._path}: the pickle names {module}.{name}, which could run anything", fix=_FIX)
        return _Global(self._calls[module, name])


class _Global:
    """What a pickle gets for a name: it can call it and do nothing else with it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle may not change what it names")


class _Dtype:
    """A type of numbers, booleans or text whose byte order arrives after it was made."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not _DTYPE.fullmatch(text):
            raise ValueError(f"an array of type {text!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """``(version, byte order, subarray, names, fields, ...)``: what follows is implied by the code."""
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise ValueError(f"an array of type {self.dtype} with {state[1:5]}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array whose shape, type and bytes arrive after it was made."""

    __slots__ = ("_to_bytes", "array")

    def __init__(self, to_bytes: Callable[[object], bytes | bytearray], *made_as: object) -> None:
        self._to_bytes = to_bytes
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _from_buffer(self._to_bytes(data), dtype, shape, "F" if is_fortran else "C")


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: Literal["C", "F"]) -> NDArray[Any]:
    """A writable array of its own, whose size NumPy checks against the bytes."""
    shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if order not in ("C", "F") or any(not isinstance(n, int) or n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape}, order {order!r}")
    is_empty_text = shape == () and dtype.dtype.itemsize == 0
    if len(data) == 0 and (0 in shape or is_empty_text):
        return np.zeros(shape, dtype.dtype)
    return np.frombuffer(data, dtype.dtype).copy().reshape(shape, order=order)


def _scalar(to_bytes: Callable[[object], bytes | bytearray], dtype: _Dtype, data: object) -> object:
    return _from_buffer(to_bytes(data), dtype, (), "C")[()]


def _to_bytes(data: object, *, encoding: str) -> bytes | bytearray:
    if isinstance(data, str):
        return data.encode(encoding)
    if isinstance(data, bytes | bytearray):
        return data
    raise ValueError(f"an array whose values are a {type(data).__name__}")


def _encode(text: str, codec: str) -> bytes:
    """How protocols below 3 store bytes."""
    if codec not in ("latin1", "latin-1"):
        raise ValueError(f"bytes stored as {codec!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols below 3 store empty bytes."""
    return b""


def _never(*args: object) -> object:
    raise ValueError("an array that is made by hand")


def _finished(value: object, path: Path, done: dict[int, tuple[object, object]]) -> object:
    """The value with arrays in place of their stand-ins; ``done`` also keeps what its keys are ids of."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if id(value) in done:
        return done[id(value)][1]
    result: object = value
    if isinstance(value, list):
        done[id(value)] = value, value
        value[:] = [_finished(item, path, done) for item in value]
    elif isinstance(value, dict):
        done[id(value)] = value, value
        items = [(_finished(key, path, done), _finished(item, path, done)) for key, item in value.items()]
        value.clear()
        value.update(items)
    elif isinstance(value, tuple):
        result = tuple(_finished(item, path, done) for item in value)
        done[id(value)] = value, result
    else:
        raise InputError(f"{path}: the pickle holds a {type(value).__name__.lstrip('_')}", fix=_FIX)
    return result
