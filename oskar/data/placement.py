"""Skeletons of a recording in the internal layout, and how chosen frames of them are laid on an image."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from oskar.errors import InputError

BOX_PADDING = 0.05  # a box derived from joints grows by this share of its longer side, on every side
SMALLEST_PADDING = 0.01  # of the frame: a single joint still has a box
_SMALLEST_SIDE = 1e-6  # a virtual frame around a single joint still has a size
_BELOW_ONE = 1.0 - 2.0**-24


@dataclass(frozen=True, kw_only=True, slots=True)
class SkeletonSequence:
    """One whole recording in the internal layout; S people, T frames.

    ``positions`` float32 ``[S, T, 17, 2|3]``: in 2-D the share of the frame, [0, 1) inside, y down;
    in 3-D metres, x to the image's right, y up, z away from the camera at the origin.
    ``confidence`` float32 ``[S, T, 17]``, 0 where a joint is unavailable. ``boxes`` float32
    ``[S, T, 4]``: x1, y1, x2, y2 as shares of the frame, NaN where unknown; 2-D only.
    ``frame_aspect`` is width over height of the frame, 1 where no frame is known.
    """

    positions: Tensor
    confidence: Tensor
    boxes: Tensor | None
    frame_aspect: float = 1.0

    @property
    def n_frames(self) -> int:
        return self.positions.shape[1]


def place(
    sequence: SkeletonSequence,
    frame_idx: Tensor,
    *,
    projection: Literal["orthographic", "pinhole"],
    focal_length: float,
    yaw_radians: float,
    margin: float,
    virtual_frame: bool,
) -> tuple[Tensor, Tensor]:
    """Joints ``[S, t, 17, 3]`` (x, y, confidence) and boxes ``[S, t, 4]`` of the chosen frames, y down.

    ``frame_idx`` int64 ``[t]``. With ``virtual_frame`` the image is a square around all available
    joints of the chosen frames, ``margin`` times its side added on each side; there 3-D joints
    first turn by ``yaw_radians`` about the vertical through the people's centre, and a pinhole's
    focal length cancels: only its perspective remains. Without it the joints lie on the video's own
    frame: 2-D passes unchanged, 3-D needs the pinhole of the camera, ``focal_length`` in units of
    the frame's longer side with the principal point in the middle, and is not turned.

    A joint outside the frame keeps its coordinates. Boxes end at the frame's border; a person-frame
    with neither joints nor a box has a box of zeros. Raises ``InputError`` where a frame does not
    exist or 3-D joints cannot be projected as asked.
    """
    if len(frame_idx) and not 0 <= int(frame_idx.min()) <= int(frame_idx.max()) < sequence.n_frames:
        raise InputError(
            f"frames {int(frame_idx.min())} to {int(frame_idx.max())} of a skeleton of {sequence.n_frames} frames",
            fix="make the joints file as long as its video",
        )
    positions, confidence = sequence.positions[:, frame_idx], sequence.confidence[:, frame_idx]
    boxes = None if sequence.boxes is None else sequence.boxes[:, frame_idx]
    if positions.shape[-1] == 3:
        if not virtual_frame and projection != "pinhole":
            raise InputError(
                f"clip.projection = {projection!r} cannot lay 3-D joints over a video",
                fix="set clip.projection=pinhole and clip.focal_lengths to the camera's, or give 2-D joints",
            )
        if virtual_frame:
            positions = _turn(positions, confidence > 0, yaw_radians)
        positions, confidence = _project(positions, confidence, projection)
        if not virtual_frame:
            positions = _on_frame(positions, focal_length, sequence.frame_aspect)
    elif virtual_frame:
        scale = torch.tensor([sequence.frame_aspect, 1.0])  # shares of width and height are different lengths
        positions = positions * scale
        boxes = None if boxes is None else boxes * scale.repeat(2)
    if virtual_frame:
        positions, boxes = _in_virtual_frame(positions, confidence > 0, boxes, margin)
    is_available = confidence > 0
    joints = torch.cat([positions, confidence[..., None]], dim=-1)
    return torch.where(is_available[..., None], joints, 0.0), _person_boxes(positions, is_available, boxes)


def _turn(positions: Tensor, is_available: Tensor, yaw_radians: float) -> Tensor:
    """Turn ``[..., 3]`` about the vertical through the mean of the available joints, from +z towards +x."""
    if yaw_radians == 0.0 or not bool(is_available.any()):
        return positions
    centre = positions[is_available].mean(dim=0)
    cos, sin = math.cos(yaw_radians), math.sin(yaw_radians)
    rotation = positions.new_tensor([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    return (positions - centre) @ rotation.T + centre


def _project(
    positions: Tensor, confidence: Tensor, projection: Literal["orthographic", "pinhole"]
) -> tuple[Tensor, Tensor]:
    """Image-plane positions ``[..., 2]`` with y down at focal length 1; behind a pinhole a joint is unavailable."""
    flat = positions[..., :2] * positions.new_tensor([1.0, -1.0])
    if projection == "orthographic":
        return flat, confidence
    depth = positions[..., 2]
    in_front = torch.where(depth > 0, confidence, 0.0)
    if bool((confidence > 0).any()) and not bool((in_front > 0).any()):
        raise InputError(
            "clip.projection = 'pinhole', but no joint lies in front of the camera (z > 0)",
            fix="set clip.projection=orthographic for joints that are relative to the body",
        )
    return flat / torch.where(depth > 0, depth, 1.0)[..., None], in_front


def _on_frame(positions: Tensor, focal_length: float, frame_aspect: float) -> Tensor:
    """Shares of the video's frame; the focal length is in units of its longer side."""
    longer = max(frame_aspect, 1.0)  # in units of the frame's height
    return positions * positions.new_tensor([focal_length * longer / frame_aspect, focal_length * longer]) + 0.5


def _in_virtual_frame(
    positions: Tensor, is_available: Tensor, boxes: Tensor | None, margin: float
) -> tuple[Tensor, Tensor | None]:
    """Coordinates in the square around all available joints; a joint on its far edge stays below 1."""
    if not bool(is_available.any()):
        return positions, boxes
    points = positions[is_available]
    low, high = points.amin(dim=0), points.amax(dim=0)
    centre = (low + high) / 2
    side = ((high - low).max() * (1 + 2 * margin)).clamp_min(_SMALLEST_SIDE)
    placed = ((positions - centre) / side + 0.5).clamp(0.0, _BELOW_ONE)
    return placed, None if boxes is None else (boxes - centre.repeat(2)) / side + 0.5


def _person_boxes(positions: Tensor, is_available: Tensor, boxes: Tensor | None) -> Tensor:
    """The given boxes, and boxes around the available joints where none is given; cut at the frame."""
    seen = is_available[..., None]
    low = torch.where(seen, positions, torch.inf).amin(dim=-2)
    high = torch.where(seen, positions, -torch.inf).amax(dim=-2)
    padding = (BOX_PADDING * (high - low).amax(dim=-1, keepdim=True)).clamp_min(SMALLEST_PADDING)
    result = torch.cat([low - padding, high + padding], dim=-1)
    if boxes is not None:
        result = torch.where(_has_area(boxes)[..., None], boxes, result)
    result = result.clamp(0.0, 1.0)
    return torch.where(_has_area(result)[..., None], result, 0.0)


def _has_area(boxes: Tensor) -> Tensor:
    """True where a box is finite and its corners are in order."""
    return boxes.isfinite().all(dim=-1) & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
