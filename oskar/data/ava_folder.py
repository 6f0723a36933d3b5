"""A folder of AVA: its official files under their own names, and the movies.

::

    ava_train_v2.2.csv                                labels; likewise of other splits, such as val
    ava_train_excluded_timestamps_v2.2.csv            optional: images to leave out
    ava_action_list_v2.2_for_activitynet_2019.pbtxt   the evaluated classes; else the only ava_action_list*.pbtxt
    movies/VIDEO_ID.mp4                               or any other suffix
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from oskar.data.decoding import probe, read_frames
from oskar.data.folder import find_files
from oskar.data.formats.ava import read_excluded, read_label_map, read_labels
from oskar.data.key_frames import key_frame_indices
from oskar.errors import InputError

N_CLASSES = 80
_EVALUATED = "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
_MOVIES = "movies"


def is_ava_folder(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("ava_*_v2.2.csv"))


class AvaKeyFrames:
    """One split of such a folder; an image is ``video_id,second``.

    A clip has ``n_frames`` frames, one in ``stride_frames``, around the key frame.
    ``movie_start_seconds`` is the time of a file's first frame. A movie that is not there makes its
    images unreadable, not the folder.

    Raises:
        InputError: a file of annotations that is missing or wrong, or a class beyond the 80.
    """

    n_left_out, is_cropped, n_classes = 0, True, N_CLASSES

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        n_frames: int,
        stride_frames: int,
        short_side: int,
        movie_start_seconds: float = 0.0,
    ) -> None:
        labels, excluded = (folder / f"ava_{split}_{what}v2.2.csv" for what in ("", "excluded_timestamps_"))
        if not labels.is_file():
            there = ", ".join(
                sorted(path.name for path in folder.glob("ava_*_v2.2.csv") if "excluded" not in path.name)
            )
            raise InputError(f"data {folder}: no {labels.name}", fix=f"add it, or set split to that of one of {there}")
        class_list = _class_list(folder)
        self.name = folder.resolve().name
        self.truth = read_labels(labels)
        if len(self.truth.class_idx) and self.truth.class_idx.max() >= N_CLASSES:
            raise InputError(f"{labels}: action_id {self.truth.class_idx.max() + 1}", fix=f"AVA has 1 to {N_CLASSES}")
        self.excluded = read_excluded(excluded) if excluded.is_file() else frozenset()
        self.classes: Mapping[int, str] = read_label_map(class_list)
        if max(self.classes) >= N_CLASSES:
            raise InputError(f"{class_list}: id {max(self.classes) + 1}", fix=f"AVA has 1 to {N_CLASSES}")
        read = [labels, class_list, *([excluded] if excluded.is_file() else [])]
        self.sha256 = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in read)).hexdigest()
        self._folder = folder / _MOVIES
        self._movies = {path.stem: path for path in find_files(self._folder)} if self._folder.is_dir() else {}
        self._labelled = {_video_and_second(image)[0] for image in self.truth.images}
        self._n_frames, self._stride_frames, self._short_side = n_frames, stride_frames, short_side
        self._movie_start_seconds = movie_start_seconds
        self._rate_and_length: dict[Path, tuple[float, int]] = {}

    def has_image(self, image: str) -> bool:
        """Any second of the split's movies."""
        return _video_and_second(image)[0] in self._labelled

    def read(self, images: Sequence[str]) -> list[Tensor | InputError]:
        read: list[Tensor | InputError] = []
        for image in images:
            try:
                read.append(self._read_one(*_video_and_second(image)))
            except InputError as error:
                read.append(error)
        return read

    def _read_one(self, video_id: str, second: int) -> Tensor:
        path = self._movies.get(video_id)
        if path is None:
            raise InputError(f"{self._folder} holds no movie {video_id}", fix=f"add {video_id}.mp4")
        if path not in self._rate_and_length:
            info = probe(path)
            self._rate_and_length[path] = info.fps, info.n_frames
        fps, n_available = self._rate_and_length[path]
        idx = key_frame_indices(
            second,
            fps=fps,
            n_available=n_available,
            n_frames=self._n_frames,
            stride_frames=self._stride_frames,
            file_start_seconds=self._movie_start_seconds,
        )
        return read_frames(path, idx, short_side=self._short_side)


def _class_list(folder: Path) -> Path:
    lists = sorted(folder.glob("ava_action_list*.pbtxt"))
    if folder / _EVALUATED in lists:
        return folder / _EVALUATED
    if len(lists) != 1:
        raise InputError(
            f"data {folder}: {len(lists)} files ava_action_list*.pbtxt", fix=f"put {_EVALUATED} there: the 60 classes"
        )
    return lists[0]


def _video_and_second(image: str) -> tuple[str, int]:
    video_id, _, second = image.rpartition(",")
    return video_id, int(second)
