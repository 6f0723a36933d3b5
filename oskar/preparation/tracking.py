"""Detections joined into tracks by the overlap of boxes, where no tool has done it."""

import numpy as np

from oskar.preparation.boxes import iou
from oskar.preparation.detections import Detections, Floats, Integers
from oskar.preparation.settings import PeopleConfig


def track(found: Detections, config: PeopleConfig) -> Integers:
    """The track of every row, ``[n]``: the source's own, or else by overlap with the person's last box.

    In each frame the pair of track and detection with the largest overlap is joined first, then the next among those
    left, down to ``min_iou``; what is left over starts a track. A track ends after ``gap_frames`` frames unseen.
    """
    if found.track_ids is not None:
        return found.track_ids
    boxes = found.extents()
    track_ids = np.full(len(found), -1, dtype=np.int64)
    last_row: list[int] = []  # of every track
    for frame in np.unique(found.frame_idx):
        rows = np.flatnonzero(found.frame_idx == frame)
        open_tracks = [t for t, row in enumerate(last_row) if frame - found.frame_idx[row] <= config.gap_frames + 1]
        for place, chosen in _pairs(boxes[[last_row[t] for t in open_tracks]], boxes[rows], config.min_iou):
            track_ids[rows[chosen]] = open_tracks[place]
            last_row[open_tracks[place]] = int(rows[chosen])
        for row in rows[track_ids[rows] < 0]:
            track_ids[row] = len(last_row)
            last_row.append(int(row))
    return track_ids


def _pairs(known: Floats, new: Floats, min_iou: float) -> list[tuple[int, int]]:
    overlaps = iou(known, new)
    pairs: list[tuple[int, int]] = []
    while overlaps.size and overlaps.max() > 0 and overlaps.max() >= min_iou:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        pairs.append((int(row), int(column)))
        overlaps[row] = overlaps[:, column] = -1.0
    return pairs
