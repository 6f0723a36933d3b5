"""RandAugment (Cubuk et al. 2020) of clips, in the form ``rand-m7-n4-mstd0.5-inc1`` that VideoMAE fine-tunes with.

Each of ``n_layers`` layers draws one of 15 operations and applies it with probability 1/2, at a level drawn from a
normal distribution about ``magnitude`` and cut to 0 .. 10. The higher the level, the stronger the operation. All
frames of a clip get the same operations at the same levels; what an operation takes from a picture, such as its mean,
is each frame's own. Levels mean what they mean in the reference, with two differences: pixels are always interpolated
bilinearly, and frames come cropped to the model's resolution, not before their crop.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from oskar.data.augmentation.geometric import rotation, shear_x, shear_y, translation, warp
from oskar.data.augmentation.photometric import (
    autocontrast,
    brighten,
    contrast,
    equalize,
    invert,
    posterize,
    saturate,
    sharpen,
    solarize,
    solarize_add,
)
from oskar.randomness import clip_keys, normal64, uniform64

HIGHEST_LEVEL = 10.0
_PROBABILITY = 0.5
_CHOICE_STREAM, _LEVEL_STREAM = 9301, 9302

Operation = Callable[[Tensor, float, float], Tensor]  # frames, level in [0, 1], sign


def _factor(level: float, sign: float) -> float:
    return max(0.1, 1.0 + 0.9 * level * sign)


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "autocontrast": lambda frames, level, sign: autocontrast(frames),
        "equalize": lambda frames, level, sign: equalize(frames),
        "invert": lambda frames, level, sign: invert(frames),
        "rotate": lambda frames, level, sign: warp(frames, rotation(30.0 * level * sign, *frames.shape[-2:])),
        "posterize": lambda frames, level, sign: posterize(frames, 4 - int(4 * level)),
        "solarize": lambda frames, level, sign: solarize(frames, 256 - int(256 * level)),
        "solarize_add": lambda frames, level, sign: solarize_add(frames, min(int(110 * level), 128)),
        "colour": lambda frames, level, sign: saturate(frames, _factor(level, sign)),
        "contrast": lambda frames, level, sign: contrast(frames, _factor(level, sign)),
        "brightness": lambda frames, level, sign: brighten(frames, _factor(level, sign)),
        "sharpness": lambda frames, level, sign: sharpen(frames, _factor(level, sign)),
        "shear_x": lambda frames, level, sign: warp(frames, shear_x(0.3 * level * sign)),
        "shear_y": lambda frames, level, sign: warp(frames, shear_y(0.3 * level * sign)),
        "translate_x": lambda frames, level, sign: warp(
            frames, translation(0.45 * level * sign * frames.shape[-1], 0.0)
        ),
        "translate_y": lambda frames, level, sign: warp(
            frames, translation(0.0, 0.45 * level * sign * frames.shape[-2])
        ),
    }
)


def rand_augment(
    frames: Tensor, clip_ids: Tensor, *, seed: int, step: int, n_layers: int, magnitude: float, magnitude_std: float
) -> Tensor:
    """Changed uint8 ``[B, T, 3, H, W]`` of clips ``[B, T, 3, H, W]``; ``magnitude`` is a level in 0 .. 10.

    Joints and boxes are not moved along: it is for clips whose frames are all that is used of them.
    """
    drawn = draw_operations(
        clip_ids, seed=seed, step=step, n_layers=n_layers, magnitude=magnitude, magnitude_std=magnitude_std
    )
    changed = []
    for clip, layers in zip(frames, drawn, strict=True):
        for name, level, sign in layers:
            clip = OPERATIONS[name](clip, level, sign)
        changed.append(clip)
    return torch.stack(changed)


def draw_operations(
    clip_ids: Tensor, *, seed: int, step: int, n_layers: int, magnitude: float, magnitude_std: float
) -> list[list[tuple[str, float, float]]]:
    """For each clip the operations that are applied: name, level as a share of the highest, sign."""
    keys, names = clip_keys(seed, step, clip_ids), list(OPERATIONS)
    u = uniform64(keys, _CHOICE_STREAM, (n_layers, 3))
    levels = (magnitude + magnitude_std * normal64(keys, _LEVEL_STREAM, (n_layers,))).clamp(0.0, HIGHEST_LEVEL)
    chosen = (u[..., 0] * len(names)).long().tolist()
    is_applied, signs = (u[..., 1] < _PROBABILITY).tolist(), torch.where(u[..., 2] < 0.5, -1.0, 1.0).tolist()
    shares = (levels / HIGHEST_LEVEL).tolist()
    rows = zip(chosen, is_applied, shares, signs, strict=True)
    return [
        [(names[number], share, sign) for number, is_on, share, sign in zip(*row, strict=True) if is_on] for row in rows
    ]
