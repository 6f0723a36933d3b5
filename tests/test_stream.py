"""Batches as a function of the step: order, workers, starting anywhere, clips that cannot be read."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from conftest import made_clips
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import shrunk
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config, TokensConfig
from oskar.data.order import epoch_order
from oskar.data.people_reader import PeopleData, PeopleReader
from oskar.data.reader import Draw, ReadClips, TrainingDraw
from oskar.data.stream import LoadedStep, MemoryStream, StepDataset, StepStream
from oskar.masking.packing import Batch, build_batch
from oskar.randomness import hash_id

TOKENS = TokensConfig(n_frames=2, resolution=8, patch_size=8, n_people=1, n_words=4, vocabulary_size=16)


class NumberedReader:
    """Clips whose label is their index; those in ``broken`` cannot be read."""

    classes: tuple[str, ...] = ()

    def __init__(self, n: int, broken: Sequence[int] = ()) -> None:
        self.n, self.broken = n, set(broken)
        self.draws: list[Draw] = []

    def __len__(self) -> int:
        return self.n

    def clip_id(self, index: int) -> str:
        return f"c{index}"

    def label(self, index: int) -> int:
        return index

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        self.draws.append(draw)
        good = [i for i in indices if i not in self.broken]
        bad = tuple((f"c{i}", "broken") for i in indices if i in self.broken)
        if not good:
            return ReadClips(None, bad)
        clips = made_clips(len(good), TOKENS)
        ids = torch.tensor([hash_id(f"c{i}") for i in good])
        return ReadClips(replace(clips, clip_ids=ids, labels=torch.tensor(good)), bad)


def keep(clips: ClipBatch, step: int) -> ClipBatch:
    return clips


def dataset(
    reader: NumberedReader, *, n_steps: int = 9, batch_size: int = 4, parts: int = 1, seed: int = 0
) -> StepDataset:
    return StepDataset(reader, keep, n_steps=n_steps, batch_size=batch_size, accumulation=parts, seed=seed)


def labels_of(step: LoadedStep) -> list[int]:
    return [label for part in step.parts for label in part.labels.tolist()]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 200), seed=st.integers(-(2**62), 2**62), epoch=st.integers(0, 10_000))
def test_an_epoch_is_a_permutation_by_seed_and_epoch(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, epoch_order(n, seed, epoch))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    first = torch.stack([epoch_order(10, 0, epoch) for epoch in range(2000)])[:, 0]
    counts = torch.bincount(first, minlength=10)  # every clip comes first about as often: sd is 13.4
    assert int((counts - 200).abs().max()) < 5 * 14


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (4, 4), (3, 4), (1, 4), (13, 2)])
def test_every_clip_comes_once_in_an_epoch(n: int, batch_size: int) -> None:
    steps = dataset(NumberedReader(n), n_steps=3 * n, batch_size=batch_size)
    stream = [label for step in range(3 * n) for label in labels_of(steps[step])]
    assert len(stream) == 3 * n * batch_size
    for epoch in range(len(stream) // n):
        assert stream[epoch * n : (epoch + 1) * n] == epoch_order(n, 0, epoch).tolist()


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    steps = dataset(NumberedReader(7))
    inverse = {step: labels_of(steps[step]) for step in reversed(range(9))}
    fresh = {step: labels_of(dataset(NumberedReader(7))[step]) for step in range(9)}
    assert inverse == fresh


def test_parts_are_the_batch_in_equal_pieces() -> None:
    whole, halves = dataset(NumberedReader(7)), dataset(NumberedReader(7), parts=2)
    for step in range(9):
        assert labels_of(halves[step]) == labels_of(whole[step])
        assert [len(part) for part in halves[step].parts] == [2, 2]


def test_clips_are_read_for_their_step_and_seed() -> None:
    reader = NumberedReader(7)
    dataset(reader, seed=5)[3]
    assert reader.draws == [TrainingDraw(5, 3)]


def test_clips_that_cannot_be_read_are_listed_and_nothing_takes_their_place() -> None:
    steps = dataset(NumberedReader(4, broken=[1, 2]), parts=2)
    loaded = steps[0]
    assert sorted(labels_of(loaded)) == [0, 3]
    assert sorted(loaded.bad) == [("c1", "broken"), ("c2", "broken")]
    nothing = dataset(NumberedReader(2, broken=[0, 1]), batch_size=2)[0]
    assert list(nothing.parts) == []
    assert len(nothing.bad) == 2


def flat(step: LoadedStep) -> list[Tensor]:
    """All that the module sees of a step."""
    tensors: list[Tensor] = []
    for part in step.parts:
        assert isinstance(part, Batch)
        tensors.append(part.clip_ids)
        for view in part.views:
            for packed in (view.visible, view.target):
                tensors.append(packed.segments)
                for tokens in packed.tokens.values():
                    boxes = [] if tokens.boxes is None else [tokens.boxes]
                    tensors += [tokens.values, tokens.slots, tokens.token_idx, *boxes]
    return tensors


def _build(config: Config, clips: ClipBatch, step: int) -> Batch:
    return build_batch(clips, config, step)


def people_steps(config: Config, workers: int, first_step: int = 0) -> list[list[Tensor]]:
    reader = PeopleReader(PeopleData(n_clips=6), config, None, "train", is_labelled=False)
    data = StepDataset(reader, partial(_build, config), n_steps=5, batch_size=4, accumulation=2, seed=3)
    return [flat(step) for step in StepStream(data, workers).batches(first_step)]


def test_batches_do_not_depend_on_the_number_of_workers() -> None:
    """Values and masks, bit for bit; and a run may start at any step."""
    config = shrunk("oskar-tiny")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    alone = people_steps(config, workers=0)
    assert torch.equal(torch.get_rng_state(), before)  # a run's own random state is left alone
    assert len(alone) == 5
    for other in (people_steps(config, 1), people_steps(config, 2), [*alone[:2], *people_steps(config, 1, 2)]):
        assert torch.equal(torch.get_rng_state(), before)
        for ours, theirs in zip(alone, other, strict=True):
            assert len(ours) == len(theirs) > 10
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(alone[0], alone[3], strict=False))


def test_a_stream_is_as_long_as_the_run() -> None:
    stream = StepStream(dataset(NumberedReader(5), n_steps=4), 0)
    assert len(list(stream.batches(0))) == 4
    assert len(list(stream.batches(3))) == 1
    assert list(stream.batches(4)) == []
    assert [labels_of(s) for s in islice(stream.batches(1), 2)] == [
        labels_of(dataset(NumberedReader(5))[s]) for s in (1, 2)
    ]


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 64), (4, 4), (1, 2)])
def test_items_in_memory_come_once_an_epoch_and_from_any_step(n: int, batch_size: int) -> None:
    size = min(n, batch_size)
    per_epoch = n // size
    stream = MemoryStream(
        n, lambda chosen, step: (step, chosen.tolist()), n_steps=2 * per_epoch, batch_size=batch_size, seed=0
    )
    seen = [step.parts[0] for step in stream.batches(0)]
    assert [step for step, _ in seen] == list(range(2 * per_epoch))
    assert {len(items) for _, items in seen} == {size}
    for epoch in (seen[:per_epoch], seen[per_epoch:]):
        flat = [item for _, items in epoch for item in items]
        assert len(set(flat)) == len(flat)
        assert set(flat) <= set(range(n))
    for first in range(2 * per_epoch):
        assert [step.parts[0] for step in stream.batches(first)] == seen[first:]
    if per_epoch > 1:
        assert seen[:per_epoch] != [(step - per_epoch, items) for step, items in seen[per_epoch:]]
