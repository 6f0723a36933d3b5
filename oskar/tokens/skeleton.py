"""Skeleton tokens: one joint of one person in one frame, as (x, y, confidence)."""

import torch
from torch import Tensor

from oskar.config import TokensConfig
from oskar.modalities import Modality

# Coordinates of joints in a crop, brought to about mean 0 and variance 1 as pixels are; without
# this a joint's content is a hundredth of its position embedding's variance.
JOINT_MEAN = (0.5, 0.5, 0.5)
JOINT_STD = (0.25, 0.25, 0.5)


class SkeletonTokens:
    """Tokens in the order person, frame, joint.

    ``joints`` ``[B, S, T, J, 3]`` in shares of the crop. A joint is available when its confidence
    reaches ``min_confidence`` and it lies inside the crop. The cell of joint (x, y) in frame t is
    ``(t // tubelet_frames, floor(G y), floor(G x))`` on the video's G x G grid (assumption A17).
    With ``joint_frame="person"`` the values taken are shares of the square around all boxes of the
    joint's person in the clip; where that square lies is left to the box embedding.
    """

    modality: Modality = "skeleton"

    def __init__(self, joints: Tensor, boxes: Tensor, has_skeleton: Tensor, tokens: TokensConfig) -> None:
        n_clips, _, n_frames, n_joints, _ = joints.shape
        self._per_frame, self._per_person = n_joints, n_frames * n_joints
        self._boxes = boxes
        self._values = joints if tokens.joint_frame == "clip" else in_person_frame(joints, boxes)
        x, y, confidence = joints.unbind(-1)
        is_inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        is_valid = is_inside & (confidence >= tokens.min_confidence) & (confidence > 0)
        self.is_valid = is_valid.flatten(1) & has_skeleton[:, None]
        side = tokens.resolution // tokens.patch_size
        row, column = (y * side).long().clamp(0, side - 1), (x * side).long().clamp(0, side - 1)
        step = torch.arange(n_frames, device=joints.device).div(tokens.tubelet_frames, rounding_mode="floor")
        cells = step[:, None] * side * side + row * side + column
        self.cells = torch.where(self.is_valid, cells.view(n_clips, -1), -1)

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        return self._values.flatten(1, 3)[clip_idx, token_idx]

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        person, rest = token_idx // self._per_person, token_idx % self._per_person
        return self._boxes[clip_idx, person, rest // self._per_frame]


def in_person_frame(joints: Tensor, boxes: Tensor) -> Tensor:
    """Joints ``[B, S, T, J, 3]`` as shares of the square around each person's boxes ``[B, S, T, 4]`` over time."""
    has_box = (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True)
    low = torch.where(has_box, boxes[..., :2], 1.0).amin(2, keepdim=True)
    high = torch.where(has_box, boxes[..., 2:], 0.0).amax(2, keepdim=True)
    side = (high - low).amax(-1, keepdim=True).clamp_min(1e-3)
    corner = (low + high - side) / 2
    moved = (joints[..., :2] - corner[..., None, :]) / side[..., None, :]
    return torch.cat([moved, joints[..., 2:]], dim=-1)


def normalise_joints(values: Tensor) -> Tensor:
    """Values ``[n, 3]`` of joints (x, y, confidence) with about mean 0 and variance 1."""
    columns = zip(values.unbind(1), JOINT_MEAN, JOINT_STD, strict=True)
    return torch.stack([(column - mean) / std for column, mean, std in columns], dim=1)
