"""Allocation: how a budget of tokens is split over the modalities of each clip (A12-A15)."""

import torch
from torch import Tensor


def largest_remainder(fractions: Tensor, n: Tensor) -> Tensor:
    """Integers ``[B, M]`` that sum to ``n [B]`` and follow ``fractions [B, M]`` (rows sum to 1).

    Floor first, then the rest one by one to the largest remainders (A13).
    """
    ideal = fractions * n[:, None]
    counts = ideal.floor()
    rest = n - counts.sum(1).long()
    order = (ideal - counts).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=n.device).expand_as(order))
    return counts.long() + (rank < rest[:, None]).long()


def allocate(log_fractions: Tensor, n: int, capacities: Tensor, min_tokens: int = 0) -> Tensor:
    """Tokens per modality, int64 ``[B, M]``: at most ``capacities [B, M]``, together ``n`` where possible.

    Budget above a capacity goes to the modalities with room in proportion to their fractions,
    repeatedly, until all is placed or nothing is left (A15). ``min_tokens`` is granted first.
    """
    n_modalities = capacities.shape[1]
    n_present = (capacities > 0).sum(1).clamp_min(1)
    floor = torch.minimum(capacities, (n // n_present).clamp_max(min_tokens)[:, None])
    counts = floor
    for _ in range(n_modalities):  # every round fills a modality or places everything
        excess = n - counts.sum(1)
        has_room = counts < capacities
        log_share = log_fractions.masked_fill(~has_room, -torch.inf)
        share = torch.softmax(log_share, dim=1).nan_to_num(0.0)
        placed = largest_remainder(share, excess) * has_room
        counts = torch.minimum(counts + placed, capacities)
    return counts


def visible_capacities(n_available: Tensor, n_target: int) -> Tensor:
    """``a - min(floor(a / 2), N^t)``: a short modality always leaves half of itself to predict (A15)."""
    return n_available - (n_available // 2).clamp_max(n_target)
