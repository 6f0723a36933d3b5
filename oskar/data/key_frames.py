"""Clips around a key frame, and what is done to the boxes in it (the protocol of VideoMAE on AVA).

Boxes ``[n, 4]`` are x1, y1, x2, y2; what these functions do depends on a box's own size alone, so any
units will do. ``oskar/data/cropping.py`` moves boxes into a crop and clips them.
"""

import math

from torch import Tensor

from oskar.errors import InputError

# Shares of a box's width and height, per side
_OUTWARDS = (0.2, 0.1)
_INWARDS = (0.1, 0.05)
_ENLARGED = (0.05, 0.025)


def key_frame_indices(
    second: float,
    *,
    fps: float,
    n_available: int,
    n_frames: int = 16,
    stride_frames: int = 4,
    file_start_seconds: float = 0.0,
) -> list[int]:
    """The ``n_frames`` frame numbers of the clip around ``second``, clamped at the ends of the file.

    A window of ``n_frames * stride_frames`` frames has the key frame, the nearest to ``second``, as
    the first of its second half; the clip takes one frame of each stride, the middle one (of two, the
    earlier). ``file_start_seconds`` is the time of the file's first frame, not 0 where a file holds a
    part of a movie. Raises InputError if the key frame itself is not in the file.
    """
    key_frame = math.floor((second - file_start_seconds) * fps + 0.5)
    if not 0 <= key_frame < n_available:
        raise InputError(
            f"second {second:g} is frame {key_frame} at {fps:g} fps, the file has {n_available} frames from"
            f" second {file_start_seconds:g}",
            fix="correct the time at which the file starts, or leave this key frame out",
        )
    first = key_frame - n_frames * stride_frames // 2 + (stride_frames - 1) // 2
    return [min(max(first + i * stride_frames, 0), n_available - 1) for i in range(n_frames)]


def jitter_boxes(boxes: Tensor, u: Tensor) -> Tensor:
    """Boxes to train on: ``u`` ``[n, 4]``, uniform in [0, 1), moves each side on its own.

    0 moves a side inwards by 0.1 of the width or 0.05 of the height, 1 outwards by 0.2 or 0.1.
    """
    inwards, outwards = boxes.new_tensor(_INWARDS * 2), boxes.new_tensor(_OUTWARDS * 2)
    return _move_outwards(boxes, u * (inwards + outwards) - inwards)


def enlarge_boxes(boxes: Tensor) -> Tensor:
    """Boxes to test on: wider by 10 % and higher by 5 % about their centre."""
    return _move_outwards(boxes, boxes.new_tensor(_ENLARGED * 2))


def _move_outwards(boxes: Tensor, shares: Tensor) -> Tensor:
    """Move the four sides outwards by ``shares`` of width, height, width, height."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    direction = boxes.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return boxes + direction * shares * size
