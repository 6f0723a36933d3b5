"""Attention, feed-forward layers and the two kinds of pre-norm blocks built from them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from oskar.config import ModelConfig
from oskar.model.attention import attend

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head attention of queries ``[B, Q, D]`` over a context ``[B, V, D]`` (default: themselves).

    ``pairs`` bool, broadcastable to ``[B, 1, Q, V]``: True where a query may attend to a key.
    """

    def __init__(self, width: int, n_heads: int, bias: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, context: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
        n_clips, n_queries, width = x.shape
        head_width = width // self.n_heads
        if context is None:
            projected = self.query_key_value(x).view(n_clips, n_queries, 3, self.n_heads, head_width)
            query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            query_bias, context_bias = (None, None) if bias is None else (bias[:width], bias[width:])
            query = F.linear(x, weight[:width], query_bias).view(n_clips, n_queries, self.n_heads, head_width)
            query = query.transpose(1, 2)
            projected = F.linear(context, weight[width:], context_bias)
            projected = projected.view(n_clips, context.shape[1], 2, self.n_heads, head_width)
            key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(query, key, value, pairs)
        output: Tensor = self.output(attended.transpose(1, 2).reshape(n_clips, n_queries, width))
        return output


class SwiGLU(nn.Module):
    """``W3 (silu(W1 x) * W2 x)`` with hidden width floor(8 D / 3), which keeps parameter counts (A19)."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        hidden = 8 * width // 3
        self.gate_value = nn.Linear(width, 2 * hidden, bias=bias)
        self.output = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(gated(self.gate_value(x)))
        return output


def gated(gate_value: Tensor) -> Tensor:
    """``silu(gate) * value`` of the two halves of ``[*, 2 h]``, by the form that is cheapest where it runs."""
    # A compiler fuses the plain form by itself, and without a gradient there is nothing to save.
    if gate_value.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        product: Tensor = _Gated.apply(gate_value)  # type: ignore[no-untyped-call]
        return product
    gate, value = gate_value.chunk(2, dim=-1)
    return F.silu(gate) * value


class _Gated(torch.autograd.Function):
    """``gated`` that keeps its input alone and writes both halves' gradients into one tensor.

    Autograd would keep ``silu(gate)`` too, and put the gradients of the halves together by copying.
    """

    @staticmethod
    def forward(context: Any, gate_value: Tensor) -> Tensor:
        context.save_for_backward(gate_value)
        gate, value = gate_value.chunk(2, dim=-1)
        return F.silu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (gate_value,) = context.saved_tensors
        gate, value = gate_value.chunk(2, dim=-1)
        gradients = torch.empty_like(gate_value)
        of_gate, of_value = gradients.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=of_value)
        torch.ops.aten.silu_backward.grad_input(gradient * value, gate, grad_input=of_gate)
        return gradients


class GELUMLP(nn.Module):
    """Two linear layers with GELU between, hidden width 4 D."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.input = nn.Linear(width, 4 * width, bias=bias)
        self.output = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.output(F.gelu(self.input(x)))
        return output


class DropPath(nn.Module):
    """Leave a residual branch out of a share ``rate`` of the clips, in training only; the identity at rate 0.

    Stochastic depth (Huang et al. 2016): the branch of the clips that keep it is divided by ``1 - rate``. It has no
    parameters and no state, and draws from torch's own generator, as dropout does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def forward(self, branch: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        is_kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.rate
        return branch * (is_kept / (1.0 - self.rate)).to(branch.dtype)


class Block(nn.Module):
    """Pre-norm residual block; with ``context`` its attention is cross-attention.

    The context arrives normalised (the encoder ends in a norm), so only queries are normalised.
    """

    def __init__(self, width: int, n_heads: int, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, n_heads, config.bias)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = SwiGLU(width, config.bias) if config.mlp == "swiglu" else GELUMLP(width, config.bias)
        self.drop_path = DropPath()

    def forward(self, x: Tensor, context: Tensor | None = None, pairs: Tensor | None = None) -> Tensor:
        attended: Tensor = x + self.drop_path(self.attention(self.norm_attention(x), context, pairs))
        output: Tensor = attended + self.drop_path(self.mlp(self.norm_mlp(attended)))
        return output


def run_block(
    block: nn.Module, x: Tensor, context: Tensor | None = None, pairs: Tensor | None = None, *, is_checkpointed: bool
) -> Tensor:
    """A block's output; ``is_checkpointed`` keeps its input alone for the backward pass, which computes the rest again.

    The gradients are the same. A step then takes about a third longer and far less memory.
    """
    output: Tensor
    if is_checkpointed and torch.is_grad_enabled():
        output = checkpoint(block, x, context, pairs, use_reentrant=False)
    else:
        output = block(x, context, pairs)
    return output


def set_drop_path(blocks: Iterable[nn.Module], highest: float) -> None:
    """Let the rates of an encoder's blocks rise linearly from 0 in the first to ``highest`` in the last."""
    paths = [block.drop_path for block in blocks if isinstance(block, Block)]
    for i, path in enumerate(paths):
        path.rate = highest * i / max(len(paths) - 1, 1)


def allowed_pairs(queries: Tensor, keys: Tensor, *, within_segment: bool) -> Tensor:
    """Bool ``[B, 1, Q, V]`` from segments ``[B, Q]`` and ``[B, V]`` (-1 = empty slot).

    Real tokens see real tokens, of their own segment only where ``within_segment``. Empty slots
    see each other, so that no row of the attention is empty.
    """
    if within_segment:
        allowed = queries[:, :, None] == keys[:, None, :]
    else:
        allowed = (queries >= 0)[:, :, None] == (keys >= 0)[:, None, :]
    return allowed[:, None]


def init_weights(module: nn.Module, std: float) -> None:
    """Truncated normal weights and zero biases for every linear layer and table below ``module``."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=std)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.trunc_normal_(child.weight, std=std)
