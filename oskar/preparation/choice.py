"""Which people of a video count: the paper's criteria as assumption A2 reads them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oskar.preparation.detections import Detections, Floats, Integers

_SMALLEST_SPREAD = 1e-6  # terms closer than this are the same but for rounding
_SMALLEST_SIZE = 1e-6  # pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class People:
    """The chosen people of a video, best first; S people, T frames.

    ``joints`` ``[S, T, 17, 3]``: x, y as shares of the frame and a confidence; ``boxes`` ``[S, T, 4]`` as shares. Both
    are NaN (confidence 0) where unknown. ``box_scores`` ``[S, T]``, NaN where unknown; ``track_scores`` ``[S]``.
    """

    joints: Floats
    boxes: Floats
    box_scores: Floats
    track_scores: Floats


def score_tracks(found: Detections, track_ids: Integers, frame_size: tuple[float, float]) -> NDArray[np.float64]:
    """The score of each track ``[S]``, in the order of ``numpy.unique(track_ids)``: A2 of the specification.

    The mean of five terms, each min-max normalised over the tracks of the video: share of frames present, mean keypoint
    displacement over box size, mean keypoint confidence, mean box confidence, 1 - mean distance to the centre over
    half the diagonal. Where the specification is silent: a displacement is that of a joint known in two frames in
    a row, in pixels over the root of the box's area; unknown joints count as confidence 0; the place of a person is
    the middle of the box; an unknown box confidence counts as the lowest; a term that all tracks share counts 0.
    """
    terms = np.array([_terms(found, track_ids == track, frame_size) for track in np.unique(track_ids)])
    terms = terms.reshape(-1, 5)
    box_scores = terms[:, 3]
    is_unknown = np.isnan(box_scores)
    box_scores[is_unknown] = 0.0 if is_unknown.all() else np.nanmin(box_scores)
    low, high = terms.min(axis=0, initial=np.inf), terms.max(axis=0, initial=-np.inf)
    is_telling = high - low > _SMALLEST_SPREAD
    normalised = np.where(is_telling, (terms - low) / np.where(is_telling, high - low, 1.0), 0.0)
    return np.asarray(normalised.mean(axis=1))


def choose(found: Detections, track_ids: Integers, n_people: int, frame_size: tuple[float, float]) -> People:
    """The ``n_people`` best tracks, best first; of equal ones the longer, then the one seen earlier."""
    scores = score_tracks(found, track_ids, frame_size)
    names = np.unique(track_ids)
    n_rows = np.array([int((track_ids == name).sum()) for name in names])
    first = np.array([int(found.frame_idx[track_ids == name].min()) for name in names])
    best = np.lexsort((names, first, -n_rows, -np.round(scores, 12)))[:n_people]
    n, n_frames = len(best), found.n_frames
    joints = np.full((n, n_frames, 17, 3), np.nan, dtype=np.float32)
    joints[..., 2] = 0.0
    boxes = np.full((n, n_frames, 4), np.nan, dtype=np.float32)
    box_scores = np.full((n, n_frames), np.nan, dtype=np.float32)
    for person, name in enumerate(names[best]):
        rows = np.flatnonzero(track_ids == name)
        frames = found.frame_idx[rows]
        joints[person, frames] = found.joints[rows]
        boxes[person, frames] = found.boxes[rows]
        box_scores[person, frames] = found.scores[rows]
    return People(joints=joints, boxes=boxes, box_scores=box_scores, track_scores=scores[best].astype(np.float32))


def _terms(found: Detections, is_track: NDArray[np.bool_], frame_size: tuple[float, float]) -> list[float]:
    """The five criteria of one track, not normalised yet."""
    rows = np.flatnonzero(is_track)
    size = np.asarray(frame_size, dtype=np.float64)
    boxes = found.extents()[rows].astype(np.float64) * np.tile(size, 2)
    joints = found.joints[rows].astype(np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = np.linalg.norm(centres - size / 2, axis=1).mean()
    known_scores = found.scores[rows][np.isfinite(found.scores[rows])]
    return [
        len(rows) / found.n_frames,
        _displacement(found.frame_idx[rows], joints[..., :2] * size, joints[..., 2] > 0, boxes),
        float(joints[..., 2].mean()),
        float(known_scores.mean()) if len(known_scores) else float("nan"),
        1.0 - float(distance) / (float(np.linalg.norm(size)) / 2),
    ]


def _displacement(
    frames: Integers, positions: NDArray[np.float64], is_known: NDArray[np.bool_], boxes: NDArray[np.float64]
) -> float:
    """Mean way of a joint from one frame to the next, over the root of the area of the box it ends in."""
    is_next = (np.diff(frames) == 1)[:, None] & is_known[1:] & is_known[:-1]
    if not is_next.any():
        return 0.0
    sizes = np.sqrt((boxes[1:, 2:] - boxes[1:, :2]).clip(0).prod(axis=1)).clip(_SMALLEST_SIZE)
    ways = np.linalg.norm(positions[1:] - positions[:-1], axis=-1) / sizes[:, None]
    return float(ways[is_next].mean())
