"""The light decoder from predicted skeleton features to joints, and what it learns from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oskar.config import ModelConfig
from oskar.metrics.pose import mean_pose
from oskar.modalities import N_JOINTS
from oskar.model.layers import NORM_EPS, Block, init_weights
from oskar.tasks.pose_features import PoseTargets


@dataclass(frozen=True, slots=True)
class PoseBatch:
    """Predicted features ``[B, N, D_p]`` of all skeleton tokens and what they should say."""

    features: Tensor
    targets: PoseTargets

    @property
    def weight(self) -> float:
        """Joints to learn from."""
        return float(self.targets.is_counted.sum())

    def __len__(self) -> int:
        return len(self.features)

    def to(self, device: torch.device) -> "PoseBatch":
        return PoseBatch(self.features.to(device), self.targets.to(device))


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and deviation ``[positions, D_p]`` of predicted features at each frame and joint, over clips and people.

    Predictions of a place are alike in all clips; what differs between clips is small beside it.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: PoseTargets, n_positions: int) -> "Standard":
        values = features.reshape(-1, n_positions, features.shape[-1])
        weights = targets.is_counted.any(-1).reshape(-1, n_positions, 1).float()
        count = weights.sum(0).clamp_min(1)
        mean = (values * weights).sum(0) / count
        variance = ((values - mean).square() * weights).sum(0) / count
        return cls(mean, variance.sqrt().clamp_min(1e-6))


class PoseDecoder(nn.Module):
    """Blocks of attention among the tokens of one person, then a linear layer to places relative to a frame.

    With ``has_box`` that frame is the person's box, else the whole crop. The decoder starts as the mean pose of the
    training clips ``mean`` ``[J, 2]`` in that frame and learns what to add to it, so that a decoder that finds
    nothing in its features is that baseline.
    """

    def __init__(
        self,
        mean: Tensor,
        standard: Standard,
        *,
        n_frames: int,
        width: int,
        n_layers: int,
        n_heads: int,
        has_box: bool,
    ) -> None:
        super().__init__()
        self.n_positions, n_features = standard.mean.shape
        self.has_box, self.n_frames = has_box, n_frames
        layers = ModelConfig(width=width, n_blocks=n_layers, n_heads=n_heads, bias=True)
        self.input = nn.Linear(n_features, width)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.n_positions, width), std=0.02))
        self.blocks = nn.ModuleList(Block(width, n_heads, layers) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.output = nn.Linear(width, 2 * n_frames)
        init_weights(self, layers.init_std)
        nn.init.zeros_(self.output.weight)
        self.mean: Tensor
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("feature_mean", standard.mean)
        self.register_buffer("feature_std", standard.std)

    def forward(self, batch: PoseBatch) -> dict[str, Tensor]:
        """Mean absolute difference, in units of the frame, over the joints that are there."""
        corner, size = frames_of(batch.targets, has_box=self.has_box)
        relative = (batch.targets.joints - corner) / size
        error = (self.relative(batch.features, batch.targets) - relative).abs().sum(-1)
        is_counted = batch.targets.is_counted
        return {"loss": torch.where(is_counted, error, 0.0).sum() / is_counted.sum()}

    def relative(self, features: Tensor, targets: PoseTargets) -> Tensor:
        """Places ``[B, N, F, 2]`` in units of the frame, float32."""
        n_clips, n_tokens, _ = features.shape
        n_people = n_tokens // self.n_positions
        is_there = targets.is_counted.any(-1).view(n_clips * n_people, self.n_positions)
        pairs = (is_there | ~is_there.any(1, keepdim=True))[:, None, None]
        by_person = features.float().view(n_clips * n_people, self.n_positions, -1)
        x = self.input((by_person - self.feature_mean) / self.feature_std) + self.position
        for block in self.blocks:
            x = block(x, pairs=pairs)
        added: Tensor = self.output(self.norm(x)).float().view(n_clips, n_tokens, self.n_frames, 2)
        return added + self.mean.repeat(n_tokens // N_JOINTS, 1)[:, None]

    def after_step(self, share: float) -> None:
        """Decoders have no momentum."""

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        return {"all": list(self.parameters())}

    def joints(self, features: Tensor, targets: PoseTargets) -> Tensor:
        """Joints ``[B, N, F, 2]`` in shares of the crop."""
        corner, size = frames_of(targets, has_box=self.has_box)
        return corner + size * self.relative(features, targets)


def frames_of(targets: PoseTargets, *, has_box: bool) -> tuple[Tensor, Tensor]:
    """Corner and size ``[B, N, 1, 2]`` of the frame that places are relative to: the query's box, or the crop."""
    boxes = targets.boxes[:, :, None]
    if not has_box:
        return torch.zeros_like(boxes[..., :2]), torch.ones_like(boxes[..., :2])
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2], torch.where(size > 0, size, 1.0)


def mean_of(targets: PoseTargets, *, has_box: bool) -> Tensor:
    """The mean pose ``[J, 2]`` of some clips, relative to the frame: of every joint over clips, people and time."""
    corner, size = frames_of(targets, has_box=has_box)
    relative = ((targets.joints - corner) / size).transpose(1, 2)
    return mean_pose(
        relative.reshape(-1, N_JOINTS, 2), targets.is_counted.transpose(1, 2).reshape(-1, N_JOINTS)
    ).float()


def placed_mean(mean: Tensor, targets: PoseTargets, *, has_box: bool) -> Tensor:
    """The baseline: the mean pose ``[J, 2]`` put into the frame of every token, ``[B, N, F, 2]``."""
    corner, size = frames_of(targets, has_box=has_box)
    n_tokens, n_frames = targets.joints.shape[1:3]
    placed = corner + size * mean.repeat(n_tokens // N_JOINTS, 1)[None, :, None]
    return placed.expand(-1, -1, n_frames, -1)
