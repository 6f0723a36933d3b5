"""The embedding map: vectors in the plane of their two largest principal components."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.searching.nearest import Space

MOST_POINTS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """``row_idx`` int64 ``[n]``, ``xy`` float32 ``[n, 2]`` in [-1, 1], and the share of the variance on either axis."""

    row_idx: Tensor
    xy: Tensor
    shares: tuple[float, float]


def principal_map(space: Space, most: int = MOST_POINTS) -> Map:
    """At most ``most`` vectors, evenly over the rows; signs are such that the largest loading is positive."""
    present = space.is_present.nonzero()[:, 0]
    n = min(most, len(present))
    row_idx = present[torch.arange(n) * len(present) // max(n, 1)]
    centred = space.vectors[row_idx].double()
    centred = centred - centred.mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, [-1, -2]] if axes.shape[1] > 1 else torch.cat([axes, torch.zeros_like(axes)], 1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    xy = centred @ axes
    xy = xy / xy.abs().max().clamp_min(1e-12)
    total = float(variances.clamp_min(0).sum())
    first, second = (float(v) for v in (*variances.flip(0)[:2].clamp_min(0).tolist(), 0.0)[:2])
    return Map(row_idx, xy.float(), (first / total, second / total) if total > 0 else (0.0, 0.0))
