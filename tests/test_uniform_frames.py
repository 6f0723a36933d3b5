"""Frames spread over a whole video, by hand and against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oskar.data.uniform_frames import uniform_frame_indices
from oskar.errors import InputError


@pytest.mark.parametrize(
    ("n_frames_in_video", "n", "expected"),
    [
        (16, 16, list(range(16))),
        (31, 16, list(range(0, 31, 2))),
        (100, 4, [0, 33, 66, 99]),
        (10, 4, [0, 3, 6, 9]),
        (11, 4, [0, 3, 6, 10]),  # 0, 3.33, 6.67, 10
        (300, 12, [0, 27, 54, 81, 108, 135, 163, 190, 217, 244, 271, 299]),  # steps of 299 / 11 = 27.18
        (3, 8, [0, 0, 0, 0, 1, 1, 1, 2]),  # 2 i / 7
        (2, 4, [0, 0, 0, 1]),
        (1, 5, [0] * 5),
        (9, 1, [0]),
        (9, 2, [0, 8]),
    ],
)
def test_by_hand(n_frames_in_video: int, n: int, expected: list[int]) -> None:
    assert uniform_frame_indices(n_frames_in_video, n) == expected


@given(st.integers(1, 5000), st.integers(1, 64))
def test_it_is_linspace_rounded_down(n_frames_in_video: int, n: int) -> None:
    chosen = uniform_frame_indices(n_frames_in_video, n)
    last = n_frames_in_video - 1
    exact = [Fraction(i * last, n - 1) for i in range(n)] if n > 1 else [Fraction(0)]
    assert chosen == [math.floor(place) for place in exact]
    floats = np.floor(np.linspace(0, last, n)).astype(int)
    assert np.abs(floats - chosen).max() <= 1  # where a float falls just short of a whole number
    is_whole = [place.denominator == 1 for place in exact]
    assert all(a == b or whole for a, b, whole in zip(floats, chosen, is_whole, strict=True))
    assert chosen[-1] == (last if n > 1 else 0)


@pytest.mark.parametrize(
    ("n_frames_in_video", "n", "message"),
    [
        (0, 4, "a video of 0 frames.*Fix: leave"),
        (-1, 4, "a video of -1 frames"),
        (9, 0, "0 frames asked for.*Fix: ask"),
    ],
)
def test_what_is_refused(n_frames_in_video: int, n: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        uniform_frame_indices(n_frames_in_video, n)
