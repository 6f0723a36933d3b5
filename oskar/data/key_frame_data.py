"""Data whose people have boxes and actions in key frames: the built-in people, and folders with boxes.

An image is a key frame, named ``clip_id,number`` as AVA names ``video_id,second``; here the number is
that of the frame, counted from 0. Boxes are shares of the frame.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from oskar.config import Config
from oskar.data.boxes import Floats, LabelledBoxes
from oskar.data.decoding import probe
from oskar.data.formats.ava_rows import image_key
from oskar.data.frame_cache import FrameCache
from oskar.data.frame_choice import evaluation_frames
from oskar.data.joint_arrays import load_arrays, text_of
from oskar.data.manifest import Manifest, Row, fingerprint
from oskar.data.people import ACTIONS, IDLE, PeopleWorld, clip_name, generate
from oskar.data.people_reader import N_LABELLED, PeopleData, Split
from oskar.data.video_file import VideoError
from oskar.errors import AbsentError, InputError

_CACHE_BYTES = 1 << 30
_SMALLEST_RESOLUTION = 16  # people's boxes do not depend on it
_CHUNK_CLIPS = 64


class KeyFrameData(Protocol):
    """Key frames with the people in them, and the clips around them.

    ``truth`` lists all people of all images; who does nothing has a box without a class. Images that
    are ``excluded`` are neither learnt from nor tested. A head has ``n_classes`` scores, of which
    ``classes`` are evaluated. ``is_cropped``: clips to train on may be crops.
    """

    name: str
    sha256: str
    n_left_out: int
    truth: LabelledBoxes
    excluded: frozenset[str]
    n_classes: int
    classes: Mapping[int, str]
    is_cropped: bool

    def has_image(self, image: str) -> bool:
        """Whether there is a clip around this key frame, with people in ``truth`` or without."""

    def read(self, images: Sequence[str]) -> list[Tensor | InputError]:
        """The whole frames of each clip, uint8 ``[T, 3, h, w]`` of any size, or why they cannot be read."""


def _by_number(names: Sequence[str]) -> Mapping[int, str]:
    return dict(enumerate(names))


class PeopleKeyFrames:
    """The built-in people: one key frame a clip, the first of its second half.

    The classes are the actions, and a person's class is what it does in the second in which the key
    frame lies; who idles then has no class. Raises InputError for a split that people do not have.
    """

    name, n_left_out, excluded, is_cropped = "people", 0, frozenset[str](), False
    n_classes, classes = len(ACTIONS), _by_number(ACTIONS)

    def __init__(self, data: PeopleData, config: Config, split: str) -> None:
        if split not in ("train", "test"):
            raise InputError(f"people have no split {split!r}", fix="use train or test")
        self._split: Split = "train" if split == "train" else "test"
        self._seed = data.seed
        tokens = config.tokens
        if tokens.n_people not in (2, 3):
            raise InputError(
                f"tokens.n_people = {tokens.n_people}: --data people has clips of 2 or 3 people", fix="use 2 or 3"
            )
        self._world = PeopleWorld(n_frames=tokens.n_frames, resolution=tokens.resolution, n_people=tokens.n_people)
        self.key_frame = tokens.n_frames // 2
        names = (clip_name(self._seed, i, self._split) for i in range(N_LABELLED[self._split]))
        self._number = {image_key(name, self.key_frame): i for i, name in enumerate(names)}
        self.truth = self._read_truth()
        identity = f"people:{len(self._number)}:{self._seed}:{self._split}:{tokens.n_frames}:{tokens.n_people}"
        self.sha256 = hashlib.sha256(identity.encode()).hexdigest()

    def _read_truth(self) -> LabelledBoxes:
        n_frames, n_people = self._world.n_frames, self._world.n_people
        world = PeopleWorld(n_frames=n_frames, resolution=_SMALLEST_RESOLUTION, n_people=n_people)
        second = self.key_frame // max(1, round(world.frames_per_second))
        boxes: list[Floats] = []
        classes: list[list[int]] = []
        for some in torch.split(torch.arange(len(self._number)), _CHUNK_CLIPS):
            people = generate(world, some, self._seed, self._split)
            boxes += list(people.boxes[:, :, self.key_frame].double().numpy())
            classes += [[-1 if c == IDLE else c for c in row] for row in people.tracks[:, :, second].tolist()]
        return boxes_of_one_class(list(self._number), boxes, classes)

    def has_image(self, image: str) -> bool:
        return image in self._number

    def read(self, images: Sequence[str]) -> list[Tensor | InputError]:
        idx = torch.tensor([self._number[image] for image in images], dtype=torch.int64)
        return list(generate(self._world, idx, self._seed, self._split).frames) if len(idx) else []


class FolderKeyFrames:
    """A labelled folder whose ``joints_path`` files hold ``boxes`` ``[T, 4]`` or ``[S, T, 4]``, frame by frame.

    A clip has ``n_windows`` windows as in recognition, and the key frame is the middle one of those a
    window shows (of two, the later); windows with the same key frame count once. Whoever has a box
    there has the clip's one action. Boxes are in pixels, unless the file has the text ``units`` =
    share. Rows without label, video or boxes are left out. Raises InputError where boxes cannot be
    read; a video that cannot be read makes its own images unreadable.
    """

    excluded, is_cropped = frozenset[str](), True

    def __init__(self, manifest: Manifest, config: Config, short_side: int, n_windows: int) -> None:
        self._frames: dict[str, tuple[Path, list[int]]] = {}
        boxes: list[Floats] = []
        classes: list[list[int]] = []
        n_frames, n_used = config.tokens.n_frames, 0
        for row in manifest.rows:
            tracks = _read_boxes(row)
            if tracks is None or row.video_path is None or row.label_id is None:
                continue
            n_used += 1
            for idx in evaluation_frames(tracks.shape[1], n_frames=n_frames, config=config.clip, n_clips=n_windows):
                shown = sorted(set(idx))  # windows of short videos repeat frames
                key_frame = shown[len(shown) // 2]
                image = image_key(row.clip_id, key_frame)
                if image not in self._frames:
                    self._frames[image] = row.video_path, idx
                    boxes.append(tracks[:, key_frame])
                    classes.append([row.label_id] * len(tracks))
        if not self._frames:
            raise AbsentError(
                f"data {manifest.folder}: no labelled clip has a video and boxes",
                fix="name .npz files with an array 'boxes' in the column joints_path",
            )
        self.name, self.n_left_out = manifest.name, len(manifest.rows) - n_used
        self.sha256 = fingerprint(manifest)
        self.n_classes, self.classes = len(manifest.classes), _by_number(manifest.classes)
        self.truth = boxes_of_one_class(list(self._frames), boxes, classes)
        cache_dir = None if config.data.cache_dir is None else Path(config.data.cache_dir)
        self._cache = FrameCache(cache_dir, short_side=short_side, memory_bytes=_CACHE_BYTES)

    def has_image(self, image: str) -> bool:
        return image in self._frames

    def read(self, images: Sequence[str]) -> list[Tensor | InputError]:
        read: list[Tensor | InputError] = []
        for image in images:
            try:
                read.append(self._cache.read(*self._frames[image]))
            except InputError as error:
                read.append(error)
        return read


def boxes_of_one_class(
    images: Sequence[str], boxes: Sequence[Floats], classes: Sequence[Sequence[int]]
) -> LabelledBoxes:
    """Ground truth from the people ``[S, 4]`` of each image and the class of each, -1 for none; no area: nobody."""
    counts = [len(people) for people in boxes]
    corners = np.concatenate([np.empty((0, 4)), *boxes])
    is_there = (corners[:, 2:] > corners[:, :2]).all(axis=1)  # false for NaN
    class_of = np.array([c for row in classes for c in row], dtype=np.int64)[is_there]
    return LabelledBoxes(
        images=tuple(images),
        image_idx=np.repeat(np.arange(len(counts)), counts)[is_there],
        boxes=corners[is_there],
        box_idx=np.flatnonzero(class_of >= 0),
        class_idx=class_of[class_of >= 0],
        person_ids=np.concatenate([np.empty(0, np.int64), *map(np.arange, counts)])[is_there],
    )


def _read_boxes(row: Row) -> Floats | None:
    """Boxes ``[S, T, 4]`` in shares of the frame, cut at its border; None where the row has none or no use for them."""
    path, video = row.joints_path, row.video_path
    if path is None or path.suffix.lower() != ".npz" or video is None or row.label_id is None:
        return None
    arrays = load_arrays(path)
    if "boxes" not in arrays:
        return None
    boxes = arrays["boxes"]
    if boxes.dtype.kind not in "fiu" or boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or 0 in boxes.shape:
        raise InputError(
            f"{path}: boxes {boxes.dtype} of shape {list(boxes.shape)}",
            fix="store numbers [frames, 4] or [people, frames, 4]",
        )
    tracks = np.asarray(boxes, dtype=np.float64).reshape(-1, boxes.shape[-2], 4)
    if text_of(arrays, "units") != "share":
        tracks = tracks / np.array(_frame_size(row, video, tracks) * 2)
    return np.clip(tracks, 0.0, 1.0)


def _frame_size(row: Row, video: Path, tracks: Floats) -> tuple[float, float]:
    """Width and height in pixels; where only a broken video could tell, the extent of the boxes does.

    Nobody can be found in such a video, wherever the ground truth has them.
    """
    if row.width is not None and row.height is not None:
        return row.width, row.height
    try:
        info = probe(video)
    except VideoError:
        width, height = np.nanmax(np.fmax(tracks[..., 2:], 1.0), axis=(0, 1)).tolist()
        return width, height
    return info.width, info.height
