"""From the bodies of an NTU recording to two actors, as CTR-GCN, MAMP and PYSKL clean them (Chen et al. 2021).

1. Frames without a body are dropped.
2. A body's motion is the variance over all its joints and frames, summed over x, y and z.
3. Of several bodies, those seen in 11 frames or fewer are dropped; where that would drop all, none is.
4. While several are left: a frame is noisy where the body is wider than 0.8 of its height. A body noisy in a
   share of 0.69754 of its frames or more is dropped; another's motion falls to that of its clean frames.
5. By falling motion: the first is actor 1; another continues actor 1 where it shares none of the frames between
   actor 1's first and last, else actor 2 in the same way, else it is dropped.
6. Frames in which both actors are absent are dropped.
7. Positions become relative to joint 2 (middle of the spine) of actor 1 in its first frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from oskar.data.formats.ntu_skeleton import KinectRecording
from oskar.errors import InputError

Value = TypeVar("Value", bound=np.generic)
Floats = NDArray[np.float64]

_FEW_FRAMES = 11
_WIDEST = 0.8
_NOISY_SHARE = 0.69754
_SPINE_BASE, _SPINE_MIDDLE, _LEFT_SHOULDER, _RIGHT_SHOULDER = 0, 1, 4, 8
_TO_RIGHT, _TO_FRONT = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActorTracks:
    """Which sighting of a recording shows which actor; T frames.

    ``sightings`` int64 ``[2, T]``: rows of the recording's arrays, -1 where the actor is absent.
    ``frame_idx`` int64 ``[T]``: frames of the recording, rising.
    """

    sightings: NDArray[np.int64]
    frame_idx: NDArray[np.int64]

    @property
    def is_present(self) -> NDArray[np.bool_]:
        """``[2, T]``."""
        return self.sightings >= 0

    def gather(self, values: NDArray[Value]) -> NDArray[Value]:
        """``[R, ...]`` of the recording as ``[2, T, ...]`` of the actors, zeros where one is absent."""
        chosen = values[self.sightings]
        chosen[~self.is_present] = 0
        return chosen


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Body:
    """The sightings of one id, and the frames they are in, counted over the frames that show anybody."""

    sightings: NDArray[np.int64]
    frames: NDArray[np.int64]
    motion: float

    @property
    def span(self) -> tuple[int, int]:
        """Its first and its last frame."""
        return int(self.frames[0]), int(self.frames[-1])


def track_actors(recording: KinectRecording, *, ctrgcn_compat: bool = False) -> ActorTracks:
    """Steps 1 to 6.

    ``ctrgcn_compat`` reproduces three habits of CTR-GCN: a body's sightings count as one frame after
    the other, so that one that vanishes and returns is shifted; spans that share a single frame do not overlap, and
    the later body overwrites it; the span of actor 2 begins at frame 0.

    Raises InputError where no frame shows a body.
    """
    if not len(recording.frame_idx):
        raise InputError(
            f"{recording.source}: no body in any of its {recording.n_frames} frames",
            fix="leave the sample out, as the official lists of missing skeletons do",
        )
    frame_idx, frames = np.unique(recording.frame_idx, return_inverse=True)
    bodies = _without_noise(_bodies(recording, frames, is_shifted=ctrgcn_compat), recording.positions)
    sightings = np.full((2, len(frame_idx)), -1, dtype=np.int64)
    spans: list[tuple[int, int] | None] = [None, (0, 0) if ctrgcn_compat else None]
    for body in sorted(bodies, key=lambda body: -body.motion):
        for actor, span in enumerate(spans):
            if span is None or _n_shared(span, body.span) <= int(ctrgcn_compat):
                sightings[actor, body.frames] = body.sightings
                first, last = body.span
                spans[actor] = body.span if span is None else (min(span[0], first), max(span[1], last))
                break
    is_shown = (sightings >= 0).any(axis=0)
    return ActorTracks(sightings=sightings[:, is_shown], frame_idx=frame_idx[is_shown])


def centred_positions(
    recording: KinectRecording, tracks: ActorTracks, *, align_spine: bool = False
) -> NDArray[np.float32]:
    """Step 7: positions ``[2, T, 25, 3]`` in metres, zeros where an actor or a joint is missing.

    Without ``align_spine`` nothing is turned or scaled. With it, as in 2s-AGCN and PYSKL, everything is
    turned about the origin twice, each time by the smallest angle: actor 1's spine in its first frame
    (joint 1 to 2) to +z, then its shoulders (left to right) to +x, which may tilt the spine again.

    Raises InputError where actor 1 never shows the joints this needs, or two of them coincide.
    """
    needed = (_SPINE_MIDDLE, _SPINE_BASE, _LEFT_SHOULDER, _RIGHT_SHOULDER) if align_spine else (_SPINE_MIDDLE,)
    positions = tracks.gather(recording.positions).astype(np.float64)
    is_known = tracks.is_present[..., None] & np.isfinite(positions).all(axis=-1)
    has_needed = is_known[0][:, needed].all(axis=-1)
    if not has_needed.any():
        raise InputError(
            f"{recording.source}: no frame shows joints {', '.join(str(j + 1) for j in sorted(needed))} of actor 1",
            fix="leave the sample out",
        )
    first = int(has_needed.argmax())
    positions -= positions[0, first, _SPINE_MIDDLE]
    if align_spine:
        for start, end, axis in ((_SPINE_BASE, _SPINE_MIDDLE, _TO_FRONT), (_LEFT_SHOULDER, _RIGHT_SHOULDER, _TO_RIGHT)):
            line = positions[0, first, end] - positions[0, first, start]
            if not line.any():
                raise InputError(f"{recording.source}: joints {start + 1} and {end + 1} coincide", fix="leave it out")
            positions = positions @ _smallest_turn(line, np.array(axis)).T
    return np.where(is_known[..., None], positions, 0.0).astype(np.float32)


def _bodies(recording: KinectRecording, frames: NDArray[np.int64], *, is_shifted: bool) -> list[_Body]:
    """Step 2; bodies in the order in which they first appear."""
    ids, first_rows = np.unique(recording.body_ids, return_index=True)
    bodies = []
    for body_id in ids[np.argsort(first_rows)]:
        sightings = np.flatnonzero(recording.body_ids == body_id)
        own = frames[sightings]
        own = own[0] + np.arange(len(own)) if is_shifted else own
        bodies.append(_Body(sightings=sightings, frames=own, motion=_motion(recording.positions[sightings])))
    return bodies


def _without_noise(bodies: Sequence[_Body], positions: NDArray[np.float32]) -> list[_Body]:
    """Steps 3 and 4."""
    if len(bodies) == 1:
        return list(bodies)
    kept = [body for body in bodies if len(body.sightings) > _FEW_FRAMES] or list(bodies)
    for body in list(kept):
        if len(kept) == 1:
            break
        is_noisy = _is_wide(positions[body.sightings])
        kept_at = kept.index(body)
        if is_noisy.mean() >= _NOISY_SHARE:
            del kept[kept_at]
        else:
            clean = _motion(positions[body.sightings[~is_noisy]])
            kept[kept_at] = replace(body, motion=min(body.motion, clean))
    return kept


def _motion(positions: NDArray[np.float32]) -> float:
    known = positions[np.isfinite(positions).all(axis=-1)].astype(np.float64)
    return float(known.var(axis=0).sum()) if len(known) else 0.0


def _is_wide(positions: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Per frame of ``[n, 25, 3]``; a frame without a known joint is not wide."""
    is_known = np.isfinite(positions[..., :2])
    reach = np.max(positions[..., :2], axis=1, where=is_known, initial=-np.inf) - np.min(
        positions[..., :2], axis=1, where=is_known, initial=np.inf
    )
    return np.asarray(reach[:, 0] > _WIDEST * reach[:, 1])


def _n_shared(one: tuple[int, int], other: tuple[int, int]) -> int:
    """Frames that two spans share; 0 or less where they share none."""
    return min(one[1], other[1]) - max(one[0], other[0]) + 1


def _smallest_turn(line: Floats, axis: Floats) -> Floats:
    """The rotation by the smallest angle that turns ``line`` to ``axis`` (Rodrigues)."""
    unit = line / np.linalg.norm(line)
    cosine = float(unit @ axis)
    if cosine < -1 + 1e-12:  # opposite: any axis across will do
        across = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
        return 2.0 * np.outer(across, across) - np.eye(3)
    x, y, z = np.cross(unit, axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn: Floats = np.eye(3) + cross + cross @ cross / (1.0 + cosine)
    return turn
