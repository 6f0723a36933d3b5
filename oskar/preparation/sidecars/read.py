"""From the sidecar files of a video to its people, its caption and its details."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oskar.data.folder import parse_details
from oskar.data.formats.pyskl import PysklSample
from oskar.errors import InputError
from oskar.preparation.detections import Detections
from oskar.preparation.sidecars.arrays import read_own, read_sample
from oskar.preparation.sidecars.captions import read_caption
from oskar.preparation.sidecars.coco import is_annotations, is_results, read_annotations, read_results
from oskar.preparation.sidecars.find import SidecarFiles
from oskar.preparation.sidecars.json_values import read_json
from oskar.preparation.sidecars.mediapipe import is_mediapipe, read_mediapipe
from oskar.preparation.sidecars.openpose import read_openpose
from oskar.preparation.sidecars.video_facts import VideoFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseFormat:
    """A JSON format of poses: how it is recognised by its content, and read."""

    name: str
    is_this: Callable[[Any], bool]
    read: Callable[[Any, VideoFacts, str], Detections]


POSE_FORMATS = (
    PoseFormat(name="coco", is_this=is_annotations, read=read_annotations),
    PoseFormat(name="coco-results or alphapose", is_this=is_results, read=read_results),
    PoseFormat(name="mediapipe", is_this=is_mediapipe, read=read_mediapipe),
)


def plain_json(files: SidecarFiles) -> tuple[Path | None, Mapping[str, str]]:
    """What STEM.json files hold: the one of poses, if one does, and the details (caption, label, ...) of the others.

    Raises:
        InputError: a file that is neither, or two that say the same.
    """
    poses: Path | None = None
    details: dict[str, str] = {}
    for path in files.plain:
        content = read_json(path)
        if any(form.is_this(content) for form in POSE_FORMATS):
            if poses is not None:
                raise InputError(f"{path}: holds poses, and so does {poses}", fix="keep one of the two")
            poses = path
            continue
        if not isinstance(content, dict):
            raise _unknown(path)
        said = parse_details(content, path)
        if both := sorted(said.keys() & details.keys()):
            raise InputError(f"{path}: {both[0]} is given by another file too", fix="keep one of the two")
        details |= said
    return poses, details


def read_poses(
    files: SidecarFiles, plain: Path | None, sample: PysklSample | None, pickle: Path | None, video: VideoFacts
) -> tuple[Detections, str] | None:
    """The people of a video and the name of their format, from its only pose file; None where it has none.

    ``sample`` is the video's in the ``pickle`` that was given.

    Raises:
        InputError: more than one pose file, or one that cannot be used.
    """
    json_files = [*files.poses, *([] if plain is None else [plain])]
    sources = [*map(str, (*files.arrays, *json_files)), *(str(path.parent) for path in files.openpose[:1])]
    sources += [] if sample is None else [str(pickle)]
    if len(sources) > 1:
        raise InputError(f"{sources[0]}: {sources[1]} holds poses of the same video", fix="keep one of the two")
    if files.arrays:
        return read_own(files.arrays[0], video), "npz"
    if files.openpose:
        return read_openpose(files.openpose, video), "openpose"
    if sample is not None:
        return read_sample(sample, video, str(pickle)), "pyskl"
    for path in json_files:
        content = read_json(path)
        form = next((form for form in POSE_FORMATS if form.is_this(content)), None)
        if form is None:
            raise _unknown(path)
        return form.read(content, video, str(path)), form.name
    return None


def read_caption_sidecar(files: SidecarFiles, details: Mapping[str, str]) -> str | None:
    """The caption of a video, None where no file has one; raises InputError where two have."""
    sources = [*map(str, files.captions), *(["the details in its .json"] if "caption" in details else [])]
    if len(sources) > 1:
        raise InputError(f"{sources[0]}: {sources[1]} holds a caption of the same video", fix="keep one of the two")
    return read_caption(files.captions[0]) if files.captions else details.get("caption")


def _unknown(path: Path) -> InputError:
    known = ", ".join(form.name for form in POSE_FORMATS)
    return InputError(
        f"{path}: neither poses ({known}) nor details of a clip", fix='write {"caption": ..., "label": ...}, or poses'
    )
