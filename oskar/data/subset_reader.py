"""Some clips of a reader, as a reader."""

from collections.abc import Collection, Sequence

from oskar.data.reader import ClipReader, Draw, ReadClips


class SubsetReader:
    """The clips of ``reader`` that have a class and, where ``ids`` are given, are among them; the order stays."""

    def __init__(self, reader: ClipReader, ids: Collection[str] | None = None) -> None:
        self._reader = reader
        self.classes = reader.classes
        wanted = None if ids is None else frozenset(ids)
        self._indices = [
            i for i in range(len(reader)) if reader.label(i) >= 0 and (wanted is None or reader.clip_id(i) in wanted)
        ]

    def __len__(self) -> int:
        return len(self._indices)

    def clip_id(self, index: int) -> str:
        return self._reader.clip_id(self._indices[index])

    def label(self, index: int) -> int:
        return self._reader.label(self._indices[index])

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        return self._reader.read([self._indices[i] for i in indices], draw)
