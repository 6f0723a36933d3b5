"""Many short texts as two arrays: their bytes one after the other, and where each begins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.data.store.arrays_file import Column


@dataclass(frozen=True, slots=True)
class Texts:
    """Text i is bytes ``offsets[i]`` to ``offsets[i + 1]`` in UTF-8; an empty one stands for none."""

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()


def text_columns(name: str, texts: Iterable[str]) -> dict[str, Column]:
    """The two columns of a list of texts."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return {f"{name}_offsets": Column("I64", (), [offsets]), f"{name}_bytes": Column("U8", (), [data])}


def texts_of(arrays: Mapping[str, NDArray[Any]], name: str) -> Texts:
    """The texts in two columns of a file."""
    return Texts(arrays[f"{name}_offsets"], arrays[f"{name}_bytes"])
