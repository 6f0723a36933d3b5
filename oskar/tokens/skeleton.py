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
    """Tokens in the order person, segment, joint; a segment is ``segment_frames`` frames.

    ``joints`` ``[B, S, T, J, 3]`` in shares of the crop. A joint is available in a frame when its
    confidence reaches ``min_confidence`` and it lies inside the crop, and a token is when its joint is
    in any of its frames; in the others it has confidence 0 and its mean place, not an invented zero.
    The cell of joint (x, y) in frame t is ``(t // tubelet_frames, floor(G y), floor(G x))`` on the
    video's G x G grid (assumption A17); a token has the cells of all its frames.
    With ``joint_frame="person"`` the values taken are shares of the square around all boxes of the
    joint's person in the clip, and that square is the token's box: it says who and where, but not, as
    the box of each frame would, how far the arms reach.
    """

    modality: Modality = "skeleton"

    def __init__(self, joints: Tensor, boxes: Tensor, has_skeleton: Tensor, tokens: TokensConfig) -> None:
        n_frames, n_joints = joints.shape[2:4]
        self._per_segment = n_joints
        self._per_person = n_frames // tokens.segment_frames * n_joints
        if tokens.joint_frame == "person":
            squares = person_squares(boxes)
            joints_in_frame, boxes = in_person_frame(joints, squares), squares.expand_as(boxes)
        else:
            joints_in_frame = joints
        self._boxes = _by_segment(boxes[:, :, :, None], tokens.segment_frames)
        x, y, confidence = joints.unbind(-1)
        is_inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        is_there = is_inside & (confidence >= tokens.min_confidence) & (confidence > 0)
        self._is_there = _by_segment((is_there & has_skeleton[:, None, None, None])[..., None], tokens.segment_frames)
        self._values = _by_segment(joints_in_frame, tokens.segment_frames)
        self.is_valid = self._is_there.any(2).squeeze(2)
        side = tokens.resolution // tokens.patch_size
        row, column = (y * side).long().clamp(0, side - 1), (x * side).long().clamp(0, side - 1)
        step = torch.arange(n_frames, device=joints.device).div(tokens.tubelet_frames, rounding_mode="floor")
        cells = _by_segment((step[:, None] * side * side + row * side + column)[..., None], tokens.segment_frames)
        self.cells = torch.where(self._is_there, cells, -1).squeeze(-1)

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        values, is_there = self._values[clip_idx, token_idx], self._is_there[clip_idx, token_idx]
        if values.shape[1] > 1:
            mean = torch.where(is_there, values, 0.0).sum(1, keepdim=True) / is_there.sum(1, keepdim=True).clamp_min(1)
            mean[..., 2] = 0.0  # what is missing has no confidence
            values = torch.where(is_there, values, mean)
        return values.flatten(1)

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        """The person's box in the middle of the token's frames."""
        person, segment = token_idx // self._per_person, token_idx % self._per_person // self._per_segment
        n_segments = self._per_person // self._per_segment
        boxes = self._boxes[clip_idx, person * n_segments + segment]
        return boxes[:, boxes.shape[1] // 2]


def _by_segment(values: Tensor, n_frames: int) -> Tensor:
    """Values ``[B, S, T, J, C]`` of frames as those of tokens ``[B, S * segments * J, frames, C]``."""
    n_clips, n_people, _, n_joints, width = values.shape
    segments = values.reshape(n_clips, n_people, -1, n_frames, n_joints, width)
    return segments.transpose(3, 4).flatten(1, 3)


def person_squares(boxes: Tensor) -> Tensor:
    """The square ``[B, S, 1, 4]`` around each person's boxes ``[B, S, T, 4]`` over time; it may leave the crop."""
    has_box = (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True)
    low = torch.where(has_box, boxes[..., :2], 1.0).amin(2, keepdim=True)
    high = torch.where(has_box, boxes[..., 2:], 0.0).amax(2, keepdim=True)
    side = (high - low).amax(-1, keepdim=True).clamp_min(1e-3)
    corner = (low + high - side) / 2
    return torch.cat([corner, corner + side], dim=-1)


def in_person_frame(joints: Tensor, squares: Tensor) -> Tensor:
    """Joints ``[B, S, T, J, 3]`` as shares of their person's square ``[B, S, 1, 4]``."""
    corner, side = squares[..., None, :2], (squares[..., 2:] - squares[..., :2])[..., None, :]
    return torch.cat([(joints[..., :2] - corner) / side, joints[..., 2:]], dim=-1)


def normalise_joints(values: Tensor) -> Tensor:
    """Values ``[n, 3 frames]`` of joints (x, y, confidence in each frame) with about mean 0 and variance 1."""
    columns = zip(values.view(values.shape[0], -1, 3).unbind(2), JOINT_MEAN, JOINT_STD, strict=True)
    return torch.stack([(column - mean) / std for column, mean, std in columns], dim=2).flatten(1)
