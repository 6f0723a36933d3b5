"""The part of the frame that a clip shows, with joints and boxes moved along.

Shapes: T frames, S people, J = 17 joints. Coordinates are shares of the frame, x to the right and y
down; a crop's edges lie on whole pixels, so that pixels and joints move by exactly the same map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from oskar.config import ClipConfig
from oskar.data.views import crop_corners
from oskar.tokens.layouts import SWAP_LEFT_RIGHT

_BELOW_ONE = 1.0 - 2.0**-24  # the largest float32 in [0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A rectangle of the frame in shares of its width and height, and whether it is mirrored."""

    x1: float
    y1: float
    x2: float
    y2: float
    flip: bool = False


def whole_frame() -> Crop:
    """Everything; a frame that is not square gets stretched to one."""
    return Crop(x1=0.0, y1=0.0, x2=1.0, y2=1.0)


def centre_crop(frame_size: tuple[int, int]) -> Crop:
    """The largest square in the middle of a frame of ``frame_size`` = (height, width) pixels."""
    height, width = frame_size
    side = min(height, width)
    return _on_pixels((width - side) / 2, (height - side) / 2, side, side, frame_size, flip=False)


def side_crop(frame_size: tuple[int, int], number: int, n_crops: int) -> Crop:
    """Square ``number`` of ``n_crops`` that lie evenly along the longer side of (height, width) pixels.

    The corners are those of the official test crops; a single one is ``centre_crop``.
    """
    if n_crops == 1:
        return centre_crop(frame_size)
    side = min(frame_size)
    top, left = crop_corners(frame_size, side=side, n_crops=n_crops)[number]
    return _on_pixels(left, top, side, side, frame_size, flip=False)


def sample_crop(
    u: Sequence[float], frame_size: tuple[int, int], config: ClipConfig, *, is_flip_allowed: bool = True
) -> Crop:
    """A random resized crop from five uniforms in [0, 1): area, ratio, x, y, flip.

    The area is uniform in ``config.crop_scale`` (a share of the frame), the ratio width / height in
    pixels is log-uniform in ``config.crop_ratio``, the place is uniform. No draw is rejected: the
    area goes only up to the largest that a ratio of the range leaves room for, and the ratio only to
    values at which the drawn area fits. ``frame_size`` is (height, width) in pixels; edges are then
    rounded to pixels, so a clip without pixels should name a large virtual size.
    """
    height, width = frame_size
    frame_ratio = width / height
    low_ratio, high_ratio = config.crop_ratio
    best_ratio = min(max(frame_ratio, low_ratio), high_ratio)
    largest_area = min(frame_ratio / best_ratio, best_ratio / frame_ratio)
    low_area, high_area = (min(share, largest_area) for share in config.crop_scale)
    area = low_area + u[0] * (high_area - low_area)
    # The crop is sqrt(area ratio / frame_ratio) of the width and sqrt(area frame_ratio / ratio) of the height.
    log_low = math.log(max(low_ratio, area * frame_ratio))
    log_high = max(math.log(min(high_ratio, frame_ratio / area)), log_low)
    ratio = math.exp(log_low + u[1] * (log_high - log_low))
    crop_width = min(math.sqrt(area * height * width * ratio), width)
    crop_height = min(math.sqrt(area * height * width / ratio), height)
    return _on_pixels(
        u[2] * (width - crop_width),
        u[3] * (height - crop_height),
        crop_width,
        crop_height,
        frame_size,
        flip=is_flip_allowed and u[4] < config.flip_probability,
    )


def crop_frames(frames: Tensor, crop: Crop, resolution: int) -> Tensor:
    """Cut and resize uint8 ``[T, 3, H, W]`` to uint8 ``[T, 3, resolution, resolution]``, bilinear with antialiasing."""
    height, width = frames.shape[-2:]
    x1, x2 = _pixel_edges(crop.x1 * width, crop.x2 * width, width)
    y1, y2 = _pixel_edges(crop.y1 * height, crop.y2 * height, height)
    part = frames[..., y1:y2, x1:x2].contiguous()
    if part.shape[-2:] != (resolution, resolution):
        part = F.interpolate(part, size=(resolution, resolution), mode="bilinear", antialias=True)
    return part.flip(-1) if crop.flip else part


def crop_people(joints: Tensor, boxes: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """Joints ``[S, T, 17, 3]`` and boxes ``[S, T, 4]`` of the frame in shares of the crop.

    Joints outside [0, 1) lose their confidence (0 = unavailable) and keep their place. A flip also
    swaps left and right joints. Boxes are those of ``crop_boxes``.
    """
    origin = joints.new_tensor([crop.x1, crop.y1])
    size = joints.new_tensor([crop.x2 - crop.x1, crop.y2 - crop.y1])
    places = (joints[..., :2] - origin) / size
    confidence = joints[..., 2:]
    is_inside = ((places >= 0) & (places < 1)).all(dim=-1, keepdim=True)
    if crop.flip:
        x, y = places.unbind(dim=-1)
        mirrored = torch.where(is_inside[..., 0], (1.0 - x).clamp_max(_BELOW_ONE), 1.0 - x)
        places = torch.stack([mirrored, y], dim=-1)[..., list(SWAP_LEFT_RIGHT), :]
        confidence, is_inside = confidence[..., list(SWAP_LEFT_RIGHT), :], is_inside[..., list(SWAP_LEFT_RIGHT), :]
    return torch.cat([places, confidence * is_inside], dim=-1), crop_boxes(boxes, crop)[0]


def crop_boxes(boxes: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """Boxes ``[..., 4]`` of the frame in shares of the crop and clipped to it, and bool ``[...]``: some area is left.

    A box outside the crop, or without area, gets zeros.
    """
    origin = boxes.new_tensor([crop.x1, crop.y1] * 2)
    size = boxes.new_tensor([crop.x2 - crop.x1, crop.y2 - crop.y1] * 2)
    x1, y1, x2, y2 = ((boxes - origin) / size).clamp(0.0, 1.0).unbind(dim=-1)
    if crop.flip:
        x1, x2 = 1.0 - x2, 1.0 - x1
    is_inside = (x2 > x1) & (y2 > y1)
    return torch.where(is_inside[..., None], torch.stack([x1, y1, x2, y2], dim=-1), 0.0), is_inside


def _on_pixels(
    x: float, y: float, crop_width: float, crop_height: float, frame_size: tuple[int, int], *, flip: bool
) -> Crop:
    """A rectangle in pixels as a crop with its edges on the nearest whole pixels, never empty."""
    height, width = frame_size
    x1, x2 = _pixel_edges(x, x + crop_width, width)
    y1, y2 = _pixel_edges(y, y + crop_height, height)
    return Crop(x1=x1 / width, y1=y1 / height, x2=x2 / width, y2=y2 / height, flip=flip)


def _pixel_edges(low: float, high: float, n_pixels: int) -> tuple[int, int]:
    """The whole pixels nearest to two places given in pixels, half up."""
    first = min(int(low + 0.5), n_pixels - 1)
    return first, min(max(int(high + 0.5), first + 1), n_pixels)
