"""The clips of a reader that can be used: one that was read but has nothing to see is listed, as one that was not."""

from collections.abc import Callable, Sequence

from torch import Tensor

from oskar.clip import ClipBatch
from oskar.data.reader import ClipReader, Draw, ReadClips
from oskar.randomness import hash_id


class UsableReader:
    """Reads as ``reader`` does and leaves out the clips for which ``is_usable`` says no, with ``reason``."""

    def __init__(self, reader: ClipReader, is_usable: Callable[[ClipBatch], Tensor], reason: str) -> None:
        self._reader, self._is_usable, self._reason = reader, is_usable, reason
        self.classes = reader.classes

    def __len__(self) -> int:
        return len(self._reader)

    def clip_id(self, index: int) -> str:
        return self._reader.clip_id(index)

    def label(self, index: int) -> int:
        return self._reader.label(index)

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        read = self._reader.read(indices, draw)
        if read.clips is None:
            return read
        is_usable = self._is_usable(read.clips)
        if bool(is_usable.all()):
            return read
        names = {hash_id(self.clip_id(i)): self.clip_id(i) for i in indices}
        dropped = dict.fromkeys(names[number] for number in read.clips.clip_ids[~is_usable].tolist())
        bad = (*read.bad, *((name, self._reason) for name in dropped))
        return ReadClips(read.clips.rows(is_usable) if bool(is_usable.any()) else None, bad)
