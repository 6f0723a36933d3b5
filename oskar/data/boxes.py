"""Boxes of people in images, and the classes and scores that they have.

A box is x1, y1, x2, y2 (left, top, right, bottom). Its classes are rows of their own, ``box_idx`` and
``class_idx``, since a person does several things at once and a file may say one of them twice.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.errors import InputError

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBoxes:
    """Boxes ``[n, 4]`` and the image of each, ``image_idx`` ``[n]``: a place in the keys ``images``.

    An image may have no box. Raises InputError where shapes, indices or values cannot be.
    """

    images: tuple[str, ...]
    image_idx: Integers
    boxes: Floats

    def __post_init__(self) -> None:
        _check_boxes(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonBoxes(ImageBoxes):
    """Detected people; ``scores`` ``[n]`` is the confidence of the person detector."""

    scores: Floats

    def __post_init__(self) -> None:
        _check_boxes(self)
        _check_scores(self.scores, len(self.boxes))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledBoxes(ImageBoxes):
    """Ground truth: box ``box_idx[i]`` has class ``class_idx[i]``, counted from 0.

    ``person_ids`` ``[n]`` are the annotators' track numbers, -1 where unknown.
    """

    box_idx: Integers
    class_idx: Integers
    person_ids: Integers

    def __post_init__(self) -> None:
        _check_boxes(self)
        _check_rows(self.box_idx, self.class_idx, len(self.boxes))
        _check_shape("person_ids", self.person_ids, (len(self.boxes),))

    def label_matrix(self, n_classes: int) -> NDArray[np.bool_]:
        """Bool ``[n, n_classes]``: what each person does; InputError for a class beyond ``n_classes``."""
        if len(self.class_idx) and self.class_idx.max() >= n_classes:
            raise InputError(f"class_idx = {self.class_idx.max()} of {n_classes} classes", fix="raise n_classes")
        has_class = np.zeros((len(self.boxes), n_classes), dtype=np.bool_)
        has_class[self.box_idx, self.class_idx] = True
        return has_class


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBoxes(ImageBoxes):
    """Detections: box ``box_idx[i]`` has class ``class_idx[i]``, counted from 0, with ``scores[i]``."""

    box_idx: Integers
    class_idx: Integers
    scores: Floats

    def __post_init__(self) -> None:
        _check_boxes(self)
        _check_rows(self.box_idx, self.class_idx, len(self.boxes))
        _check_scores(self.scores, len(self.box_idx))


def score_every_class(people: ImageBoxes, scores: Floats) -> ScoredBoxes:
    """Detections of a multi-label head: ``scores`` ``[n, classes]``, every class of every box."""
    _check_shape("scores", scores, (len(people.boxes), scores.shape[-1]))
    n, n_classes = scores.shape
    return ScoredBoxes(
        images=people.images,
        image_idx=people.image_idx,
        boxes=people.boxes,
        box_idx=np.repeat(np.arange(n, dtype=np.int32), n_classes),
        class_idx=np.tile(np.arange(n_classes, dtype=np.int16), n),
        scores=scores.reshape(-1),
    )


def _check_boxes(table: ImageBoxes) -> None:
    if len(set(table.images)) != len(table.images):
        raise InputError(f"images: {len(table.images)} keys, some of them twice", fix="list each image once")
    _check_shape("boxes", table.boxes, (len(table.boxes), 4))
    _check_shape("image_idx", table.image_idx, (len(table.boxes),))
    _check_range("image_idx", table.image_idx, len(table.images))
    _check_finite("boxes", table.boxes)


def _check_rows(box_idx: Integers, class_idx: Integers, n_boxes: int) -> None:
    _check_shape("class_idx", class_idx, box_idx.shape)
    _check_shape("box_idx", box_idx, (len(box_idx),))
    _check_range("box_idx", box_idx, n_boxes)
    _check_range("class_idx", class_idx, None)


def _check_scores(scores: Floats, n: int) -> None:
    _check_shape("scores", scores, (n,))
    _check_finite("scores", scores)


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(f"{name} of shape {list(array.shape)}", fix=f"it needs {list(shape)}")


def _check_range(name: str, idx: Integers, n: int | None) -> None:
    if len(idx) and (idx.min() < 0 or (n is not None and idx.max() >= n)):
        value = int(idx.min()) if idx.min() < 0 else int(idx.max())
        raise InputError(f"{name} = {value}", fix="count from 0" if n is None else f"use 0 to {n - 1}")


def _check_finite(name: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"{name}{place.tolist()} = {values[tuple(place)]}", fix="leave out what has no finite value")
