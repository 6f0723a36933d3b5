"""Random erasing (Zhong et al. 2020) of clips: a rectangle of noise, at the same place in all frames."""

import math

import torch
from torch import Tensor

from oskar.randomness import clip_keys, normal, uniform64
from oskar.tokens.video import PIXEL_MEAN, PIXEL_STD

AREA = (0.02, 1 / 3)  # of the frame
RATIO = (0.3, 1 / 0.3)  # height over width, log-uniform
_TRIALS = 10
_STREAM, _NOISE_STREAM = 9401, 9402


def erase(frames: Tensor, clip_ids: Tensor, *, seed: int, step: int, probability: float) -> Tensor:
    """uint8 ``[B, T, 3, H, W]`` where each clip has, with ``probability``, a rectangle of normal noise.

    The noise has the mean and deviation that pixels are normalised with and is another in every pixel and frame. The
    first of ten drawn rectangles that fits is taken.
    """
    keys = clip_keys(seed, step, clip_ids)
    height, width = frames.shape[-2:]
    erased = frames.clone()
    for i, rectangle in enumerate(draw_rectangles(keys, height, width, probability)):
        if rectangle is None:
            continue
        top, left, bottom, right = rectangle
        part = erased[i, :, :, top:bottom, left:right]
        noise = normal(keys[i : i + 1], _NOISE_STREAM, tuple(part.shape))[0]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        part.copy_(((mean + std * noise) * 255.0).round().clamp(0, 255).to(torch.uint8))
    return erased


def draw_rectangles(
    keys: Tensor, height: int, width: int, probability: float
) -> list[tuple[int, int, int, int] | None]:
    """Top, left, bottom, right of each key's rectangle in pixels; None where nothing is erased."""
    u = uniform64(keys, _STREAM, (1 + 4 * _TRIALS,)).tolist()
    return [_rectangle(row[1:], height, width) if row[0] < probability else None for row in u]


def _rectangle(u: list[float], height: int, width: int) -> tuple[int, int, int, int] | None:
    low, high = (math.log(ratio) for ratio in RATIO)
    for trial in range(_TRIALS):
        share, place, down, across = u[4 * trial : 4 * trial + 4]
        area = (AREA[0] + share * (AREA[1] - AREA[0])) * height * width
        ratio = math.exp(low + place * (high - low))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = int(down * (height - h + 1)), int(across * (width - w + 1))
            return top, left, top + h, left + w
    return None
