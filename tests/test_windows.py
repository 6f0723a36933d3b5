"""Temporal windows against hand-written index lists and numpy's own linspace."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.config import ClipConfig
from oskar.data.windows import evaluation_windows, window_indices
from oskar.errors import InputError

STRIDE_4 = ClipConfig(temporal="stride", stride_frames=4)
SPAN = ClipConfig(temporal="span", span_share=(0.5, 1.0))
unit = st.floats(0, 1, exclude_max=True)


def test_stride_takes_every_nth_frame_of_a_window() -> None:
    def indices(u_start: float, n_available: int = 100) -> list[int]:
        return window_indices(n_available, n_frames=16, config=STRIDE_4, u_start=u_start, u_share=0.3)

    assert indices(0.0) == list(range(0, 64, 4))
    assert indices(0.999999) == list(range(36, 100, 4))
    assert indices(0.5) == list(range(18, 82, 4))  # 37 possible starts, 0.5 * 37 = 18.5
    assert indices(0.9, n_available=64) == list(range(0, 64, 4))


def test_every_start_is_equally_likely() -> None:
    starts = [
        window_indices(70, n_frames=16, config=STRIDE_4, u_start=u, u_share=0.0)[0]
        for u in np.arange(0, 1, 1 / 7000).tolist()
    ]
    assert np.bincount(starts).tolist() == pytest.approx([1000] * 7, abs=1)


@pytest.mark.parametrize("n_available", [*range(1, 64), 63])
def test_short_sequences_follow_vjepa(n_available: int) -> None:
    found = window_indices(n_available, n_frames=16, config=STRIDE_4, u_start=0.7, u_share=0.0)
    n_spread = max(n_available // 4, 1)
    # A tiny amount keeps exact integers, which floating point puts just below, from being cut down.
    spread = np.linspace(0, n_available, num=n_spread) + 1e-9
    padded = np.concatenate([spread, np.full(16 - n_spread, n_available)])
    assert found == np.clip(padded, 0, n_available - 1).astype(np.int64).tolist()


def test_short_sequence_by_hand() -> None:
    found = window_indices(20, n_frames=8, config=STRIDE_4, u_start=0.0, u_share=0.0)
    assert found == [0, 5, 10, 15, 19, 19, 19, 19]
    assert window_indices(1, n_frames=4, config=STRIDE_4, u_start=0.9, u_share=0.9) == [0, 0, 0, 0]
    assert window_indices(3, n_frames=4, config=STRIDE_4, u_start=0.9, u_share=0.9) == [0, 2, 2, 2]


def test_span_by_hand() -> None:
    def indices(n_available: int, n_frames: int, u_start: float, u_share: float) -> list[int]:
        return window_indices(n_available, n_frames=n_frames, config=SPAN, u_start=u_start, u_share=u_share)

    assert indices(20, 4, 0.0, 0.0) == [0, 3, 6, 9]  # the first 10 of 20
    assert indices(20, 4, 0.99, 0.0) == [10, 13, 16, 19]  # the last 10
    assert indices(4, 7, 0.0, 0.999) == [0, 1, 1, 2, 2, 3, 3]  # 0, .5, 1, 1.5 ... with halves up
    assert indices(9, 1, 0.0, 0.999) == [4]


@settings(deadline=None)
@given(
    n_available=st.integers(1, 400),
    n_frames=st.integers(1, 40),
    stride=st.integers(1, 9),
    temporal=st.sampled_from(["stride", "span"]),
    u_start=unit,
    u_share=unit,
    n_clips=st.integers(1, 9),
)
def test_windows_always_fit(
    n_available: int, n_frames: int, stride: int, temporal: str, u_start: float, u_share: float, n_clips: int
) -> None:
    config = ClipConfig(temporal="stride" if temporal == "stride" else "span", stride_frames=stride)
    random_window = window_indices(n_available, n_frames=n_frames, config=config, u_start=u_start, u_share=u_share)
    fixed = evaluation_windows(n_available, n_frames=n_frames, config=config, n_clips=n_clips)
    assert len(fixed) == n_clips
    assert [window[0] for window in fixed] == sorted(window[0] for window in fixed)
    for window in [random_window, *fixed]:
        assert len(window) == n_frames
        assert window == sorted(window)
        assert window[0] >= 0
        assert window[-1] < n_available


@settings(deadline=None)
@given(n_available=st.integers(2, 300), u_start=unit, u_share=unit)
def test_span_length_is_the_share(n_available: int, u_start: float, u_share: float) -> None:
    window = window_indices(n_available, n_frames=16, config=SPAN, u_start=u_start, u_share=u_share)
    length = window[-1] - window[0] + 1
    assert abs(length - (0.5 + 0.5 * u_share) * n_available) <= 0.5 + 1e-6


def test_evaluation_stride_is_centred_in_segments() -> None:
    def starts(n_available: int, n_clips: int) -> list[int]:
        windows = evaluation_windows(n_available, n_frames=16, config=STRIDE_4, n_clips=n_clips)
        assert all(w == list(range(w[0], w[0] + 64, 4)) for w in windows)
        return [w[0] for w in windows]

    assert starts(100, 1) == [18]
    assert starts(300, 2) == [43, 193]  # segments of 150, margins of 43
    assert starts(128, 2) == [0, 64]
    assert starts(100, 2) == [0, 36]  # segments of 50 are too short: overlapping windows
    assert starts(100, 3) == [0, 18, 36]
    assert starts(65, 8) == [0, 0, 0, 0, 0, 0, 0, 1]


def test_evaluation_of_short_sequences_repeats_one_window() -> None:
    windows = evaluation_windows(20, n_frames=8, config=STRIDE_4, n_clips=2)
    assert windows == [[0, 5, 10, 15, 19, 19, 19, 19]] * 2


def test_evaluation_span() -> None:
    assert evaluation_windows(10, n_frames=4, config=SPAN, n_clips=1) == [[0, 3, 6, 9]]
    assert evaluation_windows(8, n_frames=2, config=SPAN, n_clips=3) == [[0, 5], [1, 6], [2, 7]]  # windows of 6 of 8


def test_no_frames_is_an_input_error() -> None:
    for config in (STRIDE_4, SPAN):
        with pytest.raises(InputError, match=r"0 frames.*Fix: "):
            window_indices(0, n_frames=16, config=config, u_start=0.0, u_share=0.0)
        with pytest.raises(InputError, match=r"0 frames.*Fix: "):
            evaluation_windows(0, n_frames=16, config=config, n_clips=2)
    with pytest.raises(InputError, match="n_clips = 0"):
        evaluation_windows(10, n_frames=16, config=SPAN, n_clips=0)
