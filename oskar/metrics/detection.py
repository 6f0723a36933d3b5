"""Frame mAP at IoU 0.5: spatiotemporal localisation, scored image by image (AVA).

Per class, detections of all images go in descending score, ties in their order of input. Each looks
only at the box of its image and class that it overlaps most (the first of equals). It is right if
IoU >= 0.5 and no better detection has that box; otherwise it is wrong, and takes no second choice. AP
is the area under precision over recall, precision being the best at this recall or a larger one.

Two protocols differ in which images and detections count:

``"activitynet"``  The official evaluator: the images of the ground-truth file, those declared without
                   boxes among them, and at most the 50 best detections of each image.
``"exclusion"``    SlowFast, VideoMAE: every image that is not excluded, those without ground truth
                   too, where all detections are wrong; no limit.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from oskar.data.boxes import Floats, Integers, LabelledBoxes, ScoredBoxes
from oskar.errors import InputError

EvaluationProtocol = Literal["activitynet", "exclusion"]
MIN_IOU = 0.5
MOST_PER_IMAGE = 50  # of all classes together, under "activitynet"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameMAP:
    """``average_precision`` and ``n_labels`` by evaluated class, in the order of ``classes``; shares, not percent.

    AP is NaN without ground truth, and left out of ``mean``; it is 0 with ground truth and no
    detection. ``n_boxes`` are the ground-truth boxes and ``n_detections`` the pairs of box and class
    that were used, ``n_images`` the images whose detections count.
    """

    protocol: EvaluationProtocol
    classes: tuple[int, ...]
    average_precision: NDArray[np.float64]
    mean: float
    n_labels: NDArray[np.int64]
    n_images: int
    n_boxes: int
    n_detections: int


def frame_map(
    ground_truth: LabelledBoxes,
    detections: ScoredBoxes,
    *,
    classes: Collection[int],
    protocol: EvaluationProtocol,
    excluded: Collection[str] = (),
) -> FrameMAP:
    """Evaluate on ``classes`` (counted from 0) alone; other rows do not exist.

    ``excluded`` are keys of images that ``"exclusion"`` removes from both sides; ``"activitynet"``
    has no such list. Detections without area are discarded, after the limit of 50 as in the official
    evaluator. Boxes may be in shares or pixels. Raises InputError for no or impossible classes.
    """
    names = tuple(sorted(set(classes)))
    if not names or names[0] < 0:
        raise InputError(f"classes = {list(names)[:10]}", fix="name the evaluated classes, counted from 0")
    is_image, place_of_found = _number_images(ground_truth.images, detections.images, protocol, frozenset(excluded))
    true_image, found_image = ground_truth.image_idx, place_of_found[detections.image_idx]
    is_true = _is_class(ground_truth.class_idx, names) & is_image[true_image][ground_truth.box_idx]
    is_found = _is_class(detections.class_idx, names) & is_image[found_image][detections.box_idx]
    if protocol == "activitynet":
        is_found &= _is_among_best(found_image, detections, is_found)
    x1, y1, x2, y2 = detections.boxes.T
    is_found &= ((x1 < x2) & (y1 < y2))[detections.box_idx]

    precision, n_labels = np.full(len(names), np.nan), np.zeros(len(names), dtype=np.int64)
    for i, name in enumerate(names):
        true_box = ground_truth.box_idx[is_true & (ground_truth.class_idx == name)]
        rows = np.flatnonzero(is_found & (detections.class_idx == name))
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        found_box = detections.box_idx[rows]
        n_labels[i] = len(true_box)
        if len(true_box):
            is_right = _is_right(
                (true_image[true_box], ground_truth.boxes[true_box]),
                (found_image[found_box], detections.boxes[found_box]),
                len(is_image),
            )
            precision[i] = _average_precision(is_right, len(true_box))
    is_defined = n_labels > 0
    return FrameMAP(
        protocol=protocol,
        classes=names,
        average_precision=precision,
        mean=float(precision[is_defined].mean()) if is_defined.any() else float("nan"),
        n_labels=n_labels,
        n_images=int(is_image.sum()),
        n_boxes=len(np.unique(ground_truth.box_idx[is_true])),
        n_detections=int(is_found.sum()),
    )


def _number_images(
    true: tuple[str, ...], found: tuple[str, ...], protocol: EvaluationProtocol, excluded: frozenset[str]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Number the images of both sides, those of the ground truth first.

    Returns which of them count, and the numbers of ``found``.
    """
    place = {key: i for i, key in enumerate(true)}
    place_of_found = np.array([place.setdefault(key, len(place)) for key in found], dtype=np.int64)
    if protocol == "activitynet":
        return np.arange(len(place)) < len(true), place_of_found
    return np.array([key not in excluded for key in place], dtype=np.bool_), place_of_found


def _is_class(class_idx: Integers, names: tuple[int, ...]) -> NDArray[np.bool_]:
    """By a table, which costs a byte a row where ``np.isin`` sorts."""
    last = int(class_idx.max(initial=-1))
    is_named = np.zeros(last + 1, dtype=np.bool_)
    is_named[[name for name in names if name <= last]] = True
    return is_named[class_idx]


def _is_among_best(image: Integers, detections: ScoredBoxes, is_candidate: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The candidates that are among the 50 best of their image."""
    rows = np.flatnonzero(is_candidate)
    image_of_row = image[detections.box_idx[rows]]
    order = np.lexsort((-detections.scores[rows], image_of_row))
    n_in_image = np.bincount(image_of_row)
    rank = np.arange(len(rows)) - np.repeat(_starts(n_in_image), n_in_image)
    is_best = np.zeros(len(is_candidate), dtype=np.bool_)
    is_best[rows[order[rank < MOST_PER_IMAGE]]] = True
    return is_best


def _is_right(true: tuple[Integers, Floats], found: tuple[Integers, Floats], n_images: int) -> NDArray[np.bool_]:
    """Which detections are right; images and boxes of one class, detections in descending score.

    All pairs of a detection and a box of its image are laid out in a row, by detection.
    """
    order = np.argsort(true[0], kind="stable")
    n_true = np.bincount(true[0], minlength=n_images)
    n_pairs = n_true[found[0]]
    is_paired = n_pairs > 0
    starts = _starts(n_pairs)
    is_right = np.zeros(len(found[0]), dtype=np.bool_)
    if not is_paired.any():
        return is_right
    pair = np.arange(n_pairs.sum())
    true_of_pair = order[pair + np.repeat(_starts(n_true)[found[0]] - starts, n_pairs)]
    iou = _iou(np.repeat(found[1], n_pairs, axis=0), true[1][true_of_pair])
    best_iou = np.maximum.reduceat(iou, starts[is_paired])
    is_best = iou == np.repeat(best_iou, n_pairs[is_paired])
    best_pair = np.minimum.reduceat(np.where(is_best, pair, len(pair)), starts[is_paired])
    is_near = best_iou >= MIN_IOU
    _, first = np.unique(true_of_pair[best_pair[is_near]], return_index=True)
    is_right[np.flatnonzero(is_paired)[is_near][first]] = True
    return is_right


def _starts(counts: Integers) -> Integers:
    return np.cumsum(counts) - counts


def _iou(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Intersection over union of boxes ``[n, 4]``, pair by pair; 0 where a box of ``b`` has no area."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.prod(np.maximum(size, 0.0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - intersection
    iou: NDArray[np.float64] = np.zeros(len(a))
    np.divide(intersection, union, out=iou, where=intersection > 0)
    return iou


def _average_precision(is_right: NDArray[np.bool_], n_true: int) -> float:
    """Recall rises by 1 / n_true at each right detection, so the area is a sum of precisions there."""
    precision = np.cumsum(is_right) / np.arange(1, len(is_right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[is_right].sum() / n_true)
