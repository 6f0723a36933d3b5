"""Mixup and cutmix of whole clips of frames, and the soft targets that go with them.

Every draw is a function of (seed, step, clip id). The other clip of a mixture is the one before in the batch, so
what a clip is mixed with does depend on its batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.randomness import clip_keys, log_gamma_variate, uniform

_CHOICE_STREAM, _PLACE_STREAM = 9201, 9202
_MIXUP_STREAM, _CUTMIX_STREAM = 9210, 9220  # each Beta draw takes two streams of its own


def mix_clips(
    frames: Tensor, clip_ids: Tensor, *, seed: int, step: int, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mixed uint8 ``[B, T, 3, H, W]``, and the share ``[B]`` that each clip has in its own mixture.

    Mixup (Zhang et al. 2018) adds ``1 - share`` of the other clip, share ~ Beta(mixup, mixup). Cutmix (Yun et al. 2019)
    puts the other clip in a rectangle, the same in all frames, of ``1 - share`` of the area before it is cut at the
    border; the share is then that of the pixels left, share ~ Beta(cutmix, cutmix). Where both are above 0 each
    clip has one of the two, with equal chance; one that is 0 is off.
    """
    keys = clip_keys(seed, step, clip_ids)
    other = frames.roll(1, 0)
    if mixup > 0 and cutmix > 0:
        is_cut = uniform(keys, _CHOICE_STREAM) < 0.5
    else:
        is_cut = torch.full_like(clip_ids, cutmix > 0, dtype=torch.bool)
    ones = torch.ones(len(frames))
    added_share = _beta(keys, _MIXUP_STREAM, mixup) if mixup > 0 else ones
    height, width = frames.shape[-2:]
    in_rectangle = _rectangles(keys, _beta(keys, _CUTMIX_STREAM, cutmix) if cutmix > 0 else ones, height, width)
    left_share = 1.0 - in_rectangle.float().mean(dim=(1, 2))
    weight = added_share.view(-1, 1, 1, 1, 1)
    added = (weight * frames + (1.0 - weight) * other).round().to(frames.dtype)
    pasted = torch.where(in_rectangle[:, None, None], other, frames)
    mixed = torch.where(is_cut.view(-1, 1, 1, 1, 1), pasted, added)
    return mixed, torch.where(is_cut, left_share, added_share)


def soft_targets(labels: Tensor, n_classes: int, *, smoothing: float, share: Tensor | None = None) -> Tensor:
    """Target probabilities ``[B, classes]``: ``1 - smoothing`` on the class and ``smoothing`` spread over all.

    With ``share`` ``[B]`` they are mixed with those of the clip before, as ``mix_clips`` mixes the frames.
    """
    targets = F.one_hot(labels, n_classes).float()
    if share is not None:
        targets = share[:, None] * targets + (1.0 - share[:, None]) * targets.roll(1, 0)
    return (1.0 - smoothing) * targets + smoothing / n_classes


def _beta(keys: Tensor, stream: int, alpha: float) -> Tensor:
    """Beta(alpha, alpha) as G1 / (G1 + G2) of two gamma variates."""
    first, second = (log_gamma_variate(keys, stream + i, alpha) for i in (0, 1))
    return torch.sigmoid(first - second).float()


def _rectangles(keys: Tensor, share: Tensor, height: int, width: int) -> Tensor:
    """Bool ``[B, H, W]``: a rectangle of ``1 - share`` of the frame about a random centre, cut at the border."""
    centre = uniform(keys, _PLACE_STREAM, (2,))
    side = torch.sqrt(1.0 - share)

    def inside(axis: int, length: int) -> Tensor:
        low = (length * (centre[:, axis] - side / 2)).round()
        high = (length * (centre[:, axis] + side / 2)).round()
        pixel = torch.arange(length)
        return (pixel >= low[:, None]) & (pixel < high[:, None])

    return inside(0, height)[:, :, None] & inside(1, width)[:, None, :]
