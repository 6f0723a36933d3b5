"""Stateless draws against SplitMix64 in plain Python, NumPy's generators and analytic moments."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import splitmix
from torch import Tensor

from oskar import randomness
from oskar.randomness import (
    bits,
    clip_keys,
    hash_id,
    integers,
    log_dirichlet,
    log_gamma_variate,
    normal64,
    uniform,
    uniform64,
)

INT64 = st.integers(-(2**63), 2**63 - 1)


def keys_of(n: int, seed: int = 0, step: int = 0) -> Tensor:
    return clip_keys(seed, step, torch.arange(n))


def chi_square(values: Tensor, n_bins: int) -> float:
    """Standardised chi-square of values in [0, 1): about normal(0, 1) if they are uniform."""
    counts = torch.bincount((values.double().flatten() * n_bins).long(), minlength=n_bins).double()
    expected = values.numel() / n_bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (n_bins - 1)) / math.sqrt(2 * (n_bins - 1))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double().flatten(), b.double().flatten()]))[0, 1])


def test_the_oracle_gives_the_published_sequence() -> None:
    assert splitmix.sequence(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(seed=INT64, step=INT64, clip_id=INT64)
def test_clip_keys_are_splitmix64_of_seed_step_and_id(seed: int, step: int, clip_id: int) -> None:
    expected = splitmix.signed(splitmix.clip_key(seed, step, clip_id))
    assert int(clip_keys(seed, step, torch.tensor([clip_id]))) == expected


@given(key=INT64, stream=st.integers(0, 100_000))
def test_bits_are_a_splitmix64_sequence_for_every_stream(key: int, stream: int) -> None:
    state = splitmix.mix(key ^ splitmix.mix(stream + splitmix.GOLDEN))
    expected = [splitmix.signed(x) for x in splitmix.sequence(state, 6)]
    assert bits(torch.tensor([key]), stream, (2, 3)).flatten().tolist() == expected


def test_every_axis_of_a_draw_is_uniform() -> None:
    along_clips = uniform(keys_of(200_000), 3)
    along_counter = uniform(keys_of(2), 3, (100_000,))
    along_steps = torch.cat([uniform(keys_of(100, step=step), 3) for step in range(1000)])
    along_streams = torch.cat([uniform(keys_of(100), stream) for stream in range(1000)])
    along_seeds = torch.cat([uniform(keys_of(100, seed=seed), 3) for seed in range(1000)])
    for values in (along_clips, along_counter, along_steps, along_streams, along_seeds):
        assert abs(chi_square(values, 256)) < 5
        assert float(values.min()) >= 0
        assert float(values.max()) < 1


def test_neighbouring_clips_steps_streams_and_seeds_are_independent() -> None:
    n = 100_000
    first = uniform(keys_of(n), 7)
    others = [
        uniform(keys_of(n), 8),
        uniform(keys_of(n, step=1), 7),
        uniform(keys_of(n, seed=1), 7),
        uniform(clip_keys(0, 0, torch.arange(1, n + 1)), 7),
        uniform(keys_of(n), 7, (2,))[:, 1],
    ]
    for other in others:
        assert abs(correlation(first, other)) < 5 / math.sqrt(n)
        cells = (first * 16).long() * 16 + (other * 16).long()  # joint distribution on a 16 x 16 grid
        assert abs(chi_square((cells + 0.5) / 256, 256)) < 5


def test_one_bit_of_the_clip_id_turns_half_of_the_key() -> None:
    base = torch.arange(500)
    for bit in range(64):
        flipped = base ^ (1 << bit if bit < 63 else -(1 << 63))
        changed = clip_keys(0, 0, base) ^ clip_keys(0, 0, flipped)
        turned = sum(int(x).bit_count() for x in (changed & 0x7FFFFFFFFFFFFFFF).tolist()) / 500
        assert 30.5 < turned < 32.5  # 63 bits are counted; standard error 0.18


def test_uniform64_stays_inside_the_open_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "bits", lambda *args: torch.tensor([-1, 0]))
    highest, lowest = uniform64(torch.zeros(2, dtype=torch.int64), 0).tolist()
    assert 0 < lowest < 1e-15
    assert 1 - 1e-15 < highest < 1
    assert integers(torch.zeros(2, dtype=torch.int64), 0, 1568).tolist() == [1567, 0]


def test_float32_uniforms_never_reach_a_count_they_multiply() -> None:
    highest = torch.tensor(1 - 2.0**-24, dtype=torch.float32)
    counts = torch.arange(1, 5000)
    assert bool(((highest * counts).long() < counts).all())


def test_integers_cover_their_range_evenly() -> None:
    drawn = integers(keys_of(70_000), 5, 7)
    counts = torch.bincount(drawn, minlength=7)
    assert len(counts) == 7
    assert abs(chi_square((drawn + 0.5) / 7, 7)) < 5


def test_normals_have_the_moments_and_quantiles_of_the_normal() -> None:
    x = normal64(keys_of(4000), 2, (100,)).flatten()
    n = x.numel()
    for power, expected, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((x**power).mean()) - expected) < 5 * math.sqrt(spread / n)
    for z in (-2.0, -0.5, 1.0):
        share = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        assert abs(float((x < z).double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / n)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 4.0])
def test_gamma_variates_have_numpys_distribution(alpha: float) -> None:
    n = 40_000
    ours = np.sort(log_gamma_variate(keys_of(n), 1, alpha).numpy())
    theirs = np.sort(np.log(np.random.default_rng(0).gamma(alpha, size=n).clip(1e-300)))
    merged = np.concatenate([ours, theirs])
    gap = np.abs(
        np.searchsorted(ours, merged, side="right") / n - np.searchsorted(theirs, merged, side="right") / n
    ).max()
    if alpha >= 0.5:
        assert gap < 1.95 * math.sqrt(2 / n)  # Kolmogorov-Smirnov, p = 0.001
    else:  # NumPy underflows to 0 where the logarithm still exists: compare above that
        assert abs((ours > -600).mean() - (theirs > -600).mean()) < 0.002
    assert abs(np.exp(ours).mean() - alpha) < 5 * math.sqrt(alpha / n)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_dirichlet_moments(alpha: float) -> None:
    n = 40_000
    is_present = torch.ones(n, 3, dtype=torch.bool)
    r = log_dirichlet(keys_of(n), 1, alpha, is_present).exp()
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1)
    torch.testing.assert_close(r.sum(1), torch.ones(n, dtype=torch.float64))
    assert (r.mean(0) - 1 / 3).abs().max() < 5 * math.sqrt(variance / n)
    assert (r.var(0) - variance).abs().max() < 0.004
    covariance = -(1 / 9) / (3 * alpha + 1)
    assert abs(float(torch.cov(r.T)[0, 1]) - covariance) < 0.004


def test_absent_entries_take_no_part_in_a_dirichlet_draw() -> None:
    n = 20_000
    is_present = torch.tensor([True, False, True]).expand(n, 3)
    r = log_dirichlet(keys_of(n), 1, 0.5, is_present).exp()
    assert float(r[:, 1].max()) == 0
    # Of two Dirichlet(1/2) entries each is arcsine distributed: P(r < 1/4) = 2/pi asin(1/2) = 1/3.
    assert abs(float((r[:, 0] < 0.25).double().mean()) - 1 / 3) < 0.015


def test_tiny_alpha_stays_finite() -> None:
    logs = log_dirichlet(keys_of(2000), 1, 1e-4, torch.ones(2000, 3, dtype=torch.bool))
    assert bool(logs.isfinite().all())
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(2000, dtype=torch.float64))


def test_a_clip_draws_the_same_in_every_batch_and_leaves_the_global_state_alone() -> None:
    ids = torch.tensor([3, -9, 12345678901234, 0])
    state = torch.get_rng_state()
    together = log_dirichlet(clip_keys(1, 2, ids), 1, 0.5, torch.ones(4, 3, dtype=torch.bool))
    alone = torch.cat(
        [log_dirichlet(clip_keys(1, 2, ids[i : i + 1]), 1, 0.5, torch.ones(1, 3, dtype=torch.bool)) for i in range(4)]
    )
    assert torch.equal(together, alone)
    assert torch.equal(state, torch.get_rng_state())


def test_hash_id_is_blake2b_and_stable_across_processes() -> None:
    assert hash_id("clip_0001") == -8963527055748454435  # `printf clip_0001 | b2sum -l 64`, little endian
    assert hash_id("clip_0002") != hash_id("clip_0001")
