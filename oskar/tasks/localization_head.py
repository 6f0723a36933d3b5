"""The head of action localization: a person's box on the grid of video tokens, pooled, to a sigmoid per class.

As VideoMAE on AVA: mean over time, RoIAlign of 7 x 7 bins, maximum over the bins, one linear layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import TokensConfig
from oskar.data.key_frames import jitter_boxes
from oskar.masking.packing import PackedTokens
from oskar.model.embedding import draw_normal
from oskar.model.roi_align import roi_align
from oskar.randomness import clip_keys, uniform
from oskar.tasks.task import Backbone, TaskModule

HEAD_STD = 0.02 * 0.001
MOST_BOXES = 100  # of one clip, to learn from
_JITTER_STREAM = 9103


@dataclass(frozen=True, slots=True)
class BoxBatch:
    """B clips as tokens, or as ready feature grids ``[B, D, Y, X]``, and their n people.

    ``boxes`` ``[n, 4]`` in shares of the picture, ``clip_idx`` int64 ``[n]``, ``has_class`` float
    ``[n, classes]``.
    """

    clips: PackedTokens | Tensor
    boxes: Tensor
    clip_idx: Tensor
    has_class: Tensor
    n_clips: int

    @property
    def weight(self) -> float:
        return float(self.n_clips)

    def __len__(self) -> int:
        return self.n_clips

    def to(self, device: torch.device) -> "BoxBatch":
        boxes, clip_idx, has_class = (t.to(device) for t in (self.boxes, self.clip_idx, self.has_class))
        return BoxBatch(self.clips.to(device), boxes, clip_idx, has_class, self.n_clips)


class ActionLocalization(TaskModule):
    """Scores of people; without ``sees_box`` everybody's box is the whole picture, a control."""

    def __init__(self, backbone: Backbone, n_classes: int, *, sees_box: bool = True) -> None:
        super().__init__(backbone)
        self.sees_box, self.n_classes = sees_box, n_classes
        self.head = nn.Linear(backbone.config.model.width, n_classes)
        draw_normal(self.head.weight, HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: BoxBatch) -> dict[str, Tensor]:
        """Cross-entropy of sigmoids: the mean over classes and boxes, times the boxes per clip."""
        grids = batch.clips if isinstance(batch.clips, Tensor) else self.grids(batch.clips)
        scores = self.classify(grids, batch.boxes, batch.clip_idx)
        total = F.binary_cross_entropy_with_logits(scores.float(), batch.has_class, reduction="sum")
        return {"loss": total / (self.n_classes * batch.n_clips)}

    def grids(self, packed: PackedTokens) -> Tensor:
        """Feature grids ``[B, D, Y, X]`` of packed video tokens."""
        return feature_grids(self.backbone("video", packed), packed, self.backbone.config.tokens)

    def classify(self, grids: Tensor, boxes: Tensor, clip_idx: Tensor) -> Tensor:
        """Scores before the sigmoid, ``[n, classes]``, of boxes ``[n, 4]`` in shares of the picture."""
        if not self.sees_box:
            boxes = boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(boxes), 4)
        cells = boxes * boxes.new_tensor([grids.shape[3], grids.shape[2]] * 2)
        scores: Tensor = self.head(roi_align(grids.float(), cells, clip_idx, is_aligned=True).amax((2, 3)))
        return scores


def feature_grids(latents: Tensor, packed: PackedTokens, tokens: TokensConfig) -> Tensor:
    """Latents ``[B, V, D]`` on the grid, ``[B, D, Y, X]``: the mean over the time steps at which a token is available.

    A cell that has none at any time is 0.
    """
    n_steps, side = tokens.n_frames // tokens.tubelet_frames, tokens.resolution // tokens.patch_size
    n_clips, n_slots, width = latents.shape
    n_places = n_steps * side * side
    filled = latents.new_zeros(n_clips * n_places, width, dtype=torch.float32)
    is_available = latents.new_zeros(n_clips * n_places, dtype=torch.float32)
    if "video" in packed.tokens:
        chosen = packed.tokens["video"]
        place = chosen.slots // n_slots * n_places + chosen.token_idx
        filled = filled.index_copy(0, place, latents.flatten(0, 1)[chosen.slots].float())
        is_available = is_available.index_fill(0, place, 1.0)
    total = filled.view(n_clips, n_steps, side, side, width).sum(1)
    count = is_available.view(n_clips, n_steps, side, side, 1).sum(1)
    return (total / count.clamp_min(1.0)).permute(0, 3, 1, 2)


def boxes_to_learn_from(
    boxes: Tensor, clip_idx: Tensor, clip_ids: Tensor, *, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Jittered boxes of the first 100 people of each clip, cut at the picture's edges.

    Also which people these are, bool ``[n]``. A clip's draws are a function of (seed, step, clip id);
    ``clip_idx`` must not decrease.
    """
    counts = torch.bincount(clip_idx, minlength=len(clip_ids))
    place = torch.arange(len(boxes)) - (counts.cumsum(0) - counts)[clip_idx]
    is_kept = place < MOST_BOXES
    u = uniform(clip_keys(seed, step, clip_ids), _JITTER_STREAM, (MOST_BOXES, 4))[clip_idx[is_kept], place[is_kept]]
    return jitter_boxes(boxes[is_kept], u).clamp(0.0, 1.0), is_kept
