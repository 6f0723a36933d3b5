"""Operations on the colours of uint8 frames ``[T, 3, H, W]``, each picture by itself, rounded as Pillow rounds.

A ``factor`` of 1 leaves a picture as it is, 0 is what the operation takes away: colour, contrast, light, edges.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (19595, 38470, 7471)  # of R, G, B, in 65536ths (ITU-R 601-2)
_SOLARIZE_ADD_BELOW = 128


def invert(frames: Tensor) -> Tensor:
    return 255 - frames


def autocontrast(frames: Tensor) -> Tensor:
    """Stretch each channel to 0 .. 255; one of a single value stays."""
    values = frames.flatten(2).double()
    low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
    scale = torch.full_like(low, 255.0) / (high - low).clamp_min(1.0)  # a number over a tensor is its reciprocal's
    stretched = (values * scale - low * scale).floor().clamp(0, 255)
    return torch.where(high > low, stretched, values).to(torch.uint8).view_as(frames)


def equalize(frames: Tensor) -> Tensor:
    """Map each channel by its cumulative histogram, so that all values are about equally frequent."""
    channels = frames.flatten(2).flatten(0, 1)
    mapped = [_equalized(channel) for channel in channels]
    return torch.stack(mapped).view_as(frames)


def _equalized(values: Tensor) -> Tensor:
    counts = torch.bincount(values.long(), minlength=256)
    filled = counts[counts > 0]
    step = (len(values) - int(filled[-1])) // 255
    if len(filled) <= 1 or step == 0:
        return values
    before = counts.cumsum(0) - counts
    table = ((before + step // 2) // step).clamp(0, 255).to(torch.uint8)
    mapped: Tensor = table[values.long()]
    return mapped


def posterize(frames: Tensor, bits: int) -> Tensor:
    """Keep the highest ``bits`` of 8."""
    kept: Tensor = frames & (256 - 2 ** (8 - bits))
    return kept


def solarize(frames: Tensor, threshold: int) -> Tensor:
    """Invert the values from ``threshold`` on."""
    return torch.where(frames.int() < threshold, frames, 255 - frames)  # 256 is no uint8


def solarize_add(frames: Tensor, added: int) -> Tensor:
    """Add to the values below 128, up to 255."""
    lighter = (frames.int() + added).clamp(0, 255).to(torch.uint8)
    return torch.where(frames < _SOLARIZE_ADD_BELOW, lighter, frames)


def saturate(frames: Tensor, factor: float) -> Tensor:
    """Away from, or towards, the picture in grey."""
    return _blend(grey(frames).expand_as(frames), frames, factor)


def contrast(frames: Tensor, factor: float) -> Tensor:
    """Away from, or towards, the picture's mean grey, rounded to a whole number."""
    mean = (grey(frames).double().mean((1, 2, 3), keepdim=True) + 0.5).floor().to(torch.uint8)
    return _blend(mean.expand_as(frames), frames, factor)


def brighten(frames: Tensor, factor: float) -> Tensor:
    """Away from, or towards, black."""
    return _blend(torch.zeros_like(frames), frames, factor)


def sharpen(frames: Tensor, factor: float) -> Tensor:
    """Away from, or towards, the picture smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; the outermost pixels stay."""
    kernel = frames.new_ones((1, 1, 3, 3), dtype=torch.float64)
    kernel[..., 1, 1] = 5.0
    planes = frames.flatten(0, 1)[:, None].double()
    smooth = frames.clone()
    inner = (F.conv2d(planes, kernel) / 13.0 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    smooth[..., 1:-1, 1:-1] = inner.view(*frames.shape[:2], *inner.shape[2:])
    return _blend(smooth, frames, factor)


def grey(frames: Tensor) -> Tensor:
    """Luma ``[T, 1, H, W]``, uint8."""
    weights = torch.tensor(_LUMA, device=frames.device).view(3, 1, 1)
    total = (frames.long() * weights).sum(1, keepdim=True)
    return ((total + 0x8000) >> 16).to(torch.uint8)


def shift_colours(frames: Tensor, *, hue_degrees: float, saturation: float, value: float) -> Tensor:
    """Add to hue, saturation and value (HSV); the last two, shares, stay in [0, 1]."""
    red, green, blue = (frames.double() / 255.0).unbind(1)
    highest = torch.stack([red, green, blue]).amax(0)
    chroma = highest - torch.stack([red, green, blue]).amin(0)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        highest == red,
        (green - blue) / divisor,
        torch.where(highest == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    hue = (sector + hue_degrees / 60.0).remainder(6.0)
    colourful = (torch.where(highest > 0, chroma / highest.clamp_min(1e-12), 0.0) + saturation).clamp(0.0, 1.0)
    # Grey has no hue: adding saturation to it would make it red.
    colourful = torch.where(chroma > 0, colourful, 0.0)
    light = (highest + value).clamp(0.0, 1.0)

    def channel(offset: float) -> Tensor:
        place = (hue + offset).remainder(6.0)
        return light - light * colourful * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0)

    shifted = torch.stack([channel(5.0), channel(3.0), channel(1.0)], dim=1)
    return (shifted * 255.0).round().to(torch.uint8)


def _blend(from_: Tensor, to: Tensor, factor: float) -> Tensor:
    """``from_ + factor (to - from_)`` cut to 0 .. 255 and to whole numbers."""
    mixed = from_.float() + factor * (to.float() - from_.float())
    return mixed.clamp(0.0, 255.0).to(torch.uint8)
