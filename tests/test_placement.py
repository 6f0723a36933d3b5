"""Laying skeletons on an image: projections, turning and virtual frames against hand calculation."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oskar.data.skeletons import SkeletonSequence, place
from oskar.errors import InputError

LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6


def _sequence(points: dict[int, list[float]], n_frames: int = 1, **fields: Any) -> SkeletonSequence:
    """One person whose named joints have these positions in every frame; all others are unavailable."""
    width = len(next(iter(points.values())))
    positions, confidence = torch.zeros(1, n_frames, 17, width), torch.zeros(1, n_frames, 17)
    for joint, point in points.items():
        positions[:, :, joint] = torch.tensor(point)
        confidence[:, :, joint] = 0.8
    return SkeletonSequence(positions=positions, confidence=confidence, **{"boxes": None, **fields})


def _place(sequence: SkeletonSequence, idx: Tensor | None = None, **changes: Any) -> tuple[Tensor, Tensor]:
    settings = {
        "projection": "orthographic",
        "focal_length": 1.0,
        "yaw_radians": 0.0,
        "margin": 0.0,
        "virtual_frame": True,
    }
    idx = torch.arange(sequence.n_frames) if idx is None else idx
    return place(sequence, idx, **{**settings, **changes})


def test_orthographic_keeps_x_and_turns_y_down() -> None:
    joints, _ = _place(_sequence({0: [0.0, 2.0, 5.0], 11: [1.0, 0.0, 9.0], 12: [0.0, 0.0, 1.0]}), margin=0.5)
    # extent 1 x 2, side 2 * (1 + 2 * 0.5) = 4 around (0.5, 1)
    assert joints[0, 0, 0].tolist() == pytest.approx([0.5 - 0.5 / 4, 0.5 - 1 / 4, 0.8])
    assert joints[0, 0, 11].tolist() == pytest.approx([0.5 + 0.5 / 4, 0.5 + 1 / 4, 0.8])
    assert joints[0, 0, 12].tolist() == pytest.approx([0.5 - 0.5 / 4, 0.5 + 1 / 4, 0.8])


def test_a_quarter_turn_exchanges_width_and_depth() -> None:
    # centre (0, 0, 3); turning +z towards +x: (0.5, ., 3) -> (0, ., 2.5) and (0, ., 4) -> (1, ., 3)
    points = {5: [0.5, 1.0, 3.0], 6: [-0.5, 1.0, 3.0], 11: [0.0, 0.0, 4.0], 12: [0.0, 0.0, 2.0]}
    joints, _ = _place(_sequence(points), yaw_radians=math.pi / 2)
    # extent x: -1..1, y: 0..1, side 2
    assert joints[0, 0, 11, :2].tolist() == pytest.approx([1.0, 0.75], abs=1e-6)
    assert joints[0, 0, 12, :2].tolist() == pytest.approx([0.0, 0.75], abs=1e-6)
    assert joints[0, 0, 5, :2].tolist() == pytest.approx([0.5, 0.25], abs=1e-6)
    assert joints[0, 0, 6, :2].tolist() == pytest.approx([0.5, 0.25], abs=1e-6)


def test_a_pinhole_shrinks_with_depth() -> None:
    points = {5: [1.0, 1.0, 2.0], 6: [-1.0, 1.0, 2.0], 11: [1.0, -1.0, 4.0], 12: [-1.0, -1.0, 4.0]}
    joints, _ = _place(
        _sequence(points, frame_aspect=4 / 3), projection="pinhole", focal_length=0.5, virtual_frame=False
    )
    # 640 x 480, focal length 320 pixels: u = 320 + 320 x / z, v = 240 - 320 y / z
    assert joints[0, 0, 5, :2].tolist() == pytest.approx([480 / 640, 80 / 480])
    assert joints[0, 0, 12, :2].tolist() == pytest.approx([240 / 640, 320 / 480])
    portrait, _ = _place(
        _sequence(points, frame_aspect=3 / 4), projection="pinhole", focal_length=0.5, virtual_frame=False
    )
    assert portrait[0, 0, 5, :2].tolist() == pytest.approx([(240 + 160) / 480, (320 - 160) / 640], abs=1e-6)
    virtual, _ = _place(_sequence(points), projection="pinhole", focal_length=3.0)
    # at focal length 1: x from -0.5 to 0.5, y from -0.5 to 0.25; the frame's centre is y = -0.125
    assert virtual[0, 0, 11, :2].tolist() == pytest.approx([0.75, 0.5 + 0.25 + 0.125])


@given(yaw=st.floats(-1.2, 1.2), pinhole=st.booleans(), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_left_stays_left_and_everything_lies_in_the_virtual_frame(yaw: float, pinhole: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(2, 6, 17, 3, generator=generator) * 0.2 + torch.tensor([0.0, 0.0, 3.0])
    positions[..., LEFT_SHOULDER, 0] -= 1.0
    positions[..., RIGHT_SHOULDER, 0] += 1.0
    sequence = SkeletonSequence(positions=positions, confidence=torch.ones(2, 6, 17), boxes=None)
    joints, boxes = _place(sequence, yaw_radians=yaw, projection="pinhole" if pinhole else "orthographic")
    assert (joints[..., LEFT_SHOULDER, 0] < joints[..., RIGHT_SHOULDER, 0]).all()
    assert joints[..., :2].min() >= 0
    assert joints[..., :2].max() < 1
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_a_full_turn_changes_nothing() -> None:
    sequence = SkeletonSequence(positions=torch.randn(1, 4, 17, 3), confidence=torch.ones(1, 4, 17), boxes=None)
    direct, turned = _place(sequence)[0], _place(sequence, yaw_radians=2 * math.pi)[0]
    torch.testing.assert_close(direct, turned, rtol=0, atol=1e-5)


def test_2d_on_its_video_passes_unchanged_even_outside() -> None:
    sequence = _sequence({0: [1.25, 0.5], 5: [-0.25, 0.75]})
    joints, boxes = _place(sequence, virtual_frame=False, yaw_radians=1.0, margin=0.3, projection="pinhole")
    assert joints[0, 0, 0].tolist() == pytest.approx([1.25, 0.5, 0.8])
    assert joints[0, 0, 5].tolist() == pytest.approx([-0.25, 0.75, 0.8])
    # extent 1.5 x 0.25 grows by 5 % of 1.5 and ends at the frame
    assert boxes[0, 0].tolist() == pytest.approx([0.0, 0.425, 1.0, 0.825])
    assert joints[0, 0, 1:5].abs().sum() == 0


def test_2d_without_a_video_keeps_the_proportions_of_its_frame() -> None:
    # 200 x 100 pixels: (0.25, 0.5) to (0.5, 1.0) is 50 x 50 pixels, a square
    points = {0: [0.25, 0.5], 5: [0.5, 1.0]}
    given_box = torch.tensor([[[0.25, 0.5, 0.5, 1.0]]])
    joints, boxes = _place(_sequence(points, frame_aspect=2.0, boxes=given_box), margin=0.25)
    assert joints[0, 0, 0, :2].tolist() == pytest.approx([1 / 6, 1 / 6])
    assert joints[0, 0, 5, :2].tolist() == pytest.approx([5 / 6, 5 / 6])
    assert boxes[0, 0].tolist() == pytest.approx([1 / 6, 1 / 6, 5 / 6, 5 / 6])


def test_frames_are_picked_in_order_and_frame_the_view() -> None:
    positions = torch.zeros(1, 5, 17, 2)
    positions[0, :, :, 0] = torch.arange(5.0)[:, None]
    sequence = SkeletonSequence(positions=positions, confidence=torch.ones(1, 5, 17), boxes=None)
    joints, _ = _place(sequence, torch.tensor([3, 1, 1]), margin=0.5)
    assert joints[0, :, 0, 0].tolist() == pytest.approx([0.75, 0.25, 0.25])
    with pytest.raises(InputError, match="frames 1 to 5 of a skeleton of 5 frames"):
        _place(sequence, torch.tensor([1, 5]))
    with pytest.raises(InputError, match="frames -1"):
        _place(sequence, torch.tensor([-1]))


def test_boxes_given_missing_and_of_absent_people() -> None:
    sequence = _sequence({0: [0.4, 0.4], 5: [0.6, 0.8]}, n_frames=4)
    confidence = sequence.confidence.clone()
    confidence[0, 2:] = 0
    boxes = torch.full((1, 4, 4), torch.nan)
    boxes[0, [0, 2]] = torch.tensor([0.1, 0.2, 0.7, 1.3])
    _, placed = _place(
        SkeletonSequence(positions=sequence.positions, confidence=confidence, boxes=boxes), virtual_frame=False
    )
    assert placed[0, 0].tolist() == pytest.approx([0.1, 0.2, 0.7, 1.0])  # given, cut at the frame
    assert placed[0, 1].tolist() == pytest.approx([0.38, 0.38, 0.62, 0.82])  # 5 % of 0.4 around the joints
    assert placed[0, 2].tolist() == pytest.approx([0.1, 0.2, 0.7, 1.0])  # a box without joints is still a box
    assert placed[0, 3].tolist() == [0, 0, 0, 0]


def test_a_single_joint_and_no_joint_at_all_have_a_place() -> None:
    joints, boxes = _place(_sequence({0: [3.0, 2.0, 1.0]}))
    assert joints[0, 0, 0, :2].tolist() == [0.5, 0.5]
    assert boxes[0, 0].tolist() == pytest.approx([0.49, 0.49, 0.51, 0.51])
    sequence = SkeletonSequence(positions=torch.zeros(2, 3, 17, 3), confidence=torch.zeros(2, 3, 17), boxes=None)
    joints, boxes = _place(sequence, projection="pinhole", yaw_radians=0.5)
    assert joints.abs().sum() == 0
    assert boxes.abs().sum() == 0


def test_what_cannot_be_projected_is_refused_or_unavailable() -> None:
    relative = _sequence({0: [0.0, 0.5, -0.1], 11: [0.1, 0.0, -0.2]})
    with pytest.raises(InputError, match=r"in front of the camera.*orthographic"):
        _place(relative, projection="pinhole")
    with pytest.raises(InputError, match=r"over a video.*clip\.projection=pinhole"):
        _place(relative, virtual_frame=False)
    joints, _ = _place(_sequence({0: [0.0, 0.5, -0.1], 11: [0.1, 0.0, 2.0]}), projection="pinhole")
    assert joints[0, 0, 0].tolist() == [0, 0, 0]
    assert joints[0, 0, 11, 2] > 0
