"""NTU .skeleton files as data: rows of a manifest, joints on a video, folders of official names with their splits."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import noise_video, shrunk, write_index

from oskar.data.formats.ntu_names import NTU60_XSUB, NTU60_XVIEW, NTU120_XSET, NTU120_XSUB
from oskar.data.formats.ntu_skeleton import read_skeleton_file
from oskar.data.manifest import read_manifest, read_ntu_folder, select
from oskar.data.open import open_split
from oskar.data.reader import EvaluationWindow
from oskar.data.skeletons import read_joints_file
from oskar.errors import InputError

GENUINE = Path(__file__).parents[2] / "shared" / "data" / "ntu_samples"
NTU_ROWS = {0: 3, 5: 4, 6: 8, 7: 5, 8: 9, 9: 6, 10: 10, 11: 12, 12: 16, 13: 13, 14: 17, 15: 14, 16: 18}  # COCO: NTU


def genuine() -> list[Path]:
    paths = sorted(GENUINE.glob("*.skeleton"))
    if not paths:
        pytest.skip(f"real data not there: {GENUINE}")
    return paths


def write_skeleton(path: Path, present: list[bool], *, tracking: int = 2) -> Path:
    """A body whose joint j is in frame t at (t / 16, j / 16, 4) metres and at pixel (20 t, 10 j) of the video."""
    lines = [str(len(present))]
    for t, is_present in enumerate(present):
        lines.append(str(int(is_present)))
        if is_present:
            lines += ["72057594037931648 0 1 1 1 1 0 0.1 0.2 2", "25"]
            lines += [f"{t / 16} {j / 16} 4 1 1 {20 * t} {10 * j} 0 0 0 0 {tracking}" for j in range(25)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\r\n".join(lines) + "\r\n")
    return path


def test_genuine_files_as_rows_of_a_manifest(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"clip_id": path.stem, "joints_path": path.name, "label": path.stem[-4:], "split": ("train", "test")[i % 2]}
        for i, path in enumerate(genuine())
    ]
    for path in genuine():
        shutil.copy(path, tmp_path)
    config = shrunk("oskar-tiny")
    for split, n_clips in (("train", 3), ("test", 2)):
        reader = open_split([str(write_index(tmp_path, rows))], config, None, split, "skeleton").reader
        result = reader.read(range(len(reader)), EvaluationWindow(0, 1))
        assert result.bad == ()
        assert result.clips is not None
        assert result.clips.joints is not None
        assert result.clips.joints.shape == (n_clips, 2, config.tokens.n_frames, 17, 3)
        is_seen = result.clips.joints[..., 2] > 0
        assert is_seen[:, 0][..., [0, *range(5, 17)]].all()
        assert not is_seen[..., 1:5].any()  # a Kinect sees no eyes and no ears
        for i in range(n_clips):
            assert bool(is_seen[i, 1].any()) == reader.clip_id(i).endswith("A058")  # only handshaking has two people
        heads, ankles = result.clips.joints[:, 0, :, 0, 1], result.clips.joints[:, 0, :, 15:, 1].mean(-1)
        assert (heads < ankles).all()  # y points down in a clip


@pytest.mark.parametrize("prefer_2d", [False, True])
def test_joints_are_those_of_the_file(prefer_2d: bool) -> None:
    for path in genuine():
        recording = read_skeleton_file(path)
        sequence = read_joints_file(path, frame_size=None, layout=None, prefer_2d=prefer_2d)
        assert sequence is not None
        n_people = len(set(recording.body_ids.tolist()))
        n_axes = 2 if prefer_2d else 3
        assert sequence.positions.shape == (n_people, recording.n_frames, 17, n_axes)
        values = recording.colour_xy / np.array([1920, 1080], dtype=np.float32) if prefer_2d else recording.positions
        # a person's sightings, one a frame: these files have no gaps, and people are told apart by where they stand
        for coco, ntu in NTU_ROWS.items():
            expected = np.sort(values[:, ntu, 0].reshape(recording.n_frames, n_people), axis=1)
            found = np.sort(sequence.positions[:, :, coco, 0].numpy().T, axis=1)
            np.testing.assert_array_equal(found, expected)
            shares = np.array([0, 0.5, 1])[recording.tracking[:, ntu]]
            assert sequence.confidence[:, :, coco].sum() == shares.sum()


def test_frames_of_nobody_go_without_a_video_and_stay_with_one(tmp_path: Path) -> None:
    path = write_skeleton(tmp_path / "a.skeleton", [False, True, True, False, True])
    solid = read_joints_file(path, frame_size=None, layout=None, prefer_2d=False)
    flat = read_joints_file(path, frame_size=(320, 180), layout=None, prefer_2d=True)
    assert solid is not None
    assert flat is not None
    assert (solid.positions[0, :, 5, 0] * 16).tolist() == [1, 2, 4]
    assert (flat.positions[0, :, 5, 0] * 1920).round().tolist() == [0, 20, 40, 0, 80]
    assert (flat.confidence[0, :, 5]).tolist() == [0, 1, 1, 0, 1]
    torch.testing.assert_close(flat.positions[0, 1, 5], torch.tensor([20 / 1920, 40 / 1080]))


@pytest.mark.parametrize(("tracking", "confidence"), [(1, 0.5), (2, 1.0)])
def test_confidence_follows_the_tracking_state(tmp_path: Path, tracking: int, confidence: float) -> None:
    path = write_skeleton(tmp_path / "a.skeleton", [True] * 3, tracking=tracking)
    sequence = read_joints_file(path, frame_size=None, layout=None, prefer_2d=False)
    assert sequence is not None
    assert set(sequence.confidence[0, :, 5].tolist()) == {confidence}


def test_what_no_joint_was_tracked_in_is_unusable(tmp_path: Path) -> None:
    for path, message in (
        (write_skeleton(tmp_path / "a.skeleton", [True] * 3, tracking=0), r"a\.skeleton: no usable joint"),
        (write_skeleton(tmp_path / "b.skeleton", [False] * 3), r"b\.skeleton: no body in any of its 3 frames"),
    ):
        with pytest.raises(InputError, match=message):
            read_joints_file(path, frame_size=None, layout=None, prefer_2d=False)


# Folders of official names


def ntu_folder(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


NAMES_60 = ("S001C001P001R001A001", "S001C002P003R002A060", "S017C003P040R001A050")
NAMES_120 = (*NAMES_60, "S018C001P008R001A061", "S032C002P106R002A120")


def test_official_names_give_labels_splits_and_classes(tmp_path: Path) -> None:
    folder = ntu_folder(tmp_path / "set", *(f"nturgb+d_skeletons/{name}.skeleton" for name in NAMES_60), "README.md")
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.split_column) == ("set", "split")
    assert manifest.classes == tuple(f"A{i:03d}" for i in range(1, 61))
    assert [(r.clip_id, r.split, r.label, r.label_id, r.subject) for r in manifest.rows] == [
        (NAMES_60[0], "train", "A001", 0, "P001"),
        (NAMES_60[1], "test", "A060", 59, "P003"),
        (NAMES_60[2], "test", "A050", 49, "P040"),
    ]
    row = manifest.rows[1]
    assert row.joints_path == folder / "nturgb+d_skeletons" / f"{NAMES_60[1]}.skeleton"
    assert (row.video_path, row.modalities) == (None, ("skeleton",))
    assert dict(row.metadata) == {"camera": "2", "setup": "1", "repetition": "2"}
    by_view = read_ntu_folder(folder, NTU60_XVIEW)
    assert [r.split for r in by_view.rows] == ["test", "train", "train"]
    assert [r.clip_id for r in select(by_view, split="test").rows] == [NAMES_60[0]]


def test_a_protocol_has_its_own_samples_and_classes_only(tmp_path: Path) -> None:
    folder = ntu_folder(tmp_path, *(f"{name}.skeleton" for name in NAMES_120))
    assert [r.split for r in read_manifest(folder).rows] == ["train", "test", "test", "train", "test"]
    assert len(read_manifest(folder).classes) == 120
    expected = {"ntu120_xsub": "train test test train test", "ntu120_xset": "test test test train train"}
    for protocol in (NTU120_XSUB, NTU120_XSET):
        assert [r.split for r in read_ntu_folder(folder, protocol).rows] == expected[protocol.name].split()
    part = read_ntu_folder(folder, NTU60_XSUB)
    assert [r.clip_id for r in part.rows] == list(NAMES_60)
    assert len(part.classes) == 60


def test_named_classes_come_in_the_order_of_their_actions(tmp_path: Path) -> None:
    folder = ntu_folder(tmp_path, *(f"{name}.skeleton" for name in NAMES_60))
    (folder / "classes.txt").write_text("\n".join(f"action {i}" for i in range(1, 61)))
    rows = read_manifest(folder).rows
    assert [(row.label, row.label_id) for row in rows] == [("action 1", 0), ("action 60", 59), ("action 50", 49)]


def test_missing_skeletons_are_left_out_and_videos_stay(tmp_path: Path) -> None:
    files = [f"skeletons/{name}.skeleton" for name in NAMES_60] + [f"rgb/{name}_rgb.avi" for name in NAMES_60[1:]]
    folder = ntu_folder(tmp_path, *files)
    (folder / "NTU_RGBD_samples_with_missing_skeletons.txt").write_text(f"Prose.\n\n{NAMES_60[0]}\n{NAMES_60[1]}\n")
    rows = read_manifest(folder).rows
    assert [(row.clip_id, row.modalities) for row in rows] == [
        (NAMES_60[1], ("video",)),
        (NAMES_60[2], ("video", "skeleton")),
    ]
    assert rows[1].video_path == folder / "rgb" / f"{NAMES_60[2]}_rgb.avi"


def test_a_folder_of_videos_alone_has_the_splits_too(tmp_path: Path) -> None:
    rows = read_manifest(ntu_folder(tmp_path, *(f"{name}_rgb.avi" for name in NAMES_60))).rows
    assert [(row.clip_id, row.split) for row in rows] == list(zip(NAMES_60, ("train", "test", "test"), strict=True))


def test_other_folders_stay_plain(tmp_path: Path) -> None:
    rows = read_manifest(ntu_folder(tmp_path, "S001_rgb.avi", "a.mp4", "b.skeleton")).rows
    assert [row.clip_id for row in rows] == ["S001_rgb", "a"]


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a video": (
        lambda folder: ntu_folder(folder, "a.mp4"),
        r"a\.mp4: a video among .* but not called \{name\}_rgb\.avi",
    ),
    "a name": (lambda folder: ntu_folder(folder, "S001.skeleton"), r"'S001': not the name of an NTU RGB\+D sample"),
    "twice": (
        lambda folder: ntu_folder(folder, f"more/{NAMES_60[0]}.skeleton"),
        rf"more/{NAMES_60[0]}\.skeleton: the same sample as .*/{NAMES_60[0]}\.skeleton",
    ),
    "a list": (
        lambda folder: (folder / "x_missing_skeletons.txt").write_text("none\n"),
        r"x_missing_skeletons\.txt: names no sample",
    ),
    "all missing": (
        lambda folder: (folder / "x_missing_skeletons.txt").write_text("\n".join(NAMES_60)),
        "no sample of ntu60_xsub",
    ),
    "few classes": (lambda folder: (folder / "classes.txt").write_text("a\nb\n"), "there are 2 classes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_official_folders(tmp_path: Path, fault: str) -> None:
    plant, message = FAULTS[fault]
    folder = ntu_folder(tmp_path, *(f"{name}.skeleton" for name in NAMES_60))
    read_manifest(folder)
    plant(folder)
    with pytest.raises(InputError, match=f"{message}.*Fix: "):
        read_manifest(folder)


def test_other_split_columns_are_not_there(tmp_path: Path) -> None:
    folder = ntu_folder(tmp_path, f"{NAMES_60[0]}.skeleton")
    with pytest.raises(InputError, match="has no column 'split2'"):
        read_manifest(folder, split_column="split2")


def test_joints_lie_on_the_pixels_of_their_video(tmp_path: Path) -> None:
    """Training reads both; a video of another size than the sensor's keeps the joints at their share of the frame."""
    for name in (NAMES_60[0], "S001C001P002R001A002"):
        write_skeleton(tmp_path / f"{name}.skeleton", [True] * 8)
        noise_video(tmp_path / "v.mkv").rename(tmp_path / f"{name}_rgb.avi")
    config = shrunk("oskar-tiny")
    config = replace(config, tokens=replace(config.tokens, n_frames=4), clip=replace(config.clip, stride_frames=2))
    reader = open_split([str(tmp_path)], config, None, "train").reader
    clips = reader.read(range(len(reader)), EvaluationWindow(0, 1)).clips
    assert clips is not None
    assert clips.frames is not None
    assert clips.joints is not None
    assert clips.frames.shape[:2] == (2, 4)
    shown = clips.joints[:, 0, :, 5]  # left shoulder: NTU joint 4 at pixel (20 t, 40)
    is_seen = shown[..., 2] > 0
    assert is_seen.any()
    torch.testing.assert_close(shown[..., 1][is_seen], torch.full_like(shown[..., 1][is_seen], 40 / 1080))
    steps = (shown[..., 0] * 1920 / 20)[is_seen]
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
