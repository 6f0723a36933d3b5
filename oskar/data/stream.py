"""Batches as a function of the step: the order of clips, read and masked in workers."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from oskar.clip import ClipBatch, UnreadableClipsError
from oskar.data.order import EpochOrder, InBlocks, epoch_order
from oskar.data.reader import ClipReader, TrainingDraw
from oskar.errors import InputError

Build = Callable[[ClipBatch, int], Any]


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """The parts of one step's batch and the clips that could not be read: (clip id, reason)."""

    parts: Sequence[Any]
    bad: tuple[tuple[str, str], ...] = ()


class StepDataset(Dataset[LoadedStep]):
    """Item ``step`` is that step's batch; any process computes it from the step alone.

    A step takes the next ``batch_size`` clips of the endless sequence of epochs. This process reads the
    share of its ``rank``, in ``accumulation`` equal parts, and ``build`` turns each part into what the
    module sees. With ``clips_per_decode`` above 1 a clip comes that many times in a row, each with its own window,
    crop and masks.
    """

    def __init__(
        self,
        reader: ClipReader,
        build: Build,
        *,
        n_steps: int,
        batch_size: int,
        accumulation: int,
        seed: int,
        rank: int = 0,
        n_processes: int = 1,
        clips_per_decode: int = 1,
    ) -> None:
        self._reader, self._build, self._n_steps, self._seed = reader, build, n_steps, seed
        self._batch_size, self._part_size = batch_size, batch_size // (n_processes * accumulation)
        if self._part_size % clips_per_decode:
            raise InputError(
                f"data.clips_per_decode = {clips_per_decode}: a part of a batch has {self._part_size} clips",
                fix="use a divisor of train.batch_size / (processes x train.accumulation)",
            )
        self._repeats = clips_per_decode
        self._first, self._n = rank * (batch_size // n_processes), batch_size // n_processes
        self._order = EpochOrder(len(reader), seed, reader.blocks if isinstance(reader, InBlocks) else ())

    def __len__(self) -> int:
        return self._n_steps

    def __getitem__(self, step: int) -> LoadedStep:
        first, n = step * self._batch_size + self._first, self._n
        places = self._order.at(first // self._repeats, n // self._repeats)
        indices = [index for index in places for _ in range(self._repeats)]
        draw = TrainingDraw(self._seed, step, self._repeats)
        parts: list[Any] = []
        bad: list[tuple[str, str]] = []
        for start in range(0, len(indices), self._part_size):
            read = self._reader.read(indices[start : start + self._part_size], draw)
            bad += read.bad
            if read.clips is not None:
                parts += self._built(read.clips, step, bad)
        return LoadedStep(parts, tuple(bad))

    def _built(self, clips: ClipBatch, step: int, bad: list[tuple[str, str]]) -> list[Any]:
        """The part of a batch, without the clips whose chosen tokens turn out to be unreadable; empty if all are."""
        while len(clips):
            try:
                return [self._build(clips, step)]
            except UnreadableClipsError as error:
                bad += error.clips.values()
                clips = clips.rows(torch.tensor([i not in error.clips for i in range(len(clips))]))
        return []


class StepStream:
    """A ``StepDataset`` read ahead by ``workers`` processes (0: in this one)."""

    def __init__(self, dataset: StepDataset, workers: int) -> None:
        self._dataset, self._workers = dataset, workers

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        loader = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=range(first_step, len(self._dataset)),
            num_workers=self._workers,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # the loader draws a seed for its workers: not from the run's own state
            prefetch_factor=4 if self._workers else None,
        )
        yield from loader


class MemoryStream:
    """Batches of ``n_items`` items that are in memory, as a function of the step; a batch holds none twice.

    ``build`` turns the chosen items (int64 ``[B]``) and the step into what the module sees; the
    items left over at the end of an epoch wait for another.
    """

    def __init__(
        self, n_items: int, build: Callable[[torch.Tensor, int], Any], *, n_steps: int, batch_size: int, seed: int
    ) -> None:
        self._n_items, self._build, self._n_steps, self._seed = n_items, build, n_steps, seed
        self._batch_size = min(batch_size, n_items)

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        per_epoch = self._n_items // self._batch_size
        ordered, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(first_step, self._n_steps):
            epoch, place = divmod(step, per_epoch)
            if epoch != ordered:
                ordered, order = epoch, epoch_order(self._n_items, self._seed, epoch)
            chosen = order[place * self._batch_size : (place + 1) * self._batch_size]
            yield LoadedStep([self._build(chosen, step)])


def leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole group; the parent finishes its step and ends the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
