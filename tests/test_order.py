"""The order of clips: permutations known at any place, blocks that are used up before the next, repeated clips."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stream import NumberedReader, dataset, keep, labels_of

from oskar.data import order as order_module
from oskar.data.order import MIXED_BLOCKS, EpochOrder, epoch_order, keyed_order
from oskar.data.pooled_reader import PooledReader
from oskar.data.reader import TrainingDraw
from oskar.data.stream import StepDataset
from oskar.errors import InputError


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(-(2**62), 2**62), epoch=st.integers(0, 10_000))
def test_a_keyed_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    whole = keyed_order(torch.arange(n), n, seed, epoch)
    assert sorted(whole.tolist()) == list(range(n))
    place = (n * 7) // 11
    assert keyed_order(torch.tensor([place]), n, seed, epoch).tolist() == [int(whole[place])]


def test_keyed_orders_differ_and_are_even() -> None:
    orders = {tuple(keyed_order(torch.arange(40), 40, s, e).tolist()) for s in range(4) for e in range(4)}
    assert len(orders) == 16
    firsts = torch.stack([keyed_order(torch.tensor([0, 9]), 10, 0, epoch) for epoch in range(200)])
    for place in (0, 1):  # every clip comes first, and last, about as often: sd is 4.2
        assert int((torch.bincount(firsts[:, place], minlength=10) - 20).abs().max()) < 4.5 * 4.2
    pairs = Counter(tuple(keyed_order(torch.arange(2), 5, 0, e).tolist()) for e in range(300))
    assert len(pairs) == 20  # and every pair of neighbours: 15 of each, sd 3.8
    assert max(abs(count - 15) for count in pairs.values()) < 4.5 * 3.8
    large = keyed_order(torch.arange(10_000), 10**7, 3, 0).double()
    assert float(large.mean() / 10**7) == pytest.approx(0.5, abs=0.015)  # sd 0.0029
    steps = torch.corrcoef(torch.stack([large[:-1], large[1:]]))[0, 1]
    assert abs(float(steps)) < 0.05  # sd 0.01


def test_small_sets_keep_the_order_they_had_and_large_ones_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EpochOrder(50, 3).at(45, 10) == epoch_order(50, 3, 0).tolist()[45:] + epoch_order(50, 3, 1).tolist()[:5]
    monkeypatch.setattr(order_module, "MAX_STORED", 49)
    expected = [keyed_order(torch.arange(50), 50, 3, epoch).tolist() for epoch in (0, 1)]
    assert EpochOrder(50, 3).at(45, 10) == expected[0][45:] + expected[1][:5]


@settings(max_examples=20, deadline=None)
@given(blocks=st.lists(st.integers(1, 9), min_size=1, max_size=40), seed=st.integers(0, 10))
def test_blocks_are_a_permutation_that_uses_up_a_few_at_a_time(blocks: list[int], seed: int) -> None:
    n = sum(blocks)
    block_of = [i for i, size in enumerate(blocks) for _ in range(size)]
    first, second = EpochOrder(n, seed, blocks).at(0, n), EpochOrder(n, seed, blocks).at(n, n)
    assert sorted(first) == sorted(second) == list(range(n))
    done: set[int] = set()
    current: set[int] = set()
    for clip in first:
        block = block_of[clip]
        assert block not in done
        current.add(block)
        if sum(blocks[b] for b in current) > 0 and len(current) == MIXED_BLOCKS:
            seen = first[: first.index(clip) + 1]
            if sum(blocks[b] for b in current | done) == len(seen):
                done |= current
                current = set()
        assert len(current) <= MIXED_BLOCKS
    if n > 30:
        assert first != second


def test_clips_are_mixed_anew_in_every_group_of_blocks() -> None:
    n = 16 * MIXED_BLOCKS
    blocks = [16] * (4 * MIXED_BLOCKS)
    whole = EpochOrder(4 * n, 0, blocks).at(0, 4 * n)
    groups = [whole[first : first + n] for first in range(0, 4 * n, n)]
    ranks = {tuple(sorted(range(n), key=group.__getitem__)) for group in groups}
    assert len(ranks) == 4
    places = {tuple(clip % 16 for clip in group) for group in groups}
    assert len(places) == 4
    assert all(len({clip // 16 for clip in group[:16]}) > 3 for group in groups)  # not block after block


def test_places_of_blocks_are_known_without_those_before() -> None:
    blocks = [3, 5, 2, 7] * 6
    order = EpochOrder(sum(blocks), 1, blocks)
    whole = order.at(0, 3 * sum(blocks))
    for first in (0, 1, 50, 101, 200):
        assert EpochOrder(sum(blocks), 1, blocks).at(first, 9) == whole[first : first + 9]


class BlockedReader(NumberedReader):
    @property
    def blocks(self) -> tuple[int, ...]:
        return (2,) * (self.n // 2)


def test_a_stream_follows_its_readers_blocks() -> None:
    stream = StepDataset(BlockedReader(40), keep, n_steps=10, batch_size=4, accumulation=1, seed=0)
    labels = [label for step in range(4) for label in labels_of(stream[step])]
    assert len({label // 2 for label in labels}) == MIXED_BLOCKS  # 16 clips of 8 blocks, and of no other


def test_pooled_readers_are_cut_into_blocks_where_one_has_them() -> None:
    assert PooledReader([NumberedReader(5), NumberedReader(3)]).blocks == ()
    assert PooledReader([NumberedReader(5), BlockedReader(4)]).blocks == (2, 2, 1, 2, 2)


def test_clips_per_decode_repeat_a_clip_in_a_row() -> None:
    reader = NumberedReader(6)
    steps = StepDataset(reader, keep, n_steps=9, batch_size=4, accumulation=2, seed=0, clips_per_decode=2)
    labels = [label for step in range(3) for label in labels_of(steps[step])]
    assert labels == [i for i in epoch_order(6, 0, 0).tolist() for _ in range(2)]
    assert {draw.n_repeats for draw in reader.draws if isinstance(draw, TrainingDraw)} == {2}
    with pytest.raises(InputError, match=r"data\.clips_per_decode = 3: a part of a batch has 2 clips"):
        StepDataset(reader, keep, n_steps=9, batch_size=4, accumulation=2, seed=0, clips_per_decode=3)
    assert labels_of(dataset(NumberedReader(6))[0]) == epoch_order(6, 0, 0).tolist()[:4]
