"""Files of plain arrays: safetensors whose data starts on a page, written in pieces and mapped into memory.

Any reader of safetensors opens them. They are mapped, so that only the pages of the rows asked for are read.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from oskar.errors import InputError

PAGE_BYTES = 4096
Kind = Literal["U8", "U32", "I16", "I32", "I64", "BF16", "F16", "F32"]
# bfloat16 has no numpy type: its bits pass as unsigned 16-bit numbers.
NUMPY_TYPES: Mapping[Kind, str] = {
    "U8": "u1", "U32": "<u4", "I16": "<i2", "I32": "<i4", "I64": "<i8", "BF16": "<u2", "F16": "<f2", "F32": "<f4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """An array to write, given as its parts along the first axis; ``item`` is the shape of one entry of it."""

    kind: Kind
    item: tuple[int, ...]
    parts: Sequence[NDArray[Any]]

    @property
    def n_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def write_arrays(path: Path, columns: Mapping[str, Column]) -> None:
    """Write a file in place and flush it; the first column starts on a page, the others follow without gaps.

    The caller writes beside the final name and renames.
    """
    header: dict[str, object] = {}
    start = 0
    for name, column in columns.items():
        width = np.dtype(NUMPY_TYPES[column.kind]).itemsize * math.prod(column.item)
        entry = {
            "dtype": column.kind,
            "shape": [column.n_bytes // width, *column.item],
            "data_offsets": [start, start + column.n_bytes],
        }
        header[name] = entry
        start += column.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    size = PAGE_BYTES * math.ceil((8 + len(text)) / PAGE_BYTES) - 8
    with path.open("wb") as file:
        file.write(size.to_bytes(8, "little") + text.ljust(size))  # safetensors lets spaces follow the header
        for column in columns.values():
            for part in column.parts:
                file.write(np.ascontiguousarray(part, NUMPY_TYPES[column.kind]).data)
        file.flush()
        os.fsync(file.fileno())


class ArraysFile:
    """A mapped file of arrays: ``arrays[name]`` are views of it, not to be written to.

    ``expected_bytes`` is the size that the index of the store states.

    Raises:
        InputError: the file is not there, has another size, or is no such file.
    """

    def __init__(self, path: Path, expected_bytes: int) -> None:
        try:
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                if n_bytes != expected_bytes:
                    raise _broken(path, f"{n_bytes} bytes, {expected_bytes} were written")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _broken(path, error.strerror or str(error)) from error
        # Chosen rows lie far apart: what the system would read ahead is not wanted.
        self._advise("MADV_RANDOM")
        self.path = path
        try:
            self.arrays = self._views()
        except (ValueError, KeyError, TypeError) as error:
            raise _broken(path, f"its header cannot be read ({error!r})") from error

    def _views(self) -> dict[str, NDArray[Any]]:
        size = int.from_bytes(self._map[:8], "little")
        views: dict[str, NDArray[Any]] = {}
        for name, entry in json.loads(self._map[8 : 8 + size]).items():
            kind: Kind = entry["dtype"]
            start, end = entry["data_offsets"]
            data = np.frombuffer(self._map, np.uint8, end - start, 8 + size + start)
            views[name] = data.view(NUMPY_TYPES[kind]).reshape(entry["shape"])
        return views

    def forget_pages(self) -> None:
        """Take the pages that were read out of this process, so that it does not grow to the size of the file.

        They stay in the system's cache of files.
        """
        self._advise("MADV_DONTNEED")

    def _advise(self, name: str) -> None:
        advice = getattr(mmap, name, None)  # not on every system
        if advice is not None and len(self._map):
            self._map.madvise(advice)


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: missing or damaged ({what})", fix="copy the file again, or make the store anew")
