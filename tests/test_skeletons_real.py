"""Skeletons of the real data sets: they read, stand upright, and agree with their boxes, cameras and each other."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oskar.data.skeletons import PackedSkeletons, SkeletonSequence, folder_layout, place, read_joints_file
from oskar.errors import InputError

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
BODY = [0, *range(5, 17)]


def _place(sequence: SkeletonSequence, idx: Tensor, **changes: Any) -> tuple[Tensor, Tensor]:
    settings = {
        "projection": "orthographic",
        "focal_length": 1.0,
        "yaw_radians": 0.0,
        "margin": 0.1,
        "virtual_frame": True,
    }
    return place(sequence, idx, **{**settings, **changes})


def _rows(folder: str) -> list[dict[str, str]]:
    path = DATA_DIR / folder / "index.csv"
    if not path.is_file():
        pytest.skip(f"real data not there: {path}")
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _share_head_above_ankles(sequences: list[SkeletonSequence]) -> float:
    """Share of the frames that show all three joints; y is up in 3-D."""
    above: list[Tensor] = []
    for sequence in sequences:
        is_shown = (sequence.confidence[..., [0, 15, 16]] > 0).all(dim=-1)
        height = sequence.positions[..., 0, 1] - sequence.positions[..., 15:, 1].amax(dim=-1)
        above.append(height[is_shown] > 0)
    return float(torch.cat(above).float().mean())


@pytest.mark.parametrize("folder", ["kard", "msr_action3d", "nw_ucla", "utkinect"])
def test_real_packed_3d_sets_stand_upright_in_metres(folder: str) -> None:
    rows = _rows(folder)[::4]
    packed = PackedSkeletons(DATA_DIR / folder)
    sequences = [packed.sequence(int(r["start"]), int(r["end"]), None) for r in rows]
    assert (packed.units, packed.up) == ("metres", "+y")
    assert _share_head_above_ankles(sequences) > 0.9
    for row, sequence in zip(rows, sequences, strict=True):
        assert sequence.positions.shape == (1, int(row["n_frames"]), 17, 3)
    is_seen = torch.cat([sequence.confidence[0] > 0 for sequence in sequences]).float().mean(dim=0)
    assert is_seen[1:5].max() == 0
    assert is_seen[BODY].min() > 0.75  # MSR-Action3D says itself that it only inferred some joints
    thigh = torch.cat([(s.positions[0, :, 11] - s.positions[0, :, 13]).norm(dim=-1) for s in sequences])
    assert 0.25 < float(thigh.median()) < 0.6  # metres: a person's


def test_real_kard_screen_agrees_with_its_world() -> None:
    rows = _rows("kard")[::40]
    folder = DATA_DIR / "kard"
    screen, world = PackedSkeletons(folder, prefer_2d=True), PackedSkeletons(folder)
    for row in rows:
        start, end = int(row["start"]), int(row["end"])
        flat, solid = screen.sequence(start, end, (640, 480)), world.sequence(start, end, None)
        idx = torch.arange(flat.n_frames)
        # a Kinect's depth camera: focal length about 585 of 640 pixels
        joints = _place(solid, idx, projection="pinhole", focal_length=585 / 640, virtual_frame=False)[0]
        assert float((joints[..., BODY, :2] - flat.positions[..., BODY, :]).abs().median()) < 0.02
    with pytest.raises(InputError, match="size of the frame"):
        screen.sequence(0, 10, None)


def test_real_penn_action_is_2d_with_visibility() -> None:
    rows = _rows("penn_action_labels")[::10]
    packed = PackedSkeletons(DATA_DIR / "penn_action_labels")
    assert packed.units == "pixels"
    sequences = [packed.sequence(int(r["start"]), int(r["end"]), (int(r["width"]), int(r["height"]))) for r in rows]
    inside = torch.cat([_inside_boxes(sequence) for sequence in sequences])
    assert float(inside.float().mean()) > 0.99
    assert set(torch.cat([s.confidence.flatten() for s in sequences]).tolist()) == {0.0, 1.0}


def _inside_boxes(sequence: SkeletonSequence) -> Tensor:
    assert sequence.boxes is not None
    low, high = sequence.boxes[..., None, :2], sequence.boxes[..., None, 2:]
    is_inside = ((sequence.positions >= low) & (sequence.positions <= high)).all(dim=-1)
    return is_inside[(sequence.confidence > 0) & sequence.boxes.isfinite().all(dim=-1, keepdim=True)]


@pytest.mark.parametrize(("folder", "least_inside"), [("utd_mhad", 0.98), ("jhmdb_masks", 0.85)])
def test_real_2d_joints_lie_in_their_boxes(folder: str, least_inside: float) -> None:
    rows = _rows(folder)[::12]
    layout = folder_layout(DATA_DIR / folder)
    inside, n_read = [], 0
    for row in rows:
        path = DATA_DIR / folder / row["joints_path"]
        size = (int(row["width"]), int(row["height"]))
        sequence = read_joints_file(path, frame_size=size, layout=layout, prefer_2d=True)
        assert (sequence is None) == (row.get("has_joints") == "0")
        if sequence is not None:
            n_read += 1
            assert (sequence.confidence[..., BODY] > 0).all()
            inside.append(_inside_boxes(sequence))
    assert n_read > 30
    assert float(torch.cat(inside).float().mean()) > least_inside


def test_real_utd_joints_in_metres_fall_on_its_video_through_its_camera() -> None:
    layout = folder_layout(DATA_DIR / "utd_mhad")
    for row in _rows("utd_mhad")[::80]:
        path = DATA_DIR / "utd_mhad" / row["joints_path"]
        flat = read_joints_file(path, frame_size=(320, 240), layout=layout, prefer_2d=True)
        solid = read_joints_file(path, frame_size=(320, 240), layout=layout, prefer_2d=False)
        assert flat is not None
        assert solid is not None
        assert _share_head_above_ankles([solid]) > 0.9
        idx = torch.arange(flat.n_frames)
        joints, _ = _place(solid, idx, projection="pinhole", focal_length=285.63 / 320, virtual_frame=False)
        torch.testing.assert_close(joints[..., :2], flat.positions, rtol=0, atol=1e-5)


def test_real_pushup_networks_agree_with_each_other(tmp_path: Path) -> None:
    distances = []
    for row in _rows("pushup")[::20]:
        path = DATA_DIR / "pushup" / row["joints_path"]
        movenet = read_joints_file(path, frame_size=None, layout=None, prefer_2d=True)
        with np.load(path) as file:
            np.savez(tmp_path / "m.npz", mediapipe=file["mediapipe"])
        mediapipe = read_joints_file(tmp_path / "m.npz", frame_size=None, layout=None, prefer_2d=True)
        assert movenet is not None
        assert mediapipe is not None
        both = (movenet.confidence > 0.5) & (mediapipe.confidence > 0.5)
        distances.append((movenet.positions - mediapipe.positions)[both].abs().flatten())
    assert float(torch.cat(distances).median()) < 0.03
