"""The pickles of poses that PYSKL released: 2-D COCO-17 with scores, or 3-D NTU-25 (Duan et al. 2022).

{"split": {name: [frame_dir, ...]}, "annotations": [{frame_dir, label, total_frames, keypoint, ...}, ...]}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import shown
from oskar.data.formats.arrays_pickle import load_array_pickle
from oskar.errors import InputError
from oskar.tokens.layouts import LAYOUTS, Layout

Value = TypeVar("Value")

_INTEGERS = (int, np.integer)
_N_PEOPLE = 2  # a few samples have more: the first two count
_LAYOUTS = {(17, 2): LAYOUTS["COCO-17"], (25, 3): LAYOUTS["NTU-25"]}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PysklSample:
    """One sample as stored, which is float16 in the released files; S = 1 or 2 people.

    ``keypoints`` ``[S, T, J, C]``: pixels of a frame of ``frame_size`` (width, height), or metres without one.
    ``scores`` ``[S, T, J]``, in 2-D only.
    """

    name: str
    label_id: int
    frame_size: tuple[int, int] | None
    keypoints: NDArray[Any]
    scores: NDArray[Any] | None

    @property
    def layout(self) -> Layout:
        return _LAYOUTS[self.keypoints.shape[2:]]

    def joints(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Positions ``[S, T, J, C]`` and confidence ``[S, T, J]`` in float32; what is missing is NaN with confidence 0.

        In 2-D the confidence is the score, cut to [0, 1]: peaks of heat maps may lie a little above 1. In 3-D a
        person is missing from a frame where all coordinates are 0, and has confidence 1 elsewhere.
        """
        positions = self.keypoints.astype(np.float32)
        if self.scores is None:
            is_person = (positions != 0).any(axis=(2, 3))
            confidence = np.broadcast_to(is_person[..., None], positions.shape[:3]).astype(np.float32)
        else:
            confidence = np.nan_to_num(self.scores.astype(np.float32)).clip(0.0, 1.0)
        is_known = np.isfinite(positions).all(axis=-1) & (confidence > 0)
        return np.where(is_known[..., None], positions, np.float32(np.nan)), np.where(
            is_known, confidence, np.float32(0)
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PysklSplit:
    """The samples of one split, and the names it lists that the file has no poses of."""

    samples: tuple[PysklSample, ...]
    missing: tuple[str, ...]

    @property
    def n_expected(self) -> int:
        return len(self.samples) + len(self.missing)

    @property
    def n_found(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PysklFile:
    """All samples by name, and the names of each split."""

    source: Path
    samples: Mapping[str, PysklSample]
    splits: Mapping[str, tuple[str, ...]]

    def select(self, split: str) -> PysklSplit:
        """The samples of a split in its order; raises InputError where there is no such split."""
        if split not in self.splits:
            raise InputError(f"{self.source}: no split {shown(split)}", fix=f"use one of {', '.join(self.splits)}")
        names = self.splits[split]
        found = tuple(self.samples[name] for name in names if name in self.samples)
        return PysklSplit(samples=found, missing=tuple(name for name in names if name not in self.samples))


def read_pyskl(path: Path) -> PysklFile:
    """Read a pickle of poses through the unpickler that builds arrays and plain values only.

    Raises InputError naming file, sample, key and fix: no such pickle, a key that is missing or of the wrong type or
    shape, a sample or a name of a split given twice.
    """
    content = load_array_pickle(path)
    if not isinstance(content, dict) or not {"split", "annotations"} <= content.keys():
        raise InputError(f"{path}: not a PYSKL pickle", fix="give a dict with the keys split and annotations")
    samples: dict[str, PysklSample] = {}
    for number, item in enumerate(_typed(content, "annotations", list, str(path))):
        if not isinstance(item, dict):
            raise InputError(f"{path}, annotation {number}: a {type(item).__name__}", fix="store a dict per sample")
        sample = _read_sample(item, f"{path}, annotation {number}")
        if sample.name in samples:
            raise InputError(f"{path}, annotation {number}: {sample.name} is there twice", fix="keep one of the two")
        samples[sample.name] = sample
    splits = {name: _read_split(name, names, path) for name, names in _typed(content, "split", dict, str(path)).items()}
    return PysklFile(source=path, samples=samples, splits=splits)


def _read_sample(item: dict[Any, Any], where: str) -> PysklSample:
    name = _typed(item, "frame_dir", str, where)
    where = f"{where} ({name})"
    label_id, n_frames = _typed(item, "label", int, where), _typed(item, "total_frames", int, where)
    keypoints = _typed(item, "keypoint", np.ndarray, where)
    if keypoints.ndim != 4 or keypoints.dtype.kind != "f" or not 0 < n_frames == keypoints.shape[1]:
        raise InputError(
            f"{where}: keypoint is {keypoints.dtype} of shape {keypoints.shape}, total_frames is {n_frames}",
            fix="store floats [people, total_frames, joints, coordinates]",
        )
    if keypoints.shape[2:] not in _LAYOUTS:
        raise InputError(
            f"{where}: keypoint has {keypoints.shape[2]} joints of {keypoints.shape[3]} coordinates",
            fix="store COCO-17 in 2-D or NTU-25 in 3-D",
        )
    if label_id < 0:
        raise InputError(f"{where}: label {label_id}", fix="count classes from 0")
    is_flat = keypoints.shape[3] == 2
    scores = _typed(item, "keypoint_score", np.ndarray, where) if is_flat else None
    if scores is not None and (scores.shape != keypoints.shape[:3] or scores.dtype.kind != "f"):
        raise InputError(
            f"{where}: keypoint_score is {scores.dtype} of shape {scores.shape}",
            fix=f"store floats of shape {keypoints.shape[:3]}, one for each joint",
        )
    return PysklSample(
        name=name,
        label_id=label_id,
        frame_size=_frame_size(item, where) if is_flat else None,
        keypoints=keypoints[:_N_PEOPLE],
        scores=None if scores is None else scores[:_N_PEOPLE],
    )


def _frame_size(item: dict[Any, Any], where: str) -> tuple[int, int]:
    """(width, height); the file says (height, width)."""
    shape = item.get("img_shape")
    if (
        not isinstance(shape, tuple | list)
        or len(shape) != 2
        or not all(isinstance(n, _INTEGERS) and n > 0 for n in shape)
    ):
        raise InputError(f"{where}: img_shape = {shape!r}", fix="give (height, width) in pixels")
    return int(shape[1]), int(shape[0])


def _read_split(name: object, names: object, path: Path) -> tuple[str, ...]:
    if not isinstance(name, str) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: split {name!r} is not a list of names", fix="list the frame_dirs of the split")
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise InputError(f"{path}: split {name} lists {twice} twice", fix="list every sample once")
    return tuple(names)


def _typed(item: dict[Any, Any], key: str, kind: type[Value], where: str) -> Value:
    value = item.get(key)
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = f"a {type(value).__name__}" if key in item else "missing"
        raise InputError(f"{where}: {key} is {problem}", fix=f"store a {kind.__name__}")
    return value
