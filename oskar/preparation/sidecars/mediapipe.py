"""MediaPipe pose landmarks as JSON: 33 landmarks of a person, x and y as shares of the frame, and a visibility.

MediaPipe itself writes no files. Understood is what its results look like when they are written out: a list of
frames, or an object with such a list under ``frames``. A frame is null, a list of landmarks, a list of people, or an
object that holds one of these under ``landmarks``, ``pose_landmarks``, ``poseLandmarks`` or ``landmark``, and perhaps
its number under ``frame``, ``frame_index`` or ``frame_id``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import shown
from oskar.errors import InputError
from oskar.preparation.detections import Detections, FoundPerson, gather
from oskar.preparation.sidecars.json_values import from_zero, number, typed
from oskar.preparation.sidecars.video_facts import VideoFacts
from oskar.tokens.layouts import LAYOUTS

_LANDMARK_KEYS = ("landmarks", "pose_landmarks", "poseLandmarks", "landmark")
_FRAME_KEYS = ("frame", "frame_index", "frame_id")


def is_mediapipe(content: Any) -> bool:
    """True where some frame holds landmarks with x, y and z or a visibility, or frames are listed at all."""
    if isinstance(content, dict):
        return isinstance(content.get("frames"), list)
    return isinstance(content, list) and any(_looks_like_a_frame(frame) for frame in content)


def read_mediapipe(content: Any, video: VideoFacts, source: str) -> Detections:
    """The people of all frames; a frame without a number is at its place in the list."""
    frames = content["frames"] if isinstance(content, dict) else content
    named = {place: _frame_number(frame, place, f"{source}, frame {place}") for place, frame in enumerate(frames)}
    if len(set(named.values())) < len(named):
        raise InputError(f"{source}: a frame is there twice", fix="number every frame once")
    is_numbered = any(isinstance(frame, dict) and any(key in frame for key in _FRAME_KEYS) for frame in frames)
    frame_of = from_zero(named, video.n_frames, video.first_frame if is_numbered else 0)
    people = [
        FoundPerson(frame=frame_of[place], joints=_joints(landmarks, f"{source}, frame {place}"))
        for place, frame in enumerate(frames)
        for landmarks in _people(frame, f"{source}, frame {place}")
    ]
    return gather(people, layout=LAYOUTS["MediaPipe-33"], frame_size=(1.0, 1.0), n_frames=video.n_frames, source=source)


def _looks_like_a_frame(frame: Any) -> bool:
    if isinstance(frame, dict):
        return any(key in frame for key in _LANDMARK_KEYS)
    while isinstance(frame, list) and frame:
        frame = frame[0]
    return isinstance(frame, dict) and {"x", "y", "visibility"} <= frame.keys()


def _frame_number(frame: Any, place: int, where: str) -> int:
    if not isinstance(frame, dict):
        return place
    key = next((key for key in _FRAME_KEYS if key in frame), None)
    return place if key is None else typed(frame, key, int, where)


def _people(frame: Any, where: str) -> list[list[Any]]:
    """Lists of landmarks, one for each person of a frame."""
    if isinstance(frame, dict):
        key = next((key for key in _LANDMARK_KEYS if key in frame), None)
        if key is None:
            raise InputError(f"{where}: no landmarks", fix=f"write them under {_LANDMARK_KEYS[0]}, or null")
        return _people(frame[key], where)
    if frame is None or frame == []:
        return []
    if not isinstance(frame, list):
        raise InputError(f"{where}: {shown(str(frame))}", fix="write a list of landmarks, or null")
    if isinstance(frame[0], dict) and "x" in frame[0]:
        return [frame]
    return [person for part in frame for person in _people(part, where)]


def _joints(landmarks: list[Any], where: str) -> NDArray[np.float64]:
    """``[J, 3]``; a landmark without a visibility counts as seen."""
    rows = []
    for place, landmark in enumerate(landmarks):
        at = f"{where}, landmark {place}"
        if not isinstance(landmark, dict):
            raise InputError(f"{at}: {shown(str(landmark))}", fix="write an object with x, y and visibility")
        sure = landmark.get("visibility", 1.0)
        rows.append([number(landmark.get(key), f"{at}: {key}") for key in ("x", "y")] + [number(sure, f"{at}: sure")])
    return np.array(rows, dtype=np.float64)
