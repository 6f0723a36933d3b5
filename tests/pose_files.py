"""What the tests of preparation share: made people, and their poses in the formats of other tools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from runs import write_video

from oskar.preparation.detections import Detections
from oskar.tokens.layouts import INTERNAL

Joints = NDArray[np.float64]
WIDTH, HEIGHT, N_FRAMES = 64, 48, 6


def moving_person(seed: int, n_frames: int = N_FRAMES) -> Joints:
    """``[T, 17, 3]`` in pixels of a 64 x 48 frame: one person who drifts to the right, surely seen."""
    rng = np.random.default_rng(seed)
    start = rng.uniform((10, 8), (40, 30), (17, 2))
    ways = np.arange(n_frames)[:, None, None] * np.array([1.0, 0.25])
    return np.concatenate([start + ways, rng.uniform(0.4, 1.0, (n_frames, 17, 1))], axis=-1)


def shares(joints: Joints) -> Joints:
    """x and y in pixels as shares of the frame."""
    return np.asarray(joints / np.array([WIDTH, HEIGHT, 1.0]))


def flat(joints: Joints) -> list[float]:
    return [float(value) for value in joints.reshape(-1)]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco_of(joints: Joints, *, scale: float = 1.0, first: int = 0) -> dict[str, Any]:
    """COCO annotations of one person, of images ``scale`` times as large as the frame."""
    images = [
        {"id": 100 + t, "file_name": f"clip/{first + t:06d}.jpg", "width": WIDTH * scale, "height": HEIGHT * scale}
        for t in range(len(joints))
    ]
    annotations = []
    for t, person in enumerate(joints):
        pixels = person * np.array([scale, scale, 1.0])
        low, high = pixels[:, :2].min(axis=0), pixels[:, :2].max(axis=0)
        box = [float(v) for v in (*low, *(high - low))]
        annotations.append({"id": t, "image_id": 100 + t, "category_id": 1, "keypoints": flat(pixels), "bbox": box})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def alphapose_of(joints: Joints, *, track: int | None = 1, first: int = 0) -> list[dict[str, Any]]:
    """AlphaPose's default results: image names, a box of x, y, width, height and a score above 1."""
    return [
        {
            "image_id": f"{first + t}.jpg",
            "category_id": 1,
            "keypoints": flat(person),
            "score": 2.5,
            "box": [float(v) for v in (*person[:, :2].min(axis=0), *np.ptp(person[:, :2], axis=0))],
            **({} if track is None else {"idx": [track]}),
        }
        for t, person in enumerate(joints)
    ]


# Where COCO's joints stand in OpenPose's BODY_25, written down from its documentation.
BODY_25 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)


def write_openpose(folder: Path, joints: Joints, *, prefix: str = "clip_", first: int = 0) -> None:
    """One file a frame; joints that COCO has not are 0."""
    for t, person in enumerate(joints):
        body = np.zeros((25, 3))
        body[list(BODY_25)] = person
        people = [{"person_id": [-1], "pose_keypoints_2d": flat(body)}]
        write_json(folder / f"{prefix}{first + t:012d}_keypoints.json", {"version": 1.3, "people": people})


# Where COCO's joints stand among MediaPipe's 33 landmarks, written down from its documentation.
MEDIAPIPE = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


def landmarks_of(person: Joints) -> list[dict[str, float]]:
    """33 landmarks of a person ``[17, 3]`` in pixels; those that COCO has not are at the corner, unseen."""
    landmarks = [{"x": 0.0, "y": 0.0, "z": 0.0, "visibility": 0.0} for _ in range(33)]
    for place, (x, y, sure) in zip(MEDIAPIPE, shares(person), strict=True):
        landmarks[place] = {"x": float(x), "y": float(y), "z": 0.1, "visibility": float(sure)}
    return landmarks


def detections_of(*people: Joints, n_frames: int = N_FRAMES, track_ids: list[int] | None = None) -> Detections:
    """People ``[T, 17, 3]`` in shares of the frame, all in every frame, ordered by frame and then as given."""
    rows = [(t, person) for t in range(n_frames) for person in people]
    joints = np.stack([person[t] for t, person in rows]).astype(np.float32)
    return Detections(
        n_frames=n_frames,
        frame_idx=np.array([t for t, _ in rows], dtype=np.int64),
        joints=joints,
        boxes=np.full((len(rows), 4), np.nan, dtype=np.float32),
        scores=np.full(len(rows), np.nan, dtype=np.float32),
        track_ids=None if track_ids is None else np.array(track_ids, dtype=np.int64),
    )


def make_video(path: Path, seed: int = 0) -> Path:
    """Six frames of 64 x 48."""
    return write_video(path, np.random.default_rng(seed).integers(0, 256, (6, HEIGHT, WIDTH, 3), dtype=np.uint8))


assert len(BODY_25) == len(MEDIAPIPE) == len(INTERNAL)
