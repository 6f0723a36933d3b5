"""Frames and crops of the official protocols: lists by hand, their own formulas in NumPy, and what must hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from oskar.data.views import (
    centre_idx,
    crop_corners,
    dense_test_idx,
    dense_train_idx,
    probe_idx,
    random_idx,
    segment_test_idx,
    segment_train_idx,
)
from oskar.errors import InputError

units = st.integers(0, 2**24 - 1).map(lambda i: i / 2**24)  # what the library draws
sixteen = st.lists(units, min_size=16, max_size=16)
EVEN_64 = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]  # multiples of 64 / 15, the last cut to 63


def cut(values: NDArray[np.float64], low: int, high: int) -> list[int]:
    numbers: list[int] = np.clip(values, low, high).astype(np.int64).tolist()
    return numbers


def test_dense_training_by_hand() -> None:
    assert dense_train_idx(64, u=0.9) == EVEN_64  # linspace(0, 64, 16): the window is the whole video
    assert dense_train_idx(65, u=0.49) == EVEN_64
    assert dense_train_idx(65, u=0.5) == [i + 1 for i in EVEN_64]
    assert dense_train_idx(300, u=0.0) == EVEN_64
    assert dense_train_idx(300, u=1 - 2**-24) == [i + 236 for i in EVEN_64]  # ends with the last frame, 299
    assert dense_train_idx(20, u=0.0) == [0, 5, 10, 15, *[19] * 12]
    assert dense_train_idx(7, u=0.0) == [0, *[6] * 15]
    assert dense_train_idx(3, u=0.0) == [2] * 16
    assert dense_train_idx(8, u=0.0, n_frames=4, stride_frames=1) == [0, 1, 2, 3]


@given(n=st.integers(1, 400), u=units)
def test_dense_training_is_the_formula(n: int, u: float) -> None:
    found = dense_train_idx(n, u=u)
    if n > 64:
        start = found[0]
        assert found == cut(np.linspace(start, start + 64, num=16), start, start + 63)
    else:
        spread = np.concatenate([np.linspace(0, n, num=n // 4), np.full(16 - n // 4, n)])
        assert found == cut(spread, 0, n - 1)
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < n
    assert len(found) == 16


def test_every_dense_window_is_as_likely() -> None:
    starts = [dense_train_idx(70, u=u)[0] for u in np.arange(0, 1, 1 / 7000).tolist()]
    assert np.bincount(starts).tolist() == pytest.approx([1000] * 7, abs=1)


def test_dense_test_by_hand() -> None:
    long = dense_test_idx(300)  # 75 frames, room for 59: starts at 0, 14.75, 29.5, 44.25, 59
    assert [clip[0] // 4 for clip in long] == [0, 14, 29, 44, 59]
    assert all(clip == list(range(clip[0], clip[0] + 64, 4)) for clip in long)
    assert long[-1][-1] == 296
    assert dense_test_idx(64) == [list(range(0, 64, 4))] * 5
    assert [clip[0] for clip in dense_test_idx(65)] == [0, 0, 0, 0, 4]  # 17 frames: room for one step at the very end
    assert dense_test_idx(10) == [[0, 4, *[8] * 14]] * 5  # the last one taken, not the last of the video
    assert dense_test_idx(1) == [[0] * 16] * 5
    assert dense_test_idx(100, n_clips=1) == [list(range(16, 80, 4))]  # 25 frames: in the middle


@given(n=st.integers(1, 700))
def test_dense_test_is_the_formula(n: int) -> None:
    frames = np.arange(0, n, 4)
    frames = np.concatenate([frames, np.repeat(frames[-1], max(16 - len(frames), 0))])
    step = max(1.0 * (len(frames) - 16) / 4, 0)
    assert dense_test_idx(n) == [frames[int(k * step) : int(k * step) + 16].tolist() for k in range(5)]


def test_segments_of_training_by_hand() -> None:
    assert segment_train_idx(32, u=[0.0] * 16) == list(range(0, 32, 2))
    assert segment_train_idx(32, u=[0.5] * 16) == list(range(1, 32, 2))
    assert segment_train_idx(47, u=[0.99] * 16) == list(range(1, 32, 2))  # 47 // 16 = 2: the rest is never shown
    assert segment_train_idx(16, u=[0.99] * 16) == list(range(16))
    assert segment_train_idx(8, u=[0.3] * 16) == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    assert segment_train_idx(8, u=[0.3] * 16, compat=True) == [0] * 16
    assert segment_train_idx(40, u=[0.9] * 16, compat=True) == segment_train_idx(40, u=[0.9] * 16)
    assert segment_train_idx(1, u=[0.9] * 16) == [0] * 16


@given(n=st.integers(1, 300), u=sixteen, compat=st.booleans())
def test_segments_of_training_have_one_frame_each(n: int, u: list[float], compat: bool) -> None:
    found = segment_train_idx(n, u=u, compat=compat)
    length = n // 16
    if length:
        assert [i // length for i in found] == list(range(16))
        assert [i % length for i in found] == [int(share * length) for share in u]
    elif not compat:
        assert found == cut(np.linspace(0, n - 1, 16), 0, n - 1)
    assert len(found) == 16
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < n


def test_segments_of_test_by_hand() -> None:
    assert segment_test_idx(32) == [list(range(0, 32, 2)), list(range(1, 32, 2))]
    assert segment_test_idx(16) == [list(range(16))] * 2
    first, second = segment_test_idx(40)  # tick 2.5: 0, 2.5, 5 ... and 1.25, 3.75, 6.25 ...
    assert first == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]
    assert second == [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38]
    assert segment_test_idx(1) == [[0] * 16] * 2
    assert segment_test_idx(6, n_clips=3, n_frames=2) == [[0, 3], [1, 4], [2, 5]]


@given(n=st.integers(1, 700))
def test_segments_of_test_are_the_formula(n: int) -> None:
    tick = n / 16
    numbers = sorted([int(tick / 2 + tick * i) for i in range(16)] + [int(tick * i) for i in range(16)])
    assert segment_test_idx(n) == [numbers[0::2], numbers[1::2]]


def test_probe_by_hand() -> None:
    one, two = probe_idx(200, u=[0.0, 1 - 2**-24])  # segments of 100, 37 windows in each
    assert one == EVEN_64
    assert two == [i + 136 for i in EVEN_64]
    assert probe_idx(128, u=[0.9, 0.9]) == [EVEN_64, [i + 64 for i in EVEN_64]]
    # segments of 50: 15 numbers from 0 to 63, 4.5 apart, then 63 once more, the second clip moved by 36
    overlapping = [0, 4, 9, 13, 18, 22, 27, 31, 36, 40, 45, 49, 54, 58, 63, 63]
    assert probe_idx(100, u=[0.9, 0.1]) == [overlapping, [i + 36 for i in overlapping]]
    assert [clip[0] for clip in probe_idx(100, u=[0.5] * 8)] == [0, 5, 10, 15, 20, 25, 30, 36]  # i 36 // 7
    assert probe_idx(64, u=[0.5] * 2) == [overlapping] * 2
    assert probe_idx(20, u=[0.5] * 2) == [[0, 6, 12, 19, *[19] * 12]] * 2  # 19 // 4 = 4 numbers from 0 to 19
    assert probe_idx(1, u=[0.5] * 2) == [[0] * 16] * 2
    assert probe_idx(80, u=[0.0]) == [EVEN_64]


@given(n=st.integers(1, 900), u=st.lists(units, min_size=1, max_size=8))
def test_probe_is_the_formula(n: int, u: list[float]) -> None:
    n_clips = len(u)
    found = probe_idx(n, u=u)
    assert len(found) == n_clips
    for i, clip in enumerate(found):
        assert len(clip) == 16
        assert clip == sorted(clip)
        assert 0 <= clip[0] <= clip[-1] < n
        if n // n_clips >= 64:
            start = i * (n // n_clips) + int(u[i] * (n // n_clips - 63))
            assert clip == cut(np.linspace(start, start + 64, num=16), start, start + 63)
            assert clip[-1] < (i + 1) * (n // n_clips)
        else:
            last = min(64, n) - 1
            spread = np.concatenate([np.linspace(0, last, num=last // 4), np.full(16 - last // 4, last)])
            shift = i * (n - 64) // (n_clips - 1) if n > 64 else 0
            assert clip == [j + shift for j in cut(spread, 0, last)]
    if 64 < n < 64 * n_clips:
        assert found[-1][-1] == n - 1  # overlapping clips end with the video


def test_segments_of_skeletons_by_hand() -> None:
    assert centre_idx(16) == list(range(16))
    assert centre_idx(32) == list(range(1, 32, 2))
    assert centre_idx(48) == list(range(1, 48, 3))
    assert centre_idx(8) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    assert centre_idx(1) == [0] * 16
    assert centre_idx(243, n_segments=243) == list(range(243))
    assert random_idx(32, u=[0.0] * 16) == list(range(0, 32, 2))
    assert random_idx(32, u=[0.5] * 16) == list(range(1, 32, 2))
    assert random_idx(8, u=[0.0, 0.9] * 8) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]


@given(n=st.integers(1, 500), u=st.lists(units, min_size=1, max_size=40))
def test_segments_of_skeletons_stay_in_their_part_of_the_time(n: int, u: list[float]) -> None:
    parts = len(u)
    found, centres = random_idx(n, u=u), centre_idx(n, n_segments=parts)
    assert len(found) == len(centres) == parts
    assert found == sorted(found)
    for i in range(parts):
        # frame f covers the time from f to f + 1; its part of the time runs from i n / parts to (i + 1) n / parts
        for frame in (found[i], centres[i]):
            assert frame * parts < (i + 1) * n
            assert (frame + 1) * parts > i * n
            assert 0 <= frame < n
        assert centres[i] == (2 * i + 1) * n // (2 * parts)


def test_crops_by_hand() -> None:
    assert crop_corners((224, 398)) == [(0, 0), (0, 87), (0, 174)]
    assert crop_corners((224, 399)) == [(0, 0), (0, 87), (0, 175)]
    assert crop_corners((399, 224)) == [(0, 0), (87, 0), (175, 0)]
    assert crop_corners((224, 399), is_step_whole=True) == [(0, 0), (0, 87), (0, 174)]
    assert crop_corners((224, 224)) == [(0, 0)] * 3
    assert crop_corners((224, 299), n_crops=1) == crop_corners((224, 299), n_crops=1, is_step_whole=True) == [(0, 37)]
    assert crop_corners((16, 20), side=16, n_crops=5) == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]


@given(long=st.integers(224, 2000), is_tall=st.booleans())
def test_crops_are_the_formulas(long: int, is_tall: bool) -> None:
    size = (long, 224) if is_tall else (224, long)
    plain, whole = crop_corners(size), crop_corners(size, is_step_whole=True)
    assert [max(c) for c in plain] == [int(c * (long - 224) / 2) for c in range(3)]
    assert [max(c) for c in whole] == [c * ((long - 224) // 2) for c in range(3)]
    assert all(c[1 if is_tall else 0] == 0 for c in plain + whole)
    assert all(max(c) + 224 <= long for c in plain + whole)


def test_what_cannot_be_shown_is_an_input_error() -> None:
    for call in (
        lambda: dense_train_idx(0, u=0.0),
        lambda: dense_test_idx(0),
        lambda: segment_train_idx(0, u=[0.0] * 16),
        lambda: segment_test_idx(0),
        lambda: probe_idx(0, u=[0.0] * 2),
        lambda: centre_idx(0),
        lambda: random_idx(0, u=[0.0] * 16),
    ):
        with pytest.raises(InputError, match=r"0 frames\. Fix: "):
            call()
    for size in ((200, 300), (240, 320)):
        with pytest.raises(InputError, match=rf"{size[1]} x {size[0]} pixels\. Fix: resize its shorter side to 224"):
            crop_corners(size)
