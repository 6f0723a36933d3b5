"""Mixup and cutmix of whole clips: pixels, shares and targets against calculations pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oskar.tasks.mixing import mix_clips, soft_targets


def made(n: int, seed: int = 0, side: int = 16) -> tuple[Tensor, Tensor]:
    """Frames that differ in every pixel of every clip, and ids."""
    rng = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (n, 3, 3, side, side + 4), dtype=torch.uint8, generator=rng)
    return frames, torch.randint(-(2**62), 2**62, (n,), generator=rng)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.integers(0, 10**6), n=st.integers(1, 5))
def test_mixup_adds_the_clip_before_by_its_share(seed: int, step: int, n: int) -> None:
    frames, ids = made(n, seed)
    mixed, share = mix_clips(frames, ids, seed=seed, step=step, mixup=0.8, cutmix=0.0)
    assert mixed.dtype == torch.uint8
    for i in range(n):
        own = float(share[i])
        assert 0 <= own <= 1
        expected = own * frames[i].double() + (1 - own) * frames[i - 1].double()
        assert float((mixed[i].double() - expected).abs().max()) <= 0.5 + 1e-3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), step=st.integers(0, 10**6))
def test_cutmix_pastes_one_rectangle_into_all_frames(seed: int, step: int) -> None:
    frames = torch.stack([torch.full((3, 3, 16, 20), 10 * i, dtype=torch.uint8) for i in range(4)])
    ids = torch.arange(4)
    mixed, share = mix_clips(frames, ids, seed=seed, step=step, mixup=0.0, cutmix=1.0)
    for i in range(4):
        is_own = mixed[i] == 10 * i
        assert bool((is_own | (mixed[i] == 10 * ((i - 1) % 4))).all())
        assert bool((is_own == is_own[0, 0]).all())  # the same in every frame and colour
        assert float(share[i]) == pytest.approx(float(is_own.double().mean()), abs=1e-6)
        rows, columns = (~is_own[0, 0]).nonzero(as_tuple=True)
        if len(rows):
            height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
            assert height * width == len(rows)  # a rectangle without holes


def test_shares_follow_beta_and_both_kinds_are_as_frequent() -> None:
    n = 4000
    frames, ids = torch.zeros(n, 1, 3, 2, 2, dtype=torch.uint8), torch.arange(n)
    frames[::2] = 255
    _, share = mix_clips(frames, ids, seed=3, step=5, mixup=0.8, cutmix=0.0)
    many = np.sort(np.random.default_rng(0).beta(0.8, 0.8, 400_000))
    expected = np.searchsorted(many, np.sort(share.numpy())) / len(many)
    assert np.abs(expected - (np.arange(n) + 0.5) / n).max() < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov, 0.1 %
    mixed, _ = mix_clips(frames, ids, seed=3, step=5, mixup=0.8, cutmix=1.0)
    is_added = ((mixed > 0) & (mixed < 255)).flatten(1).any(1)  # between the two colours
    assert abs(float(is_added.double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(n) + 0.02


def test_draws_depend_on_seed_step_and_clip_alone() -> None:
    frames, ids = made(6)

    def shares(chosen: list[int], seed: int, step: int) -> list[float]:
        drawn: list[float] = mix_clips(frames[chosen], ids[chosen], seed=seed, step=step, mixup=0.8, cutmix=0.0)[
            1
        ].tolist()
        return drawn

    whole = shares([0, 1, 2, 3, 4, 5], 1, 2)
    assert shares([4, 2], 1, 2) == [whole[4], whole[2]]
    assert shares([0, 1, 2, 3, 4, 5], 1, 3) != whole != shares([0, 1, 2, 3, 4, 5], 2, 2)


def test_nothing_to_mix_with_is_nothing_mixed() -> None:
    frames, ids = made(1)
    assert torch.equal(mix_clips(frames, ids, seed=0, step=0, mixup=0.8, cutmix=1.0)[0], frames)
    frames, ids = made(3)
    mixed, share = mix_clips(frames, ids, seed=0, step=0, mixup=0.0, cutmix=0.0)
    assert torch.equal(mixed, frames)
    assert share.tolist() == [1.0, 1.0, 1.0]


def test_soft_targets_by_hand() -> None:
    targets = soft_targets(torch.tensor([0, 3]), 4, smoothing=0.2, share=torch.tensor([0.25, 1.0]))
    expected = [[0.8 * 0.25 + 0.05, 0.05, 0.05, 0.8 * 0.75 + 0.05], [0.05, 0.05, 0.05, 0.85]]
    torch.testing.assert_close(targets, torch.tensor(expected))
    assert soft_targets(torch.tensor([1]), 3, smoothing=0.0).tolist() == [[0.0, 1.0, 0.0]]
