"""Windows of clips: by hand, and what holds for any length, rate and stride."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oskar.data.reader import ClipLength, Span
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError


def spans(n_frames: int, fps: float | None, seconds: float, stride: float | None = None) -> list[tuple[int, int]]:
    config = WindowConfig(kind="sliding", seconds=seconds, stride_seconds=stride)
    return [(span.first, span.end) for span in config.spans(ClipLength(n_frames, fps), "c")]


@pytest.mark.parametrize(
    ("length", "seconds", "stride", "wanted"),
    [
        ((100, 25.0), 2.0, None, [(0, 50), (50, 100)]),
        ((110, 25.0), 2.0, None, [(0, 50), (50, 100), (60, 110)]),
        ((100, 25.0), 2.0, 1.0, [(0, 50), (25, 75), (50, 100)]),
        ((100, 25.0), 1.0, 2.0, [(0, 25), (50, 75), (75, 100)]),
        ((7, 2.0), 2.0, 0.75, [(0, 4), (2, 6), (3, 7)]),  # 1.5 frames: the nearest even, then every other
        ((50, 25.0), 2.0, None, [(0, 50)]),
        ((49, 25.0), 2.0, None, [(0, 49)]),
        ((9, 1.0), 0.2, None, [(i, i + 1) for i in range(9)]),  # a window has a frame at least, and they differ
        ((3, 29.97), 0.05, None, [(0, 1), (1, 2), (2, 3)]),
        ((1, None), 2.0, None, [(0, 1)]),
        ((0, None), 2.0, None, [(0, 0)]),
    ],
)
def test_windows_by_hand(
    length: tuple[int, float | None], seconds: float, stride: float | None, wanted: list[tuple[int, int]]
) -> None:
    assert spans(*length, seconds, stride) == wanted


def test_a_whole_clip_is_one_window_whatever_its_rate() -> None:
    assert WindowConfig().spans(ClipLength(12, None), "c") == [Span(0, 12)]


def test_seconds_need_a_rate() -> None:
    with pytest.raises(InputError, match=r"clip c: its frame rate is not known.*Fix: give the column fps"):
        spans(12, None, 1.0)


@given(n_frames=st.integers(2, 2000), fps=st.floats(0.5, 120), seconds=st.floats(0.01, 60), share=st.floats(0.05, 1.0))
def test_windows_of_any_clip(n_frames: int, fps: float, seconds: float, share: float) -> None:
    """In order, inside the clip, of one length, from first to last frame; with a stride up to their length no gap."""
    found = spans(n_frames, fps, seconds, seconds * share)
    n_shown = min(max(1, round(seconds * fps)), n_frames)
    assert {end - first for first, end in found} == {n_shown}
    assert found[0][0] == 0
    assert found[-1][1] == n_frames
    assert all(before[0] < after[0] for before, after in itertools.pairwise(found))
    widest = max(1.0, seconds * share * fps) + 1
    assert all(after[0] - before[0] <= widest for before, after in itertools.pairwise(found))
