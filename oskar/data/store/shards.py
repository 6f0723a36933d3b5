"""The shards of a store: found or fetched when a clip of theirs is asked for, mapped, and checked token by token."""

import zlib
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.data.store.arrays_file import ArraysFile
from oskar.data.store.index import StoreIndex
from oskar.data.store.place import StorePlace
from oskar.errors import InputError

MAX_MAPPED = 64  # shards that a process keeps mapped


class Shards:
    """Rows of the shards by number.

    A video row is one token of one view of one clip: ``((clip * views + view) * places + place) * steps + step``,
    so that the tokens of a tube lie together. A skeleton row is one view of one clip.
    """

    def __init__(self, place: StorePlace, index: StoreIndex) -> None:
        self._place, self._index = place, index
        self._mapped: OrderedDict[int, ArraysFile] = OrderedDict()

    @property
    def n_steps(self) -> int:
        return self._index.n_steps

    @property
    def n_places(self) -> int:
        return self._index.n_places

    @property
    def views(self) -> int:
        return self._index.views

    @property
    def type(self) -> str:
        return self._index.tokenizer.type

    @property
    def width(self) -> int:
        return self._index.tokenizer.width

    def open(self, shard: int) -> ArraysFile:
        """The mapped shard; raises InputError that names it where it is missing or damaged."""
        found = self._mapped.get(shard)
        if found is None:
            facts = self._index.shards[shard]
            found = ArraysFile(self._place.fetch(facts), facts.bytes)
            while len(self._mapped) >= MAX_MAPPED:
                self._mapped.popitem(last=False)
            self._mapped[shard] = found
        self._mapped.move_to_end(shard)
        return found

    def tokens(self, shard: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of video rows ``[n, P]``.

        Raises:
            DamagedRowsError: some are not what was written.
        """
        file = self.open(shard)
        values = _flat(file, "video", 4)[rows]
        checks = file.arrays["video_crc"].reshape(-1)[rows]
        file.forget_pages()
        _require_intact(file, values, checks)
        return values

    def people(self, shard: int, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Joints ``[S, 17, T, 3]`` and boxes ``[S, T, 4]`` of a skeleton row; raises DamagedRowsError."""
        file = self.open(shard)
        joints = np.array(_flat(file, "joints", 2)[row])
        boxes = np.array(_flat(file, "boxes", 2)[row])
        expected = int(file.arrays["skeleton_crc"].reshape(-1)[row])
        file.forget_pages()
        if people_crc(joints, boxes) != expected:
            raise DamagedRowsError(file, np.array([True]))
        return joints, boxes

    def contrast(self, shard: int, row: int) -> NDArray[np.uint8]:
        """Range of the pixels of each token ``[places, steps]`` of one view of a clip."""
        file = self.open(shard)
        found = np.array(_flat(file, "contrast", 2)[row])
        file.forget_pages()
        return found


class DamagedRowsError(InputError):
    """Rows of a shard that differ from what was written; ``is_damaged`` bool ``[n]`` says which of those asked for."""

    def __init__(self, file: ArraysFile, is_damaged: NDArray[np.bool_]) -> None:
        super().__init__(f"{file.path}: damaged (a checksum differs)", fix="copy the shard again, or make it anew")
        self.is_damaged = is_damaged


def token_crc(rows: NDArray[Any]) -> NDArray[np.uint32]:
    """CRC-32 of every row of a contiguous array."""
    return np.fromiter(map(zlib.crc32, rows), np.uint32, len(rows))


def people_crc(joints: NDArray[np.float32], boxes: NDArray[np.float32]) -> int:
    """CRC-32 of the people of one view of a clip."""
    return zlib.crc32(boxes.tobytes(), zlib.crc32(joints.tobytes()))


def _flat(file: ArraysFile, name: str, n_axes: int) -> NDArray[Any]:
    array = file.arrays[name]
    return array.reshape(-1, *array.shape[n_axes:])


def _require_intact(file: ArraysFile, values: NDArray[Any], expected: NDArray[np.uint32]) -> None:
    is_damaged = token_crc(values) != expected
    if is_damaged.any():
        raise DamagedRowsError(file, is_damaged)
