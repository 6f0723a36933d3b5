"""Errors of predicted joints: PCK (Yang and Ramanan 2013, by the box) and the mean error, as pure functions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oskar.errors import InputError

PCK_SHARES = (0.05, 0.1, 0.2)  # of the longer side of the person's box


def box_sides(boxes: Tensor) -> Tensor:
    """The longer side ``[...]`` of boxes ``[..., 4]`` (x1, y1, x2, y2); 0 where a box has no area."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides > 0).all(-1), sides.amax(-1), 0.0)


def relative_errors(predicted: Tensor, truth: Tensor, sides: Tensor) -> Tensor:
    """Distances ``[...]`` of joints ``[..., 2]`` to the truth in units of ``sides`` ``[...]``, float64.

    Raises:
        InputError: a side that is not above 0, or a value that is not finite.
    """
    if not bool((sides > 0).all()):
        raise InputError("a joint whose person's box has no area", fix="leave out what has no size to compare with")
    errors = (predicted.double() - truth.double()).square().sum(-1).sqrt() / sides.double()
    if not bool(errors.isfinite().all()):
        raise InputError("a joint or a prediction is not finite", fix="check the weights, or lower the learning rate")
    return errors


def pck_percent(errors: Tensor, share: float) -> float:
    """Joints whose relative error is at most ``share``, in percent; NaN without any joint."""
    return 100.0 * float((errors <= share).double().mean())


def pose_metrics(
    errors: Tensor, *, evaluated_share: float = 1.0, shares: Sequence[float] = PCK_SHARES
) -> dict[str, float]:
    """``pck_<percent>_percent`` for each share, and ``mean_error_percent`` of the box's longer side.

    ``evaluated_share`` is the share of the expected clips that could be read: the joints of the others, as many as
    the average clip has, count as wrong in the PCK. The mean error is that of the clips that could be read.
    """
    named = {f"pck_{100 * share:g}_percent": evaluated_share * pck_percent(errors, share) for share in shares}
    return {**named, "mean_error_percent": 100.0 * float(errors.double().mean())}


def mean_pose(relative: Tensor, is_counted: Tensor) -> Tensor:
    """Mean ``[J, 2]`` of places ``[n, J, 2]`` over the n where ``is_counted`` ``[n, J]``; the middle where none is."""
    weights = is_counted.double()[..., None]
    count = weights.sum(0)
    mean = torch.where(is_counted[..., None], relative.double(), 0.0).sum(0) / count.clamp_min(1)
    return torch.where(count > 0, mean, 0.5)
