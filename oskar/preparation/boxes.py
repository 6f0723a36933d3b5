"""Overlap of boxes, and leaving out those that say the same."""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]


def iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union ``[n, m]`` of boxes ``[n, 4]`` and ``[m, 4]`` (x1, y1, x2, y2); 0 without an area."""
    first, second = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = sides.clip(0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    result: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def suppress(boxes: Boxes, scores: Boxes, *, max_iou: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: the rows kept, best first.

    No kept box overlaps a better one by more than ``max_iou``.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = iou(boxes[order], boxes[order])
    kept: list[int] = []
    for place in range(len(order)):
        if not (overlaps[place, kept] > max_iou).any():
            kept.append(place)
    return order[kept].astype(np.int64)
