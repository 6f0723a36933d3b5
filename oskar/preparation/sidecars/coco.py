"""COCO keypoints: annotations of images, or the list of results that evaluators and AlphaPose write."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import shown
from oskar.errors import InputError
from oskar.preparation.detections import Detections, FoundPerson, gather
from oskar.preparation.sidecars.json_values import corners, from_zero, number, trailing_number, triples, typed
from oskar.preparation.sidecars.video_facts import VideoFacts

_N_JOINTS = 17
_N_JOINTS_HALPE = (26, 136)  # the first 17 are COCO's


def is_annotations(content: Any) -> bool:
    """True for an object with the lists ``images`` and ``annotations``."""
    return isinstance(content, dict) and "annotations" in content and "images" in content


def is_results(content: Any) -> bool:
    """True for a list of objects with ``image_id`` and ``keypoints``; an empty list says that nobody was found."""
    return isinstance(content, list) and all(
        isinstance(item, dict) and "image_id" in item and "keypoints" in item for item in content
    )


def read_annotations(content: Any, video: VideoFacts, source: str) -> Detections:
    """An object of ``images`` and ``annotations``.

    The frame of an image is its ``frame_id``, or else the last number in its ``file_name``. A third value of a joint
    is a visibility where the file holds 0, 1 and 2 only (1 and 2 were marked: confidence 1), otherwise a confidence.
    Coordinates are pixels of the image's ``width`` and ``height``, or of the video where it has none.
    """
    images: dict[Any, dict[str, Any]] = {}
    for place, image in enumerate(typed(content, "images", list, source)):
        where = f"{source}, image {place}"
        images[typed(image, "id", object, where)] = image
    named = {key: _frame_of(image, f"{source}, image {key}") for key, image in images.items()}
    frame_of = from_zero(named, video.n_frames, video.first_frame)
    people, sizes = [], set()
    for place, item in enumerate(typed(content, "annotations", list, source)):
        where = f"{source}, annotation {place}"
        image_id = typed(item, "image_id", object, where)
        if image_id not in images:
            raise InputError(f"{where}: image_id {shown(str(image_id))} is no image", fix="list it in images")
        if "keypoints" not in item:
            continue  # an object that is no person
        sizes.add(_size(images[image_id], video, f"{source}, image {image_id}"))
        people.append(_person(item, frame_of[image_id], where))
    if len(sizes) > 1:
        raise InputError(f"{source}: images of sizes {sorted(sizes)}", fix="give the images of one video")
    size = sizes.pop() if sizes else video.size
    return gather(_as_confidence(people), frame_size=size, n_frames=video.n_frames, source=source)


def read_results(content: Any, video: VideoFacts, source: str) -> Detections:
    """A list of people: ``image_id`` is a frame's number or file name, coordinates are pixels of the video."""
    frames = [_frame_of_id(item["image_id"], f"{source}, person {i}") for i, item in enumerate(content)]
    frame_of = from_zero(dict(enumerate(frames)), video.n_frames, video.first_frame)
    people = [_person(item, frame_of[i], f"{source}, person {i}") for i, item in enumerate(content)]
    return gather(people, frame_size=video.size, n_frames=video.n_frames, source=source)


def _frame_of(image: dict[str, Any], where: str) -> int:
    if "frame_id" in image:
        return int(typed(image, "frame_id", int, where))
    return trailing_number(typed(image, "file_name", str, where), where)


def _frame_of_id(image_id: Any, where: str) -> int:
    if isinstance(image_id, int) and not isinstance(image_id, bool):
        return image_id
    if not isinstance(image_id, str):
        raise InputError(f"{where}: image_id {shown(str(image_id))}", fix="write the number or file name of the frame")
    return trailing_number(image_id, where)


def _size(image: dict[str, Any], video: VideoFacts, where: str) -> tuple[float, float]:
    if "width" not in image and "height" not in image:
        return video.size
    width, height = number(image.get("width"), f"{where}: width"), number(image.get("height"), f"{where}: height")
    if not (width > 0 and height > 0):
        raise InputError(f"{where}: {width:g} x {height:g} pixels", fix="correct width and height")
    return width, height


def _person(item: Any, frame: int, where: str) -> FoundPerson:
    joints = triples(item.get("keypoints"), f"{where}: keypoints")
    if len(joints) in _N_JOINTS_HALPE:
        joints = joints[:_N_JOINTS]
    box = item.get("bbox", item.get("box"))
    score = item.get("score")
    return FoundPerson(
        frame=frame,
        joints=joints,
        box=None if box is None else corners(box, f"{where}: box"),
        score=float("nan") if score is None else number(score, f"{where}: score"),
        track_id=_track_of(item, where),
    )


def _track_of(item: dict[str, Any], where: str) -> int | None:
    value = item.get("track_id", item.get("idx"))
    if isinstance(value, list) and len(value) == 1:  # AlphaPose
        value = value[0]
    if value is None:
        return None
    track = number(value, f"{where}: track")
    if track != round(track):
        raise InputError(f"{where}: track {track:g}", fix="number the people by whole numbers")
    return int(track)


def _as_confidence(people: list[FoundPerson]) -> list[FoundPerson]:
    """COCO's visibility (0, 1, 2) as a confidence (0 or 1); files of confidences pass."""
    third: NDArray[np.float64] = np.concatenate([p.joints[:, 2] for p in people]) if people else np.zeros(0)
    if np.isin(third, (0, 1, 2)).all():
        for person in people:
            person.joints[:, 2] = person.joints[:, 2].clip(0, 1)
    return people
