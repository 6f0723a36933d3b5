"""Colour jitter as in fine-tuning on AVA: one shift of hue, saturation and value for all frames of a clip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.data.augmentation.photometric import shift_colours
from oskar.randomness import clip_keys, uniform64

_STREAM = 9501


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourJitter:
    """Each shift is drawn uniformly between minus and plus its value."""

    hue_degrees: float = 0.0
    saturation: float = 0.0
    value: float = 0.0

    def __call__(self, frames: Tensor, clip_ids: Tensor, *, seed: int, step: int) -> Tensor:
        """uint8 ``[B, T, 3, H, W]``."""
        u = (2.0 * uniform64(clip_keys(seed, step, clip_ids), _STREAM, (3,)) - 1.0).tolist()
        return torch.stack(
            [
                shift_colours(
                    clip,
                    hue_degrees=self.hue_degrees * hue,
                    saturation=self.saturation * saturation,
                    value=self.value * value,
                )
                for clip, (hue, saturation, value) in zip(frames, u, strict=True)
            ]
        )
