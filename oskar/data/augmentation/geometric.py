"""Affine maps of uint8 frames ``[T, 3, H, W]``, about whose pixels joints and boxes then no longer lie.

A map says where each pixel of the result comes from: ``(x, y) -> (a x + b y + c, d x + e y + f)`` in pixels, x to the
right and y down, pixel i covering i to i + 1. What comes from outside is grey.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

OUTSIDE = 128
Affine = tuple[float, float, float, float, float, float]


def rotation(degrees: float, height: int, width: int) -> Affine:
    """Counter-clockwise about the middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def shear_x(share: float) -> Affine:
    return 1.0, share, 0.0, 0.0, 1.0, 0.0


def shear_y(share: float) -> Affine:
    return 1.0, 0.0, 0.0, share, 1.0, 0.0


def translation(x: float, y: float) -> Affine:
    """The result shows at (0, 0) what lay at (x, y)."""
    return 1.0, 0.0, x, 0.0, 1.0, y


def warp(frames: Tensor, affine: Affine) -> Tensor:
    """Bilinear between the pixels of each picture."""
    height, width = frames.shape[-2:]
    a, b, c, d, e, f = affine
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    is_inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    grid = torch.stack([2 * source_x / width - 1, 2 * source_y / height - 1], dim=-1).float()
    grid = grid.expand(len(frames), -1, -1, -1)
    moved = F.grid_sample(frames.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(is_inside, moved.round().clamp(0, 255), float(OUTSIDE)).to(torch.uint8)
