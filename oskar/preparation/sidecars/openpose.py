"""OpenPose: one JSON file a frame, ``NAME_000000000000_keypoints.json``, in a folder of its own or beside the video."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oskar.errors import InputError
from oskar.preparation.detections import Detections, FoundPerson, gather
from oskar.preparation.sidecars.json_values import from_zero, number, read_json, triples, typed
from oskar.preparation.sidecars.video_facts import VideoFacts
from oskar.tokens.layouts import LAYOUTS, Layout

FILE_NAME = re.compile(r"(?:(?P<name>.*)_)?(?P<frame>[0-9]+)_keypoints\.json")
_COCO_18 = Layout(
    name="OpenPose-18",
    joint_names=(
        *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist"),
        *("left_shoulder", "left_elbow", "left_wrist"),
        *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
        *("right_eye", "left_eye", "right_ear", "left_ear"),
    ),
)
_LAYOUTS = {len(layout.joint_names): layout for layout in (LAYOUTS["OpenPose-25"], _COCO_18)}
_MOST_SHARE = 1.5  # larger coordinates are pixels
_KEY = "pose_keypoints_2d"


def read_openpose(files: Sequence[Path], video: VideoFacts) -> Detections:
    """The people of all frames, BODY_25 or COCO-18.

    Coordinates are pixels of the video, or shares of it (``--keypoint_scale 3``) where none is above 1.5. A
    ``person_id`` of 0 or more is a track. A frame without a file shows nobody.
    """
    named = {path: int(match["frame"]) for path in files if (match := FILE_NAME.fullmatch(path.name))}
    source = str(files[0].parent)
    frame, n_files = Counter(named.values()).most_common(1)[0]
    if n_files > 1:
        raise InputError(f"{source}: frame {frame} is there twice", fix="keep the files of one video here")
    people: list[FoundPerson] = []
    for path, frame in from_zero(named, video.n_frames, video.first_frame).items():
        for place, item in enumerate(typed(read_json(path), "people", list, str(path))):
            people.append(_person(item, frame, f"{path}, person {place}"))
    counts = {len(person.joints) for person in people}
    if unknown := counts - _LAYOUTS.keys():
        raise InputError(f"{source}: {unknown.pop()} joints", fix="write them with --model_pose BODY_25 or COCO")
    if len(counts) > 1:
        raise InputError(f"{source}: people of {sorted(counts)} joints", fix="write all frames with one model")
    reach = max((float(np.nanmax(np.abs(p.joints[:, :2]), initial=0.0)) for p in people), default=0.0)
    return gather(
        people,
        layout=_LAYOUTS[counts.pop()] if counts else LAYOUTS["OpenPose-25"],
        frame_size=video.size if reach > _MOST_SHARE else (1.0, 1.0),
        n_frames=video.n_frames,
        source=source,
    )


def _person(item: object, frame: int, where: str) -> FoundPerson:
    joints = triples(typed(item, _KEY, list, where), f"{where}: {_KEY}")
    person_ids = item.get("person_id", [-1]) if isinstance(item, dict) else [-1]
    if not isinstance(person_ids, list) or len(person_ids) != 1:
        raise InputError(f"{where}: person_id = {person_ids!r}", fix="write a list of one number, such as [-1]")
    person_id = int(number(person_ids[0], f"{where}: person_id"))
    return FoundPerson(frame=frame, joints=joints, track_id=person_id if person_id >= 0 else None)
