"""PYSKL pickles: built here, read back, and used as data through the folder made of them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oskar.data.formats.pyskl import PysklFile, read_pyskl
from oskar.data.formats.pyskl_folder import write_pyskl_folder
from oskar.data.manifest import read_manifest
from oskar.data.skeletons import PackedSkeletons
from oskar.errors import InputError
from oskar.tokens.layouts import LAYOUTS, to_internal

Item = dict[str, Any]


def flat_item(name: str, label: int, n_people: int, n_frames: int) -> Item:
    rng = np.random.default_rng(len(name) + label)
    return {
        "frame_dir": name,
        "label": label,
        "total_frames": n_frames,
        "img_shape": (1080, 1920),
        "original_shape": (1080, 1920),
        "keypoint": (rng.uniform(1, 1079, (n_people, n_frames, 17, 2))).astype(np.float16),
        "keypoint_score": rng.uniform(0.1, 1, (n_people, n_frames, 17)).astype(np.float16),
    }


def solid_item(name: str, label: int, n_people: int, n_frames: int) -> Item:
    keypoint = np.random.default_rng(label).normal(0, 1, (n_people, n_frames, 25, 3)).astype(np.float16)
    return {"frame_dir": name, "label": label, "total_frames": n_frames, "keypoint": keypoint}


NAMES = ("S001C001P001R001A001", "S001C002P003R001A055", "S002C001P002R002A007")


def content(make: Callable[[str, int, int, int], Item]) -> dict[str, Any]:
    items = [make(NAMES[0], 0, 1, 5), make(NAMES[1], 54, 2, 7), make(NAMES[2], 6, 3, 4)]
    split = {
        "xsub_train": [NAMES[2], NAMES[0]],
        "xsub_val": [NAMES[1]],
        "xview_train": [NAMES[1], "S009C001P001R001A001"],
    }
    return {"split": split, "annotations": items}


def load(folder: Path, stored: object) -> PysklFile:
    path = folder / "poses.pkl"
    path.write_bytes(pickle.dumps(stored))
    return read_pyskl(path)


def test_2d_poses(tmp_path: Path) -> None:
    stored = content(flat_item)
    stored["annotations"][1]["keypoint"][1, 3:] = 0  # the second person is gone from frame 3 on
    stored["annotations"][1]["keypoint_score"][1, 3:] = 0
    stored["annotations"][0]["keypoint_score"][0, 0, :3] = (1.02, -0.01, np.nan)
    file = load(tmp_path, stored)
    assert list(file.samples) == list(NAMES)
    sample = file.samples[NAMES[1]]
    assert (sample.label_id, sample.frame_size, sample.layout) == (54, (1920, 1080), LAYOUTS["COCO-17"])
    positions, confidence = sample.joints()
    assert positions.dtype == confidence.dtype == np.float32
    np.testing.assert_array_equal(positions[:, :3], stored["annotations"][1]["keypoint"][:, :3].astype(np.float32))
    assert np.isnan(positions[1, 3:]).all()
    assert np.isfinite(positions[0]).all()
    assert (confidence[1, 3:] == 0).all()
    np.testing.assert_array_equal(confidence[0], stored["annotations"][1]["keypoint_score"][0].astype(np.float32))
    first = file.samples[NAMES[0]].joints()
    assert first[1][0, 0, :3].tolist() == [1, 0, 0]
    assert np.isnan(first[0][0, 0, :3, 0]).tolist() == [False, True, True]
    assert file.samples[NAMES[2]].keypoints.shape == (2, 4, 17, 2)  # of three people two count


def test_3d_poses(tmp_path: Path) -> None:
    stored = content(solid_item)
    stored["annotations"][1]["keypoint"][0, 2] = 0
    stored["annotations"][1]["keypoint"][0, 3, 1] = 0  # a joint at the origin is a place, not a person who is gone
    sample = load(tmp_path, stored).samples[NAMES[1]]
    assert (sample.frame_size, sample.scores, sample.layout) == (None, None, LAYOUTS["NTU-25"])
    positions, confidence = sample.joints()
    assert positions.shape == (2, 7, 25, 3)
    assert np.isnan(positions[0, 2]).all()
    assert confidence.sum() == 25 * (14 - 1)
    assert positions[0, 3, 1].tolist() == [0, 0, 0]


def test_conversion_to_float32_comes_before_arithmetic(tmp_path: Path) -> None:
    """Halfway between two neighbouring float16 values above 1024 there is a float32 value, but no float16."""
    stored = content(flat_item)
    stored["annotations"][0]["keypoint"][0, 0, 11:13] = [[1025, 700], [1026, 700]]
    positions, confidence = load(tmp_path, stored).samples[NAMES[0]].joints()
    assert float(np.float16(1025.5)) != 1025.5
    assert float(positions[0, 0, 11:13, 0].mean()) == 1025.5
    joints, _ = to_internal(torch.from_numpy(positions), torch.from_numpy(confidence), LAYOUTS["COCO-17"])
    assert joints.dtype == torch.float32


def test_splits_count_what_the_file_lacks(tmp_path: Path) -> None:
    file = load(tmp_path, content(flat_item))
    train = file.select("xsub_train")
    assert [sample.name for sample in train.samples] == [NAMES[2], NAMES[0]]
    assert (train.n_expected, train.n_found, train.missing) == (2, 2, ())
    view = file.select("xview_train")
    assert (view.n_expected, view.n_found, view.missing) == (2, 1, ("S009C001P001R001A001",))
    with pytest.raises(InputError, match=r"poses\.pkl: no split 'xset_val'\. Fix: use one of xsub_train, xsub_val"):
        file.select("xset_val")


def changed(**values: object) -> Callable[[dict[str, Any]], object]:
    """Sets keys of the second annotation; ``...`` removes one."""

    def change(stored: dict[str, Any]) -> object:
        for key, value in values.items():
            if value is ...:
                del stored["annotations"][1][key]
            else:
                stored["annotations"][1][key] = value
        return stored

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda stored: [stored], "not a PYSKL pickle"),
    "no split": (lambda stored: {"annotations": []}, "not a PYSKL pickle"),
    "annotations": (lambda stored: {**stored, "annotations": {}}, "annotations is a dict"),
    "annotation": (lambda stored: {**stored, "annotations": [3]}, "annotation 0: a int"),
    "twice": (
        lambda stored: {**stored, "annotations": stored["annotations"] * 2},
        "annotation 3: S001.* is there twice",
    ),
    "no name": (changed(frame_dir=...), "annotation 1: frame_dir is missing"),
    "label": (changed(label="5"), r"annotation 1 \(S001C002P003R001A055\): label is a str"),
    "negative label": (changed(label=-1), "annotation 1 .*: label -1"),
    "truth": (changed(label=True), "label is a bool"),
    "keypoint": (changed(keypoint=[[1.0]]), "keypoint is a list"),
    "integers": (changed(keypoint=np.zeros((1, 7, 17, 2), int)), r"keypoint is int64 of shape \(1, 7, 17, 2\)"),
    "axes": (changed(keypoint=np.zeros((7, 17, 2))), r"keypoint is float64 of shape \(7, 17, 2\), total_frames is 7"),
    "frames": (changed(total_frames=8), "total_frames is 8"),
    "joints": (changed(keypoint=np.zeros((1, 7, 25, 2))), "keypoint has 25 joints of 2 coordinates"),
    "no scores": (changed(keypoint_score=...), "keypoint_score is missing"),
    "scores": (changed(keypoint_score=np.zeros((1, 7, 17))), r"keypoint_score is float64 of shape \(1, 7, 17\)"),
    "no size": (changed(img_shape=...), "img_shape = None"),
    "size": (changed(img_shape=(1080, 0)), r"img_shape = \(1080, 0\)"),
    "names": (lambda stored: {**stored, "split": {"xsub_val": "all"}}, "split 'xsub_val' is not a list of names"),
    "listed twice": (lambda stored: {**stored, "split": {"val": ["a", "a"]}}, "split val lists a twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_file_sample_and_key(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(InputError, match=rf"poses\.pkl.*{message}.*Fix: "):
        load(tmp_path, change(content(flat_item)))


def test_a_pickle_that_names_other_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"poses\.pkl: the pickle names .*Path, which could run anything"):
        load(tmp_path, {"split": {}, "annotations": [Path("/")]})


def test_a_folder_of_2d_poses_is_ordinary_data(tmp_path: Path) -> None:
    stored = content(flat_item)
    stored["annotations"][1]["keypoint"][1] = 0
    stored["annotations"][1]["keypoint_score"][1] = 0
    file, folder = load(tmp_path, stored), tmp_path / "ntu"
    splits = write_pyskl_folder(file, folder, train="xsub_train", test="xsub_val")
    assert (splits["train"].n_found, splits["test"].n_found) == (2, 1)
    manifest = read_manifest(folder)
    assert manifest.classes == tuple(f"A{i:03d}" for i in range(1, 56))
    assert [(row.clip_id, row.split, row.label_id, row.subject, row.packed_rows) for row in manifest.rows] == [
        (NAMES[2], "train", 6, "P002", (0, 4)),
        (NAMES[0], "train", 0, "P001", (4, 9)),
        (NAMES[1], "test", 54, "P003", (9, 16)),
    ]
    packed = PackedSkeletons(folder)
    for row in manifest.rows:
        assert row.packed_rows is not None
        assert (row.width, row.height) == (1920, 1080)
        sequence = packed.sequence(*row.packed_rows, (1920, 1080))
        positions, confidence = file.samples[row.clip_id].joints()
        n_people = len(positions)
        expected = np.nan_to_num(positions / np.array([1920, 1080], dtype=np.float32))
        np.testing.assert_allclose(sequence.positions[:n_people].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(sequence.confidence[:n_people].numpy(), confidence, atol=1e-6)
        assert float(sequence.confidence[n_people:].sum()) == 0
    assert float(packed.sequence(9, 16, (1920, 1080)).confidence[1].sum()) == 0  # unavailable, not at the corner


def test_a_folder_of_3d_poses_is_ordinary_data(tmp_path: Path) -> None:
    stored = content(solid_item)
    for item, name in zip(stored["annotations"], "abc", strict=True):
        item["frame_dir"] = name  # not of NTU: classes are numbers
    stored["split"] = {"one": ["a"], "two": ["c", "b"]}
    file, folder = load(tmp_path, stored), tmp_path / "set"
    write_pyskl_folder(file, folder, train="two", test="one")
    manifest = read_manifest(folder)
    assert (manifest.classes[:2], len(manifest.classes), manifest.rows[0].subject) == (("0", "1"), 55, None)
    packed = PackedSkeletons(folder)
    assert (packed.units, packed.layout) == ("metres", LAYOUTS["NTU-25"])
    sequence = packed.sequence(0, 4, None)
    positions = torch.from_numpy(file.samples["c"].joints()[0])
    expected, _ = to_internal(positions, torch.ones(positions.shape[:3]), LAYOUTS["NTU-25"])
    assert torch.equal(sequence.positions, expected)


def test_a_folder_is_not_written_over_or_mixed(tmp_path: Path) -> None:
    stored = content(flat_item)
    stored["split"] |= {"none": [], "both": [NAMES[0]]}
    stored["annotations"].append(solid_item("x", 0, 1, 3))
    stored["split"]["solid"] = ["x"]
    file = load(tmp_path, stored)
    for train, test, message in (
        ("none", "xsub_val", "no sample of train"),
        ("xsub_train", "both", "S001C001P001R001A001 is in both splits"),
        ("xsub_train", "solid", "holds poses of COCO-17 and NTU-25"),
        ("gone", "xsub_val", "no split 'gone'"),
    ):
        with pytest.raises(InputError, match=message):
            write_pyskl_folder(file, tmp_path / "new", train=train, test=test)
    assert not (tmp_path / "new").exists()
    write_pyskl_folder(file, tmp_path / "new", train="xsub_train", test="xsub_val")
    with pytest.raises(InputError, match=r"new: holds an index\.csv already"):
        write_pyskl_folder(file, tmp_path / "new", train="xsub_train", test="xsub_val")
