"""RoIAlign: the features inside boxes, brought to one small grid (He et al. 2017, Mask R-CNN, section 3)."""

import torch
from torch import Tensor


def roi_align(
    features: Tensor,
    boxes: Tensor,
    clip_idx: Tensor,
    *,
    is_aligned: bool,
    samples_per_bin: int | None = None,
    output_size: int = 7,
) -> Tensor:
    """Pool a box of a clip's features ``[B, C, Y, X]`` to ``[n, C, output_size, output_size]``.

    ``boxes`` ``[n, 4]`` are x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, in cells of the grid: pixels
    over the patch size, so that padding moves nothing. ``clip_idx`` ``[n]`` is the clip of each.

    A box is cut into equal bins, and a bin is the mean of ``samples_per_bin`` bilinear samples a
    side; None takes ``ceil(side / output_size)``, at least one. ``is_aligned``: cell i has its centre
    at i + 0.5, half a cell off otherwise, where boxes also grow to a side of one cell at least. A
    sample up to one cell outside the grid has the value at its edge, one further off is zero.

    Bilinear samples and their mean are products of one factor a direction, hence so is the whole:
    ``out[p, q] = sum_yx down[p, y] features[y, x] across[q, x]``. Differentiable in features and boxes.
    """
    down = _bin_weights(boxes[:, 1::2], features.shape[2], is_aligned, samples_per_bin, output_size)
    across = _bin_weights(boxes[:, 0::2], features.shape[3], is_aligned, samples_per_bin, output_size)
    rows = torch.einsum("npy,ncyx->npcx", down.to(features.dtype), features[clip_idx])
    return torch.einsum("npcx,nqx->ncpq", rows, across.to(features.dtype))


def _bin_weights(sides: Tensor, n_cells: int, is_aligned: bool, samples_per_bin: int | None, n_bins: int) -> Tensor:
    """Weight of each cell in each bin along one direction, ``[n, n_bins, n_cells]``, from ends ``[n, 2]``."""
    start, length = sides[:, 0], sides[:, 1] - sides[:, 0]
    if is_aligned:
        start = start - 0.5
    else:
        length = length.clamp_min(1.0)
    if samples_per_bin is None:
        n_samples = (length.detach() / n_bins).ceil().clamp_min(1.0)
    else:
        n_samples = torch.full_like(length, samples_per_bin)
    most = int(n_samples.max()) if len(n_samples) else 0
    sample = torch.arange(most, device=sides.device)
    share = (sample + 0.5) / n_samples[:, None]
    bins = torch.arange(n_bins, device=sides.device)[:, None]
    places = start[:, None, None] + (bins + share[:, None, :]) * (length / n_bins)[:, None, None]
    is_counted = (places >= -1.0) & (places <= n_cells) & (sample < n_samples[:, None, None])
    cells = torch.arange(n_cells, device=sides.device)
    distance = (places.clamp(0.0, n_cells - 1.0)[..., None] - cells).abs()
    weights = (1.0 - distance).clamp_min(0.0) * is_counted[..., None]
    return weights.sum(dim=2) / n_samples[:, None, None]
