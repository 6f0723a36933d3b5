"""The symmetric contrastive loss of video and text over the batch of all processes."""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from oskar.errors import InputError

START_LOG_SCALE = math.log(1 / 0.07)
MAX_SCALE = 100.0


def contrastive_scale(log_scale: Tensor) -> Tensor:
    """``exp(log_scale)``, at most 100, for a learnable scalar that starts at ``START_LOG_SCALE``.

    The gradient passes as if nothing had been cut: a scale beyond the limit can come down again.
    """
    excess = (log_scale - math.log(MAX_SCALE)).clamp(min=0).detach()
    return (log_scale - excess).exp()


def symmetric_info_nce(video: Tensor, text: Tensor, video_idx: Tensor, log_scale: Tensor) -> Tensor:
    """``(CE(s V T') + CE(s T V')) / 2``, averaged over the pairs, with ``s = contrastive_scale(log_scale)``.

    ``video`` and ``text`` ``[B, D]`` have unit length, row i of both is one pair and ``video_idx [B]``
    int64 says of which video. Two captions of one video are no negatives of each other: such pairs are
    left out of the denominators. Computed in float32 or better, also under autocast.

    Over several processes pass all three through ``gather_with_gradient``.

    Raises:
        InputError: shapes that do not fit.
    """
    if video.ndim != 2 or video.shape != text.shape or video_idx.shape != video.shape[:1] or len(video) == 0:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (video, text, video_idx))
        raise InputError(f"video, text, video_idx are of shapes {shapes}", fix="give [B, D], [B, D] and [B]")
    dtype = torch.promote_types(video.dtype, torch.float32)
    with torch.autocast(video.device.type, enabled=False):
        logits = contrastive_scale(log_scale.to(dtype)) * (video.to(dtype) @ text.to(dtype).T)
    own = torch.arange(len(video), device=video.device)
    is_false_negative = (video_idx[:, None] == video_idx) & (own[:, None] != own)
    logits = logits.masked_fill(is_false_negative, -math.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def gather_with_gradient(local: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, ``[world * B, ...]``; without a process group the input.

    Every process must bring the same shape. Backward sums over the processes what each of them derived
    for the local rows. Where every process computes the same loss of all rows and parameter gradients are
    then averaged, as DistributedDataParallel does, these are the gradients of one process with all rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
