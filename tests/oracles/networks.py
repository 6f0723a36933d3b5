"""Transformer layers written out with einsum and loops, from parameters given as tensors."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn


def attention(
    x: Tensor, context: Tensor, weight: Tensor, bias: Tensor | None, n_heads: int, pairs: Tensor | None = None
) -> Tensor:
    """Softmax attention before its output projection; ``weight`` holds query, key and value rows in this order."""
    width = x.shape[-1]
    parts = torch.split(weight, width)
    biases = [torch.zeros(width)] * 3 if bias is None else list(torch.split(bias, width))
    query = torch.einsum("bqd,ed->bqe", x, parts[0]) + biases[0]
    key = torch.einsum("bvd,ed->bve", context, parts[1]) + biases[1]
    value = torch.einsum("bvd,ed->bve", context, parts[2]) + biases[2]
    heads = []
    for head in range(n_heads):
        own = slice(head * width // n_heads, (head + 1) * width // n_heads)
        logits = torch.einsum("bqc,bvc->bqv", query[..., own], key[..., own]) / math.sqrt(width / n_heads)
        if pairs is not None:
            logits = logits.masked_fill(~pairs, -1e30)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        heads.append(torch.einsum("bqv,bvc->bqc", weights, value[..., own]))
    return torch.cat(heads, -1)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) over features, with the biased variance."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)


def sincos_row(place: tuple[int, ...], width: int) -> list[float]:
    """One row of V-JEPA's ``uniform_power`` table, channel by channel."""
    per_axis = 2 * math.ceil(width / (2 * len(place)))
    half = per_axis // 2
    row: list[float] = []
    for coordinate in place:
        row += [math.sin(coordinate / 10000 ** (k / half)) for k in range(half)]
        row += [math.cos(coordinate / 10000 ** (k / half)) for k in range(half)]
    return row[:width]


M = TypeVar("M", bound=nn.Module)


def randomised(module: M) -> M:
    """The module with parameters so large that every path matters in float32."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm_weight = parameter.dim() == 1 and name.endswith("weight")
        parameter.data = noise * 0.3 if parameter.dim() > 1 else noise * 0.1 + float(is_norm_weight)
    return module
