"""Clips around key frames and their boxes: by hand, and properties over many draws."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.data.cropping import Crop, crop_boxes, whole_frame
from oskar.data.key_frames import enlarge_boxes, jitter_boxes, key_frame_indices
from oskar.errors import InputError


def test_the_clip_of_the_protocol() -> None:
    """Second 902 at 30 fps is frame 27060: a window from 27028, of which 1, 5, ... 61."""
    found = key_frame_indices(902, fps=30, n_available=60000)
    assert found == [27028 + 1 + 4 * i for i in range(16)]
    part = key_frame_indices(902, fps=30, n_available=27000, file_start_seconds=900)
    assert part == [60 - 31 + 4 * i for i in range(16)]


def test_ends_of_the_file_are_clamped() -> None:
    first = key_frame_indices(900, fps=30, n_available=27000, file_start_seconds=900)
    assert first == [0] * 8 + [1, 5, 9, 13, 17, 21, 25, 29]
    last = key_frame_indices(10, fps=25, n_available=256)
    assert last == [219 + 4 * i for i in range(10)] + [255] * 6
    assert key_frame_indices(0, fps=30, n_available=1) == [0] * 16


def test_other_strides_and_rates() -> None:
    assert key_frame_indices(1, fps=10, n_available=100, n_frames=4, stride_frames=1) == [8, 9, 10, 11]
    assert key_frame_indices(1, fps=10, n_available=100, n_frames=4, stride_frames=2) == [6, 8, 10, 12]
    assert key_frame_indices(1, fps=10, n_available=100, n_frames=4, stride_frames=3) == [5, 8, 11, 14]
    assert key_frame_indices(1, fps=29.97, n_available=100, n_frames=1, stride_frames=1) == [30]


@settings(deadline=None)
@given(
    second=st.integers(0, 40),
    fps=st.floats(5, 60),
    n_available=st.integers(1, 1500),
    n_frames=st.integers(1, 32),
    stride_frames=st.integers(1, 8),
)
def test_every_clip_is_in_the_file_and_around_its_key_frame(
    second: int, fps: float, n_available: int, n_frames: int, stride_frames: int
) -> None:
    key_frame = int(second * fps + 0.5)
    if key_frame >= n_available:
        with pytest.raises(InputError, match=r"second \d+ is frame \d+ .*Fix: correct the time"):
            key_frame_indices(second, fps=fps, n_available=n_available)
        return
    found = key_frame_indices(second, fps=fps, n_available=n_available, n_frames=n_frames, stride_frames=stride_frames)
    assert len(found) == n_frames
    assert 0 <= min(found) <= max(found) < n_available
    half = n_frames * stride_frames / 2
    for before, after in pairwise(found):
        is_at_an_end = before == 0 or after == n_available - 1
        assert after - before == stride_frames or (is_at_an_end and 0 <= after - before < stride_frames)
    if half < key_frame < n_available - half - 1:
        assert abs((found[0] + found[-1]) / 2 - key_frame) <= 1
        assert min(found) >= key_frame - half
        assert max(found) < key_frame + half


def test_a_key_frame_that_is_not_in_the_file() -> None:
    message = r"second 899 is frame -30 at 30 fps, the file has 90 frames from second 900\. Fix: correct the time"
    with pytest.raises(InputError, match=message):
        key_frame_indices(899, fps=30, n_available=90, file_start_seconds=900)
    with pytest.raises(InputError, match=r"second 3 is frame 90 at 30 fps, the file has 90 frames"):
        key_frame_indices(3, fps=30, n_available=90)


BOX = torch.tensor([[0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)  # 0.4 wide and high


def test_jitter_by_hand() -> None:
    ends = {
        0.0: [0.24, 0.42, 0.56, 0.78],  # in by a tenth and a twentieth
        1.0: [0.12, 0.36, 0.68, 0.84],  # out by a fifth and a tenth
        1 / 3: [0.2, 0.4, 0.6, 0.8],
    }
    for u, expected in ends.items():
        found = jitter_boxes(BOX, torch.full((1, 4), u, dtype=torch.float64))
        torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))
    each = jitter_boxes(BOX, torch.tensor([[0.0, 1.0, 1 / 3, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(each, torch.tensor([[0.24, 0.36, 0.6, 0.84]], dtype=torch.float64))


def test_enlarging_by_hand() -> None:
    wide = torch.tensor([[0.0, 0.0, 100.0, 200.0], [10.0, 10.0, 30.0, 20.0]])
    torch.testing.assert_close(
        enlarge_boxes(wide), torch.tensor([[-5.0, -5.0, 105.0, 205.0], [9.0, 9.75, 31.0, 20.25]])
    )


unit = st.floats(0, 1, width=32)
u = st.floats(0, 1, exclude_max=True, width=32)


@settings(deadline=None)
@given(box=st.tuples(unit, unit, st.floats(0.01, 1), st.floats(0.01, 1)), u=st.tuples(u, u, u, u))
def test_a_jittered_box_keeps_most_of_itself(box: tuple[float, ...], u: tuple[float, ...]) -> None:
    x, y, w, h = (float(value) for value in box)
    boxes = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64)
    x1, y1, x2, y2 = jitter_boxes(boxes, torch.tensor([u], dtype=torch.float64))[0].tolist()
    assert x - 0.2 * w - 1e-9 <= x1 <= x + 0.1 * w + 1e-9
    assert y - 0.1 * h - 1e-9 <= y1 <= y + 0.05 * h + 1e-9
    assert x + w - 0.1 * w - 1e-9 <= x2 <= x + w + 0.2 * w + 1e-9
    assert y + h - 0.05 * h - 1e-9 <= y2 <= y + h + 0.1 * h + 1e-9


def test_crops_by_hand() -> None:
    crop = Crop(x1=0.5, y1=0.25, x2=1.0, y2=0.75)
    boxes = torch.tensor(
        [
            [0.5, 0.25, 1.0, 0.75],  # the crop itself
            [0.625, 0.375, 0.75, 0.5],  # inside
            [0.25, 0.0, 0.75, 0.5],  # across its corner
            [0.0, 0.25, 0.5, 0.75],  # beside it, touching
            [0.75, 0.5, 0.75, 0.6],  # without area
        ]
    )
    expected = [[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]]
    found, is_inside = crop_boxes(boxes, crop)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert is_inside.tolist() == [True, True, True, False, False]
    flipped, is_inside = crop_boxes(boxes, Crop(x1=0.5, y1=0.25, x2=1.0, y2=0.75, flip=True))
    mirrored = [[0, 0, 1, 1], [0.5, 0.25, 0.75, 0.5], [0.5, 0, 1, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(flipped, torch.tensor(mirrored))
    assert is_inside.tolist() == [True, True, True, False, False]
    none, _ = crop_boxes(boxes[:0], crop)
    assert none.shape == (0, 4)


@settings(deadline=None)
@given(
    corners=st.tuples(*[st.floats(-0.5, 1.5, width=32)] * 4), ends=st.tuples(unit, unit, unit, unit), flip=st.booleans()
)
def test_what_is_left_of_a_box_is_its_intersection_with_the_crop(
    corners: tuple[float, ...], ends: tuple[float, ...], flip: bool
) -> None:
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    (left, right), (top, bottom) = sorted(ends[:2]), sorted(ends[2:])
    if right - left < 0.01 or bottom - top < 0.01:
        right, bottom = left + 0.5, top + 0.5
    crop = Crop(x1=left, y1=top, x2=right, y2=bottom, flip=flip)
    found, is_inside = crop_boxes(torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64), crop)
    shared = [max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)]
    if shared[2] - shared[0] > 1e-6 and shared[3] - shared[1] > 1e-6:
        assert is_inside.item()
        low_x, low_y, high_x, high_y = found[0].tolist()
        if flip:
            low_x, high_x = 1 - high_x, 1 - low_x
        width, height = right - left, bottom - top
        back = [left + low_x * width, top + low_y * height, left + high_x * width, top + high_y * height]
        assert back == pytest.approx(shared, abs=1e-9)
    elif shared[2] < shared[0] or shared[3] < shared[1]:
        assert not is_inside.item()
        assert found.abs().max() == 0


def test_clipping_to_the_frame_is_cropping_to_all_of_it() -> None:
    found, is_inside = crop_boxes(torch.tensor([[-0.1, 0.2, 0.5, 1.3], [1.1, 0.0, 1.2, 1.0]]), whole_frame())
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.2, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    assert is_inside.tolist() == [True, False]
