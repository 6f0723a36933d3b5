"""People found in the frames of one video, in one form whatever tool found them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from oskar.data.placement import BOX_PADDING, SMALLEST_PADDING
from oskar.errors import InputError
from oskar.tokens.layouts import LAYOUTS, Layout, to_internal

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_LEAST_SHARE_INSIDE = 0.5  # of the joints; fewer inside the frame means that the poses are of another size
_FRAME_TOLERANCE = 0.05  # joints just outside the frame are no sign of that


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundPerson:
    """One person in one frame, as a file or a model says it; J joints of any layout.

    ``joints`` ``[J, 3]``: x, y and a confidence. ``box`` is x1, y1, x2, y2, None where none is given; ``score`` is
    the box's, NaN where unknown; ``track_id`` is None where nobody tracked.
    """

    frame: int
    joints: NDArray[np.float64]
    box: NDArray[np.float64] | None = None
    score: float = float("nan")
    track_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Detections:
    """Rows of (frame, person); n rows in the order of frames.

    ``frame_idx`` int64 ``[n]``; ``joints`` ``[n, 17, 3]``: x, y as shares of the frame and a confidence, NaN, NaN, 0
    where unknown; ``boxes`` ``[n, 4]`` as shares, NaN where the source gave none; ``scores`` ``[n]`` of the boxes, NaN
    where unknown; ``track_ids`` int64 ``[n]``, None where nobody tracked.
    """

    n_frames: int
    frame_idx: Integers
    joints: Floats
    boxes: Floats
    scores: Floats
    track_ids: Integers | None

    def __len__(self) -> int:
        return len(self.frame_idx)

    def extents(self) -> Floats:
        """The boxes ``[n, 4]``, or where none is given one around the known joints, padded as readers do."""
        is_known = (self.joints[..., 2] > 0)[..., None]
        low = np.where(is_known, self.joints[..., :2], np.inf).min(axis=1)
        high = np.where(is_known, self.joints[..., :2], -np.inf).max(axis=1)
        padding = (BOX_PADDING * (high - low).max(axis=1, keepdims=True)).clip(SMALLEST_PADDING)
        around = np.concatenate([low - padding, high + padding], axis=1)
        is_given = np.isfinite(self.boxes).all(axis=1, keepdims=True)
        return np.where(is_given, self.boxes, around).astype(np.float32)


def gather(
    people: Sequence[FoundPerson],
    *,
    layout: Layout = LAYOUTS["COCO-17"],
    frame_size: tuple[float, float],
    n_frames: int,
    source: str,
) -> Detections:
    """Found people as ``Detections``; their coordinates are divided by ``frame_size`` (width, height).

    A person without one known joint is left out, as trackers write empty places.

    Raises:
        InputError: a frame that the video has not, another number of joints than the layout, confidences beyond
            [0, 1], a track twice in one frame, joints mostly outside the frame.
    """
    people = sorted((p for p in people if _is_somebody(p)), key=lambda person: person.frame)
    _check(people, layout, n_frames, source)
    size = np.asarray(frame_size, dtype=np.float64)
    n, n_joints = len(people), len(layout.joint_names)
    raw = np.stack([p.joints for p in people]) if people else np.zeros((0, n_joints, 3))
    confidence = np.nan_to_num(raw[..., 2])
    positions, known = to_internal(torch.from_numpy(raw[..., :2] / size), torch.from_numpy(confidence), layout)
    is_known = (known > 0).numpy()
    joints = np.concatenate([positions.numpy(), known.numpy()[..., None]], axis=-1)
    joints[~is_known, :2] = np.nan
    boxes = np.stack([p.box if p.box is not None else np.full(4, np.nan) for p in people]) if n else np.zeros((0, 4))
    _check_places(joints[..., :2][is_known], source)
    is_tracked = n > 0 and all(p.track_id is not None for p in people)
    return Detections(
        n_frames=n_frames,
        frame_idx=np.array([p.frame for p in people], dtype=np.int64),
        joints=joints.astype(np.float32),
        boxes=(boxes / np.tile(size, 2)).astype(np.float32),
        scores=np.array([p.score for p in people], dtype=np.float32),
        track_ids=np.array([p.track_id for p in people], dtype=np.int64) if is_tracked else None,
    )


def _is_somebody(person: FoundPerson) -> bool:
    is_known = np.isfinite(person.joints[..., :2]).all(axis=-1) & (np.nan_to_num(person.joints[..., 2]) > 0)
    return bool(is_known.any())


def _check(people: Sequence[FoundPerson], layout: Layout, n_frames: int, source: str) -> None:
    seen: set[tuple[int, int]] = set()
    for person in people:
        where = f"{source}, frame {person.frame}"
        if not 0 <= person.frame < n_frames:
            raise InputError(
                f"{where}: the video has {n_frames} frames, counted from 0",
                fix="give the poses of this video, or set people.first_frame to the number of their first frame",
            )
        if person.joints.shape != (len(layout.joint_names), 3):
            raise InputError(
                f"{where}: {len(person.joints)} joints, layout {layout.name} has {len(layout.joint_names)}",
                fix="write the poses in the layout of their format",
            )
        known = person.joints[:, 2][np.isfinite(person.joints[:, 2])]
        if len(known) and not -1e-3 <= known.min() <= known.max() <= 1.001:
            raise InputError(
                f"{where}: confidences from {known.min():g} to {known.max():g}", fix="store them between 0 and 1"
            )
        if person.track_id is None:
            continue
        if (person.frame, person.track_id) in seen:
            raise InputError(
                f"{where}: track {person.track_id} is there twice", fix="give every person of a frame another number"
            )
        seen.add((person.frame, person.track_id))


def _check_places(positions: Floats, source: str) -> None:
    """``positions`` ``[n, 2]`` of known joints as shares of the frame."""
    if not len(positions):
        return
    inside = ((positions >= -_FRAME_TOLERANCE) & (positions <= 1 + _FRAME_TOLERANCE)).all(axis=-1).mean()
    if inside < _LEAST_SHARE_INSIDE:
        raise InputError(
            f"{source}: only {inside:.0%} of the joints lie inside the frame",
            fix="give poses of this video at this size: they are in pixels of another",
        )
