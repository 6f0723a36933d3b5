"""Joint layouts: every mapping against expectations written by hand, and what may not change it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.errors import InputError
from oskar.tokens.layouts import (
    INTERNAL,
    LAYOUTS,
    SWAP_LEFT_RIGHT,
    Layout,
    coco_to_h36m,
    layout_from_names,
    layout_named,
    swap_left_right,
    to_internal,
)

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"

# Source rows of (nose, left eye, left shoulder, right shoulder, left wrist, right wrist, left hip,
# right hip, left ankle, right ankle) as each layout's own documentation numbers them, from 0.
PROBED = (0, 1, 5, 6, 9, 10, 11, 12, 15, 16)
EXPECTED_ROWS: dict[str, tuple[int | None, ...]] = {
    "COCO-17": (0, 1, 5, 6, 9, 10, 11, 12, 15, 16),
    "H36M-17": (9, None, 11, 14, 13, 16, 4, 1, 6, 3),
    "NTU-25": (3, None, 4, 8, 6, 10, 12, 16, 14, 18),
    "Kinect-20": (3, None, 4, 8, 6, 10, 12, 16, 14, 18),
    "JHMDB-15": (2, None, 4, 3, 12, 11, 6, 5, 14, 13),
    "Penn-13": (0, None, 1, 2, 5, 6, 7, 8, 11, 12),
    "OpenPose-25": (0, 16, 5, 2, 7, 4, 12, 9, 14, 11),
    "MediaPipe-33": (0, 2, 11, 12, 15, 16, 23, 24, 27, 28),
}


def _numbered(n_joints: int) -> torch.Tensor:
    """Positions whose x is the row number."""
    rows = torch.arange(n_joints, dtype=torch.float32)
    return torch.stack([rows, -rows], dim=-1)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_each_layout_maps_to_the_rows_its_documentation_names(name: str) -> None:
    layout = LAYOUTS[name]
    n_joints = int(name.rsplit("-", 1)[1])
    assert len(layout.joint_names) == n_joints == len(set(layout.joint_names))
    positions, confidence = to_internal(_numbered(n_joints), torch.full((n_joints,), 0.7), layout)
    for joint, row in zip(PROBED, EXPECTED_ROWS[name], strict=True):
        if row is None:
            assert confidence[joint] == 0
            assert positions[joint].tolist() == [0, 0]
        else:
            assert positions[joint].tolist() == [row, -row]
            assert confidence[joint] == pytest.approx(0.7)


def test_expectations_cover_every_layout() -> None:
    assert set(EXPECTED_ROWS) == set(LAYOUTS)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_stored_order_of_the_joints_does_not_matter(data: st.DataObject) -> None:
    layout = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    n_joints = len(layout.joint_names)
    order = data.draw(st.permutations(range(n_joints)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    positions = torch.randn(2, 3, n_joints, 3, generator=generator)
    confidence = torch.rand(2, 3, n_joints, generator=generator)
    shuffled = layout_from_names([layout.joint_names[i] for i in order], "names.txt")
    direct = to_internal(positions, confidence, layout)
    permuted = to_internal(positions[:, :, order], confidence[:, :, order], shuffled)
    assert torch.equal(direct[0], permuted[0])
    assert torch.equal(direct[1], permuted[1])


def test_hand_foot_and_face_stand_in_only_where_the_joint_itself_is_missing() -> None:
    names = ["left_hand", "head", "right_hand", "right_wrist", "left_foot", "face"]
    positions, confidence = to_internal(_numbered(6), torch.ones(6), layout_from_names(names, "x"))
    found = {INTERNAL[i]: int(positions[i, 0]) for i in range(17) if confidence[i] > 0}
    assert found == {"nose": 5, "left_wrist": 0, "right_wrist": 3, "left_ankle": 4}


def test_a_mean_of_two_joints_needs_both_and_takes_the_lower_confidence() -> None:
    layout = Layout(name="feet", joint_names=("left_heel", "left_foot_index", "right_heel", "right_foot_index"))
    positions = torch.tensor([[0.0, 2.0], [1.0, 4.0], [5.0, 5.0], [7.0, 7.0]])
    joints, confidence = to_internal(positions, torch.tensor([0.9, 0.4, 0.9, 0.0]), layout)
    assert joints[15].tolist() == [0.5, 3.0]
    assert confidence[15] == pytest.approx(0.4)
    assert joints[16].tolist() == [0.0, 0.0]
    assert confidence[16] == 0


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_unavailable_and_touches_nothing_else(broken: float) -> None:
    positions, confidence = torch.ones(17, 2), torch.ones(17)
    positions[3, 1] = broken
    confidence[8] = torch.nan
    joints, result = to_internal(positions, confidence, LAYOUTS["COCO-17"])
    assert (result == 0).nonzero().flatten().tolist() == [3, 8]
    assert joints[[3, 8]].abs().sum() == 0
    assert torch.equal(joints[result > 0], torch.ones(15, 2))


def test_a_wrong_number_of_joints_names_the_layout_and_both_counts() -> None:
    with pytest.raises(InputError, match=r"Kinect-20 has 20 joints.*have 25"):
        to_internal(torch.zeros(4, 25, 3), torch.ones(4, 25), LAYOUTS["Kinect-20"])
    with pytest.raises(InputError, match=r"COCO-17"):
        to_internal(torch.zeros(4, 17, 2), torch.ones(4, 16), LAYOUTS["COCO-17"])


def test_swapping_exchanges_sides_by_name_and_undoes_itself() -> None:
    other = {"left": "right", "right": "left"}
    for i, name in enumerate(INTERNAL):
        side, _, part = name.rpartition("_")
        assert INTERNAL[SWAP_LEFT_RIGHT[i]] == (f"{other[side]}_{part}" if side else name)
    joints = torch.randn(2, 5, 17, 3)
    assert torch.equal(swap_left_right(joints)[:, :, 5], joints[:, :, 6])
    assert torch.equal(swap_left_right(swap_left_right(joints)), joints)


@pytest.mark.parametrize(
    "spelling",
    ["left_shoulder", "LShoulder", "shoulder left", "Left-Shoulder", "ShoulderLeft", "l_shoulder", "leftShoulder"],
)
def test_usual_spellings_of_a_name(spelling: str) -> None:
    assert layout_from_names([spelling], "x").joint_names == ("left_shoulder",)


@pytest.mark.parametrize(
    ("spelling", "joint"),
    [
        ("MidHip", "hip_center"),
        ("SpineShoulder", "shoulder_center"),
        ("HandTipRight", "right_hand_tip"),
        ("belly", "spine"),
    ],
)
def test_synonyms(spelling: str, joint: str) -> None:
    assert layout_from_names([spelling], "x").joint_names == (joint,)


def test_an_unknown_name_names_file_name_and_nearest() -> None:
    with pytest.raises(InputError, match=r"set/joint_names\.txt: unknown joint name 'left_elbwo'.*left_elbow"):
        layout_from_names(["head", "left_elbwo"], "set/joint_names.txt")
    with pytest.raises(InputError, match="more than once"):
        layout_from_names(["torso", "spine"], "x")
    with pytest.raises(InputError, match="no joint names"):
        layout_from_names([" ", ""], "x")
    with pytest.raises(InputError, match=r"'Kinect20'.*Kinect-20"):
        layout_named("Kinect20", "clip.npz: layout")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("nw_ucla/joint_names.txt", "Kinect-20"),
        ("jhmdb_masks/joint_names.txt", "JHMDB-15"),
        ("penn_action_labels/joint_names.txt", "Penn-13"),
        ("pushup/joint_names_mediapipe.txt", "MediaPipe-33"),
        ("pushup/joint_names_movenet.txt", "COCO-17"),
    ],
)
def test_the_names_of_real_data_sets_are_known_layouts(file: str, name: str) -> None:
    path = DATA_DIR / file
    if not path.is_file():
        pytest.skip(f"real data not there: {path}")
    assert layout_from_names(path.read_text().splitlines(), str(path)) is LAYOUTS[name]


@pytest.mark.parametrize("folder", ["msr_action3d", "utd_mhad", "kard", "utkinect"])
def test_other_orders_of_the_same_sensor_give_the_thirteen_body_joints(folder: str) -> None:
    path = DATA_DIR / folder / "joint_names.txt"
    if not path.is_file():
        pytest.skip(f"real data not there: {path}")
    names = path.read_text().splitlines()
    layout = layout_from_names(names, str(path))
    found = {INTERNAL[i]: names[rows[0]] for i, rows in enumerate(layout.sources()) if rows}
    has_wrist = folder != "kard"  # KARD calls the ends of the limbs hand and foot
    rename = {} if has_wrist else {"wrist": "hand", "ankle": "foot"}
    expected = {"nose": "head"}
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        expected |= {f"{side}_{part}": f"{side}_{rename.get(part, part)}" for side in ("left", "right")}
    assert found == expected


# H36M-17 from COCO-17 as published, by number: root, right leg, left leg, belly, neck, nose, head, left arm, right arm.
# fmt: off
H36M_FROM_COCO = [
    [11, 12], [12], [14], [16], [11], [13], [15], [5, 6, 11, 12], [5, 6], [0], [1, 2], [5], [7], [9], [6], [8], [10],
]
# fmt: on


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_coco_goes_to_h36m_as_published(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    joints = torch.rand(2, 3, 17, 2, generator=generator, dtype=torch.float64)
    scores = 0.01 + torch.rand(2, 3, 17, generator=generator, dtype=torch.float64)
    positions, confidence = coco_to_h36m(joints, scores)
    assert positions.dtype == confidence.dtype == torch.float32
    compat_positions, compat_scores = coco_to_h36m(joints, scores, motionbert_compat=True)
    for joint, rows in enumerate(H36M_FROM_COCO):
        expected = sum(joints[..., row, :] for row in rows) / len(rows)
        torch.testing.assert_close(positions[..., joint, :].double(), expected, atol=1e-6, rtol=0)
        expected_score = sum(scores[..., row] for row in rows) / len(rows)
        torch.testing.assert_close(confidence[..., joint].double(), expected_score, atol=1e-6, rtol=0)
    assert torch.equal(compat_positions, positions)
    assert torch.equal(compat_scores, scores.float())  # MotionBERT leaves them in the order of COCO-17


@pytest.mark.parametrize("joint", range(17))
@pytest.mark.parametrize("fault", ["score", "value"])
def test_what_a_missing_coco_joint_makes_missing_in_h36m(joint: int, fault: str) -> None:
    joints, scores = torch.rand(17, 2) + 1, torch.ones(17)
    if fault == "score":
        scores[joint] = 0
    else:
        joints[joint, 1] = torch.nan
    positions, confidence = coco_to_h36m(joints, scores)
    for row, sources in enumerate(H36M_FROM_COCO):
        assert (confidence[row] == 0) == (joint in sources)
        assert bool((positions[row] == 0).all()) == (joint in sources)
    assert positions.isfinite().all()


def test_h36m_and_back_keeps_what_both_have() -> None:
    joints, scores = torch.rand(17, 2), torch.rand(17) * 0.9 + 0.1
    back, confidence = to_internal(*coco_to_h36m(joints, scores), LAYOUTS["H36M-17"])
    shared = [i for i, name in enumerate(INTERNAL) if name.split("_")[-1] not in ("eye", "ear")]
    torch.testing.assert_close(back[shared], joints[shared])
    torch.testing.assert_close(confidence[shared], scores[shared])
