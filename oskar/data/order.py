"""The order of clips: a pure function of (seed, epoch), known at any position without those before it."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from oskar.randomness import bits, clip_keys, mixed

# Up to this many clips an epoch is a stored permutation; above, a keyed one that takes no memory.
# Raising or lowering it changes the order of data sets between the two values.
MAX_STORED = 1_000_000
N_ROUNDS = 8
MIXED_BLOCKS = 8  # blocks whose clips are mixed with each other

_HALF_STREAM = 9201


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of ``n`` clips, a pure function of (seed, epoch)."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    return torch.randperm(n, generator=generator)


def keyed_order(places: Tensor, n: int, seed: int, epoch: int) -> Tensor:
    """What stands at ``places`` (int64) of a permutation of ``n``, without the rest of it.

    A balanced Feistel network over the smallest even number of bits that holds n, whose round function is the
    hash of ``oskar.randomness``; a value of n or more is enciphered again until it is below (Black and Rogaway
    2002, cycle walking), on average less than four times.
    """
    half = max((max(n - 1, 1).bit_length() + 1) // 2, 1)
    keys = bits(clip_keys(seed, epoch, torch.zeros(1, dtype=torch.int64)), _HALF_STREAM, (N_ROUNDS,))[0]
    values = places.clone()
    walking = torch.arange(len(values))
    while len(walking):
        stepped = _encipher(values[walking], half, keys)
        values[walking] = stepped
        walking = walking[stepped >= n]
    return values


def _encipher(values: Tensor, half: int, keys: Tensor) -> Tensor:
    mask = (1 << half) - 1
    left, right = values >> half, values & mask
    for key in keys.tolist():
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return (left << half) | right


@runtime_checkable
class InBlocks(Protocol):
    """A reader whose clips come in runs that are better read together; an empty list means that none do."""

    @property
    def blocks(self) -> Sequence[int]: ...


class EpochOrder:
    """The endless sequence of epochs over ``n`` clips.

    With ``blocks``, the lengths of consecutive runs of clips that lie together, whole blocks are put in random
    order, and the clips of ``MIXED_BLOCKS`` neighbours in it are mixed: what is fetched is used up soon.
    """

    def __init__(self, n: int, seed: int, blocks: Sequence[int] = ()) -> None:
        self._n, self._seed = n, seed
        self._blocks = torch.tensor(list(blocks), dtype=torch.int64)
        self._epoch, self._stored = -1, torch.empty(0, dtype=torch.int64)
        self._windows: tuple[int, ...] = (0,)

    def at(self, first: int, count: int) -> list[int]:
        """The clips at ``count`` positions from ``first`` on."""
        found: list[int] = []
        while len(found) < count:
            epoch, place = divmod(first + len(found), self._n)
            places = torch.arange(place, min(place + count - len(found), self._n))
            found += self._of_epoch(epoch, places).tolist()
        return found

    def _of_epoch(self, epoch: int, places: Tensor) -> Tensor:
        if len(self._blocks):
            return self._in_blocks(epoch, places)
        if self._n > MAX_STORED:
            return keyed_order(places, self._n, self._seed, epoch)
        if epoch != self._epoch:
            self._epoch, self._stored = epoch, epoch_order(self._n, self._seed, epoch)
        return self._stored[places]

    def _in_blocks(self, epoch: int, places: Tensor) -> Tensor:
        if epoch != self._epoch:
            self._epoch, self._stored = epoch, epoch_order(len(self._blocks), self._seed, epoch)
            sizes = self._blocks[self._stored].tolist()
            windows = [sum(sizes[first : first + MIXED_BLOCKS]) for first in range(0, len(sizes), MIXED_BLOCKS)]
            self._windows = (0, *accumulate(windows))
        bounds = torch.tensor(self._windows)
        window = torch.bucketize(places, bounds[1:], right=True)
        found = torch.empty_like(places)
        for number in sorted(set(window.tolist())):
            is_here = window == number
            inside = places[is_here] - bounds[number]
            n = int(bounds[number + 1] - bounds[number])
            mixed = keyed_order(inside, n, self._seed, epoch * 1_000_003 + number)
            found[is_here] = self._clip(number, mixed)
        return found

    def _clip(self, window: int, mixed: Tensor) -> Tensor:
        """Clip at a place among those of the window's blocks, one block after the other."""
        chosen = self._stored[window * MIXED_BLOCKS : (window + 1) * MIXED_BLOCKS]
        ends = self._blocks[chosen].cumsum(0)
        which = torch.bucketize(mixed, ends, right=True)
        first = self._blocks.cumsum(0) - self._blocks
        return first[chosen[which]] + mixed - (ends - self._blocks[chosen])[which]
