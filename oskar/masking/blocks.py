"""V-JEPA's 3-D multi-block masks: the target is a union of blocks, the visible set its complement."""

import math

import torch
from torch import Tensor

from oskar.config import BlockConfig
from oskar.masking.shapes import choose_random
from oskar.randomness import bits, integers, uniform

_MAX_REDRAWS = 32


def block_size(config: BlockConfig, grid: tuple[int, ...], u_aspect: float) -> tuple[int, int, int]:
    """Time steps, rows and columns of a block; one size serves the whole batch."""
    steps, rows, columns = grid
    low, high = config.aspect_ratio
    aspect = low + (high - low) * u_aspect
    n_patches = int(rows * columns * config.spatial_scale)
    height = min(max(round(math.sqrt(n_patches * aspect)), 1), rows)
    width = min(max(round(math.sqrt(n_patches / aspect)), 1), columns)
    return max(round(steps * config.temporal_scale), 1), height, width


def union_of_blocks(
    config: BlockConfig, grid: tuple[int, ...], size: tuple[int, int, int], keys: Tensor, stream: int
) -> Tensor:
    """Bool ``[B, T*Y*X]``: cells covered by at least one of the clip's randomly placed blocks."""
    inside = torch.ones(len(keys), config.n_blocks, 1, 1, 1, dtype=torch.bool, device=keys.device)
    for axis, (extent, length) in enumerate(zip(grid, size, strict=True)):
        start = integers(keys, stream + axis, extent - length + 1, (config.n_blocks,))
        place = torch.arange(extent, device=keys.device)
        covers = (place >= start[..., None]) & (place < start[..., None] + length)
        shape = [len(keys), config.n_blocks, 1, 1, 1]
        shape[2 + axis] = extent
        inside = inside & covers.view(shape)
    return inside.any(1).flatten(1)


def draw_blocks(config: BlockConfig, grid: tuple[int, ...], batch_key: Tensor, keys: Tensor, stream: int) -> Tensor:
    """The target cells of each clip, bool ``[B, N]``; clips left without a visible cell are drawn again."""
    size = block_size(config, grid, float(uniform(batch_key, stream)))
    is_target = union_of_blocks(config, grid, size, keys, stream + 1)
    for redraw in range(1, _MAX_REDRAWS):
        is_full = is_target.all(1)
        if not bool(is_full.any()):
            break
        again = union_of_blocks(config, grid, size, bits(keys, stream + 4 + redraw), stream + 1)
        is_target = torch.where(is_full[:, None], again, is_target)
    return is_target


def cut_to_shortest(chosen: Tensor, limit: int | None, keys: Tensor, stream: int, keep_first: bool) -> Tensor:
    """Keep as many tokens of every clip as the shortest clip of the batch has, at most ``limit``.

    A clip that has none at all (no video) does not count as the shortest. ``keep_first`` keeps the
    first in token order, as the original does (late tokens are lost more often); otherwise the
    kept ones are random.
    """
    counts = chosen.sum(1)
    n = int(counts.masked_fill(counts == 0, chosen.shape[1]).min())
    n = n if limit is None else min(n, limit)
    if keep_first:
        return chosen & (chosen.long().cumsum(1) <= n)
    return choose_random(chosen, torch.full_like(counts, n), keys, stream)
