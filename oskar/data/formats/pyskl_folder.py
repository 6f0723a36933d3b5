"""A PYSKL pickle as a folder of the library: packed joints, their index and the names of the classes."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oskar.data.formats.ntu_names import is_sample_name, parse_sample_name
from oskar.data.formats.pyskl import PysklFile, PysklSample, PysklSplit
from oskar.data.joint_arrays import Arrays
from oskar.data.labels import CLASSES_FILE
from oskar.data.rows import PACKED_FILE
from oskar.errors import InputError

_INDEX_FILE = "index.csv"
_COLUMNS = ("clip_id", "start", "end", "label_id", "split", "subject", "width", "height")


def write_pyskl_folder(file: PysklFile, folder: Path, *, train: str, test: str) -> Mapping[str, PysklSplit]:
    """Write the samples of two splits, such as xsub_train and xsub_val, as the splits train and test of a folder.

    Returns both, which say how many of the listed samples the file has. Joints keep the type they are stored in; one
    that is missing is 0 and has confidence 0. Classes are A001 and so on where all samples have names of
    NTU RGB+D, otherwise numbers.

    Raises InputError where a split does not exist or is empty, a sample is in both, poses of two kinds are mixed, or
    the folder holds an index already.
    """
    if (folder / _INDEX_FILE).exists():
        raise InputError(f"{folder}: holds an {_INDEX_FILE} already", fix="name a new folder")
    splits = {"train": file.select(train), "test": file.select(test)}
    rows = [(sample, split) for split, selected in splits.items() for sample in selected.samples]
    check_splits(file, splits)
    folder.mkdir(parents=True, exist_ok=True)
    offsets = np.cumsum([0, *(sample.keypoints.shape[1] for sample, _ in rows)])
    samples = [sample for sample, _ in rows]
    np.savez(folder / PACKED_FILE, allow_pickle=False, **packed_arrays(samples, offsets))
    names = class_names(samples)
    is_ntu = all(is_sample_name(sample.name) for sample in samples)
    (folder / CLASSES_FILE).write_text("\n".join(names) + "\n", encoding="utf-8")
    with (folder / _INDEX_FILE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for (sample, split), start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            subject = f"P{parse_sample_name(sample.name).performer:03d}" if is_ntu else ""
            writer.writerow(
                (sample.name, start, end, sample.label_id, split, subject, *(sample.frame_size or ("", "")))
            )
    return splits


def check_splits(file: PysklFile, splits: Mapping[str, PysklSplit]) -> None:
    """Raise InputError where a split is empty, a sample is in both, or poses of two kinds are mixed."""
    for split, selected in splits.items():
        if not selected.samples:
            raise InputError(f"{file.source}: no sample of {split}", fix="fetch the file again")
    names = [{sample.name for sample in selected.samples} for selected in splits.values()]
    if both := sorted(names[0] & names[1]):
        raise InputError(f"{file.source}: {both[0]} is in both splits", fix="choose two splits of one protocol")
    kinds = {sample.layout.name for selected in splits.values() for sample in selected.samples}
    if len(kinds) > 1:
        raise InputError(f"{file.source}: holds poses of {' and '.join(sorted(kinds))}", fix="use one file for each")


def class_names(samples: Sequence[PysklSample]) -> tuple[str, ...]:
    """A001 and so on where all samples have names of NTU RGB+D, otherwise numbers."""
    is_ntu = all(is_sample_name(sample.name) for sample in samples)
    n_classes = max(sample.label_id for sample in samples) + 1
    return tuple(f"A{i + 1:03d}" if is_ntu else str(i) for i in range(n_classes))


def packed_arrays(samples: Sequence[PysklSample], offsets: NDArray[np.int64]) -> Arrays:
    """``joints`` ``[sum T, 2, J, C]`` and ``confidence`` ``[sum T, 2, J]``, as ``PackedSkeletons`` reads them."""
    example = samples[0]
    joints = np.zeros((offsets[-1], 2, *example.keypoints.shape[2:]), dtype=example.keypoints.dtype)
    confidence = np.zeros(joints.shape[:3], dtype=joints.dtype)
    for sample, start, end in zip(samples, offsets[:-1], offsets[1:], strict=True):
        positions, known = sample.joints()
        joints[start:end, : len(positions)] = np.nan_to_num(positions).swapaxes(0, 1)
        confidence[start:end, : len(known)] = known.swapaxes(0, 1)
    return {
        "joints": joints,
        "confidence": confidence,
        "offsets": offsets,
        "layout": np.array(example.layout.name),
        "units": np.array("metres" if example.scores is None else "pixels"),
    }
