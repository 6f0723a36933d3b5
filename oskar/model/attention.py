"""The attention product in the cheapest of its equal forms."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Up to this many scores per clip and head, writing them out costs less than recomputing them.
_MAX_WRITTEN_SCORES = 512 * 512


def attend(query: Tensor, key: Tensor, value: Tensor, pairs: Tensor | None) -> Tensor:
    """``softmax(Q K^T / sqrt(d)) V`` for ``[B, H, Q, d]`` over ``[B, H, V, d]``; ``pairs`` True where allowed.

    Torch's fused kernel, except for bfloat16 training on a CPU: there its backward is several times
    slower than the written-out products, whose scores are small at these budgets.
    """
    is_written_out = query.is_cpu and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not is_written_out or query.shape[-2] * key.shape[-2] > _MAX_WRITTEN_SCORES:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=pairs)
    scores = (query * (1.0 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    if pairs is not None:
        scores = scores.add_(torch.zeros_like(pairs, dtype=scores.dtype).masked_fill_(~pairs, -torch.inf))
    return torch.softmax(scores, dim=-1) @ value
