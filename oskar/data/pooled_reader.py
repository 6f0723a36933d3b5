"""Several readers as one, their clips one after the other; modalities, layouts and lengths may differ."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.data.order import InBlocks
from oskar.data.reader import ClipReader, Draw, ReadClips
from oskar.data.store.tubelets import StoredTubelets, join_tubelets


class PooledReader:
    """The union of readers; it has no classes of its own, since those of its parts do not agree."""

    classes: tuple[str, ...] = ()

    def __init__(self, readers: Sequence[ClipReader]) -> None:
        self._readers = tuple(readers)
        self._ends = list(accumulate(len(reader) for reader in readers))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Runs of clips to read together: those of the parts, a part that has none being cut into runs like theirs."""
        given = [n for part in self._readers if isinstance(part, InBlocks) for n in part.blocks]
        if not given:
            return ()
        size = max(given)
        runs: list[int] = []
        for part in self._readers:
            own = part.blocks if isinstance(part, InBlocks) else ()
            runs += own or [min(size, len(part) - start) for start in range(0, len(part), size)]
        return tuple(runs)

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[int, int]:
        which = bisect_right(self._ends, index)
        return which, index - (self._ends[which - 1] if which else 0)

    def clip_id(self, index: int) -> str:
        which, place = self._find(index)
        return self._readers[which].clip_id(place)

    def label(self, index: int) -> int:
        return -1

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        places: dict[int, list[int]] = {}
        for index in indices:
            which, place = self._find(index)
            places.setdefault(which, []).append(place)
        reads = [self._readers[which].read(some, draw) for which, some in sorted(places.items())]
        batches = [read.clips for read in reads if read.clips is not None]
        bad = tuple(entry for read in reads for entry in read.bad)
        return ReadClips(concatenate(batches) if batches else None, bad)


def concatenate(batches: Sequence[ClipBatch]) -> ClipBatch:
    """One batch of several; a modality that a batch lacks is absent in its clips."""
    sizes = [len(batch) for batch in batches]

    def joined(parts: list[Tensor | None], fill: int = 0) -> Tensor | None:
        example = next((part for part in parts if part is not None), None)
        if example is None:
            return None
        shape = example.shape[1:]
        filled = [
            example.new_full((n, *shape), fill) if part is None else part for n, part in zip(sizes, parts, strict=True)
        ]
        return torch.cat(filled)

    return ClipBatch(
        clip_ids=torch.cat([b.clip_ids for b in batches]),
        labels=torch.full((sum(sizes),), -1),
        frames=joined([b.frames for b in batches]),
        has_video=joined([b.has_video for b in batches]),
        joints=joined([b.joints for b in batches]),
        boxes=joined([b.boxes for b in batches]),
        has_skeleton=joined([b.has_skeleton for b in batches]),
        word_ids=joined([b.word_ids for b in batches], fill=-1),
        tubelets=join_tubelets(
            [b.tubelets if isinstance(b.tubelets, StoredTubelets) else None for b in batches], sizes
        ),
    )
