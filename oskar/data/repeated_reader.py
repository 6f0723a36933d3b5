"""Repeated augmentation (Hoffer et al. 2020): each clip several times in a batch, each time seen otherwise."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from oskar.clip import ClipBatch
from oskar.data.reader import ClipReader, Draw, ReadClips, TrainingDraw

_SEED_STRIDE = 1_000_003  # seeds of other repetitions: far from those a person would choose


class RepeatedReader:
    """Reads every clip ``n_repeats`` times for training: all of them once, then all again, with other draws.

    The clips of a repetition have ids of their own, so that whatever is drawn from an id differs. Every repetition has
    a window and a crop of its own, so that it decodes anew, or takes the frames from the cache.
    """

    def __init__(self, reader: ClipReader, n_repeats: int) -> None:
        self._reader, self._n_repeats = reader, n_repeats
        self.classes = reader.classes

    def __len__(self) -> int:
        return len(self._reader)

    def clip_id(self, index: int) -> str:
        return self._reader.clip_id(index)

    def label(self, index: int) -> int:
        return self._reader.label(index)

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        if not isinstance(draw, TrainingDraw):
            return self._reader.read(indices, draw)
        parts: list[ClipBatch] = []
        bad: dict[str, str] = {}
        for number in range(self._n_repeats):
            read = self._reader.read(indices, replace(draw, seed=draw.seed + number * _SEED_STRIDE))
            bad |= dict(read.bad)
            if read.clips is not None:
                parts.append(replace(read.clips, clip_ids=read.clips.clip_ids ^ (number * _SEED_STRIDE)))
        return ReadClips(joined(parts) if parts else None, tuple(bad.items()))


def joined(parts: Sequence[ClipBatch]) -> ClipBatch:
    """Batches of the same modalities as one, in order; a modality that one of them lacks is left out."""
    if len(parts) == 1:
        return parts[0]
    values: dict[str, Any] = {}
    for field in fields(ClipBatch):
        columns = [getattr(part, field.name) for part in parts]
        values[field.name] = None if any(c is None for c in columns) else torch.cat(columns)
    return ClipBatch(**values)
