"""The ``.skeleton`` text files of NTU RGB+D: every body that the Kinect saw, frame by frame.

    <frame count>
    per frame:     <body count>, which may be 0
      per body:    bodyID, 6 hand and edge states, 2 leans, tracking state
                   <joint count>, 25
        per joint: x y z, x y in the depth image, x y in the colour image, 4 of the orientation, tracking state

One record a line, separated by blanks. Orientations and what else is said of a body are not kept.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import shown
from oskar.errors import InputError

N_NTU_JOINTS = 25
DEPTH_SIZE, COLOUR_SIZE = (512, 424), (1920, 1080)  # width, height in pixels
_N_BODY_VALUES, _N_JOINT_VALUES = 10, 12
_HIGHEST_ID = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KinectRecording:
    """R sightings of bodies in the order of the file; J = 25.

    ``frame_idx`` int64 ``[R]`` counts from 0 and never decreases. ``body_ids`` int64 ``[R]`` name the
    tracks of this file only. ``positions`` float32 ``[R, J, 3]``: metres in the camera's space, y up, z away from
    the camera. ``depth_xy`` and ``colour_xy`` float32 ``[R, J, 2]``: pixels. ``tracking`` int8 ``[R, J]``: 0 not
    tracked, 1 inferred, 2 tracked. What is missing is NaN in all its coordinates: values that are not finite, and
    pixels outside their image.
    """

    source: Path
    n_frames: int
    frame_idx: NDArray[np.int64]
    body_ids: NDArray[np.int64]
    positions: NDArray[np.float32]
    depth_xy: NDArray[np.float32]
    colour_xy: NDArray[np.float32]
    tracking: NDArray[np.int8]


def read_skeleton_file(path: Path) -> KinectRecording:
    """Read a file to its very end; blank lines after it and any line ends are tolerated.

    Raises InputError naming file, line, value and fix.
    """
    lines = _Lines(path)
    frame_idx: list[int] = []
    body_ids: list[int] = []
    values: list[list[float]] = []
    n_frames = lines.integer("frame count")
    for frame in range(n_frames):
        seen: set[int] = set()
        for _ in range(lines.integer("body count")):
            body_id = lines.body_id()
            if body_id in seen:
                raise lines.error(f"body {body_id} is twice in frame {frame}", "give every body of a frame its own id")
            seen.add(body_id)
            if (n_joints := lines.integer("joint count")) != N_NTU_JOINTS:
                raise lines.error(f"{n_joints} joints", f"NTU RGB+D has {N_NTU_JOINTS}")
            frame_idx.append(frame)
            body_ids.append(body_id)
            values += [lines.joint() for _ in range(N_NTU_JOINTS)]
    lines.check_end()
    with np.errstate(over="ignore"):  # what float32 cannot hold is missing too
        joints = np.array(values, dtype=np.float64).astype(np.float32).reshape(-1, N_NTU_JOINTS, _N_JOINT_VALUES)
    return KinectRecording(
        source=path,
        n_frames=n_frames,
        frame_idx=np.array(frame_idx, dtype=np.int64),
        body_ids=np.array(body_ids, dtype=np.int64),
        positions=_known(joints[..., :3], np.isfinite(joints[..., :3])),
        depth_xy=_known(joints[..., 3:5], _is_inside(joints[..., 3:5], DEPTH_SIZE)),
        colour_xy=_known(joints[..., 5:7], _is_inside(joints[..., 5:7], COLOUR_SIZE)),
        tracking=joints[..., 11].astype(np.int8),
    )


def _is_inside(xy: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    return (xy >= 0) & (xy < size)  # False for NaN


def _known(values: NDArray[np.float32], is_known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The values, NaN in every coordinate of a point of which one is not known."""
    return np.where(is_known.all(axis=-1, keepdims=True), values, np.float32(np.nan))


class _Lines:
    """The lines of a file, taken one after the other; every complaint names file and line."""

    def __init__(self, path: Path) -> None:
        try:
            self._lines = path.read_bytes().splitlines()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})", fix="check the file's name") from error
        while self._lines and not self._lines[-1].strip():
            self._lines.pop()
        self._path = path
        self._n_taken = 0

    def error(self, problem: str, fix: str) -> InputError:
        """An InputError about the line taken last."""
        return InputError(f"{self._path} line {self._n_taken}: {problem}", fix=fix)

    def integer(self, what: str) -> int:
        (field,) = self._fields(what, 1)
        return self._natural(what, field)

    def body_id(self) -> int:
        fields = self._fields("body", _N_BODY_VALUES)
        self._floats("body", fields[1:])
        return self._natural("bodyID", fields[0])

    def joint(self) -> list[float]:
        values = self._floats("joint", self._fields("joint", _N_JOINT_VALUES))
        if values[-1] not in (0, 1, 2):
            raise self.error(f"joint with tracking state {values[-1]:g}", "write 0, 1 or 2")
        return values

    def check_end(self) -> None:
        """Raise InputError where lines are left: the counts above them are wrong."""
        n_left = len(self._lines) - self._n_taken
        if n_left:
            self._n_taken += 1
            raise self.error(f"{n_left} lines after the last frame", "correct the counts, or fetch the file again")

    def _fields(self, what: str, n_expected: int) -> list[bytes]:
        self._n_taken += 1
        if self._n_taken > len(self._lines):
            raise self.error(f"the file ends before a {what}", "fetch the file again")
        line = self._lines[self._n_taken - 1]
        fields = line.split()
        if len(fields) != n_expected or b"_" in line:  # Python would read 1_0 as 10
            text = shown(line.decode("utf-8", "replace"))
            raise self.error(f"{text} is not a {what} of {n_expected} numbers", "fetch the file again")
        return fields

    def _natural(self, what: str, field: bytes) -> int:
        if not re.fullmatch(rb"[0-9]{1,19}", field) or int(field) > _HIGHEST_ID:
            raise self.error(f"{what} {shown(field.decode('utf-8', 'replace'))}", "write a whole number")
        return int(field)

    def _floats(self, what: str, fields: list[bytes]) -> list[float]:
        try:
            return [float(field) for field in fields]
        except ValueError as error:
            raise self.error(f"{what} with {error}", "write numbers, or nan") from error
