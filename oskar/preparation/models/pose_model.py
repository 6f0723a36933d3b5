"""The people of a whole video by a pose model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from oskar.data.decoding import iter_all
from oskar.errors import InputError
from oskar.preparation.detections import Detections, FoundPerson, gather
from oskar.preparation.models.rtmpose import RtmPose
from oskar.preparation.models.yolo import PeopleOfFrame, Yolo
from oskar.preparation.settings import DetectorConfig
from oskar.preparation.sidecars.video_facts import VideoFacts

Convention = Literal["yolo-pose", "rtmpose"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseModelFiles:
    """The pose model, and for rtmpose the model that finds the people it looks at."""

    path: Path
    convention: Convention
    person_path: Path | None = None


class PoseModel:
    """A pose model that is ready to run; raises InputError where its files do not fit its convention."""

    def __init__(self, files: PoseModelFiles, config: DetectorConfig, n_threads: int) -> None:
        _check(files)
        self.files = files
        self._people: Callable[[Tensor], PeopleOfFrame]
        if files.convention == "yolo-pose":
            yolo = Yolo(files.path, config, n_threads, has_joints=True)
            self.licences = {files.path: yolo.file.licence}
            self._people = yolo.people
        elif files.person_path is not None:
            pose = RtmPose(files.path, config, n_threads)
            finder = Yolo(files.person_path, config, n_threads, has_joints=False)
            self.licences = {file.path: file.licence for file in (pose.file, finder.file)}
            self._people = _in_two_steps(finder, pose)

    @property
    def name(self) -> str:
        return f"{self.files.convention} {self.files.path.name}"

    def read(self, path: Path, video: VideoFacts) -> Detections:
        """The people of every frame, untracked; raises InputError where the video cannot be decoded to its end."""
        people = [person for i, picture in enumerate(iter_all(path)) for person in _found(self._people(picture), i)]
        return gather(people, frame_size=video.size, n_frames=video.n_frames, source=f"{path} by {self.files.path}")


def convention_named(name: str | None) -> Convention:
    """A convention by its name; raises InputError listing those there are."""
    for known in get_args(Convention):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"--pose-convention {name!r} is not known", fix=f"use {' or '.join(get_args(Convention))}")


def _check(files: PoseModelFiles) -> None:
    if files.convention == "rtmpose" and files.person_path is None:
        raise InputError(
            f"--pose-model {files.path}: rtmpose looks at one person at a time",
            fix="name the model that finds people with --person-model, a YOLO detector or pose model as ONNX",
        )
    if files.convention == "yolo-pose" and files.person_path is not None:
        raise InputError(f"--person-model {files.person_path}: yolo-pose finds people itself", fix="leave it out")


def _in_two_steps(finder: Yolo, pose: RtmPose) -> Callable[[Tensor], PeopleOfFrame]:
    def people(picture: Tensor) -> PeopleOfFrame:
        found = finder.people(picture)
        return PeopleOfFrame(boxes=found.boxes, scores=found.scores, joints=pose.joints(picture, found.boxes))

    return people


def _found(people: PeopleOfFrame, frame: int) -> list[FoundPerson]:
    rows: list[tuple[NDArray[np.float64], NDArray[np.float64], float]] = list(
        zip(people.joints, people.boxes, people.scores.tolist(), strict=True)
    )
    return [FoundPerson(frame=frame, joints=joints, box=box, score=score) for joints, box, score in rows]
