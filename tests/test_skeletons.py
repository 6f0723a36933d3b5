"""Reading skeleton files: units, layouts, missing joints, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oskar.data.skeletons import PackedSkeletons, SkeletonSequence, read_joints_file
from oskar.errors import InputError
from oskar.tokens.layouts import INTERNAL, LAYOUTS

COCO = LAYOUTS["COCO-17"]
BODY = [0, *range(5, 17)]
Floats = NDArray[np.float32]


def _floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def _save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def _read(path: Path, frame_size: tuple[int, int] | None = None, prefer_2d: bool = True) -> SkeletonSequence:
    sequence = read_joints_file(path, frame_size=frame_size, layout=COCO, prefer_2d=prefer_2d)
    assert sequence is not None
    return sequence


def _random(*shape: int, low: float = 0.1, high: float = 0.9) -> Floats:
    return np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)


def test_pixels_become_shares_and_one_person_gets_an_axis(tmp_path: Path) -> None:
    xy = _random(5, 17, 2, low=1, high=99)
    boxes = np.tile(_floats(10, 20, 60, 80), (5, 1))
    sequence = _read(_save(tmp_path / "a.npz", joints2d=xy, boxes=boxes), (200, 100))
    torch.testing.assert_close(sequence.positions[0], torch.from_numpy(xy / _floats(200, 100)))
    assert sequence.boxes is not None
    torch.testing.assert_close(sequence.boxes[0, 3], torch.tensor([0.05, 0.2, 0.3, 0.8]))
    assert sequence.confidence.shape == (1, 5, 17)
    assert sequence.confidence.min() == 1
    assert sequence.frame_aspect == 2
    with pytest.raises(InputError, match=r"a\.npz: frame size \(0, 100\)"):
        _read(tmp_path / "a.npz", (0, 100))
    with pytest.raises(InputError, match=r"a\.npz: joints2d is in pixels.*width and height"):
        _read(tmp_path / "a.npz")


def test_our_own_format_holds_several_people_with_confidence(tmp_path: Path) -> None:
    xy, confidence = _random(2, 4, 13, 2), _random(2, 4, 13)
    path = _save(tmp_path / "a.npz", joints=xy, confidence=confidence, units="share", layout="Penn-13")
    sequence = _read(path)
    torch.testing.assert_close(sequence.positions[:, :, BODY], torch.from_numpy(xy))
    torch.testing.assert_close(sequence.confidence[:, :, BODY], torch.from_numpy(confidence))
    assert sequence.confidence[:, :, 1:5].abs().sum() == 0


def test_the_third_value_is_a_confidence_in_2d_and_a_depth_in_metres(tmp_path: Path) -> None:
    values = _random(3, 17, 3)
    flat = _read(_save(tmp_path / "a.npz", joints=values, units="share"))
    torch.testing.assert_close(flat.confidence[0], torch.from_numpy(values[..., 2]))
    solid = _read(_save(tmp_path / "b.npz", joints=values, units="metres"))
    torch.testing.assert_close(solid.positions[0], torch.from_numpy(values))
    assert solid.confidence.min() == 1
    with pytest.raises(InputError, match=r"cannot tell the units.*'units': pixels, share or metres"):
        _read(_save(tmp_path / "c.npz", joints=values))


@pytest.mark.parametrize(
    ("values", "width"),
    [(_random(3, 17, 3) * _floats(300, 200, 1), 2), (_random(3, 17, 3) * 3, 3), (_random(3, 17, 2), 2)],
    ids=["pixels and confidence", "metres", "shares"],
)
def test_units_that_can_only_be_one_are_recognised(tmp_path: Path, values: Any, width: int) -> None:
    sequence = _read(_save(tmp_path / "a.npz", joints=values), (300, 200))
    assert sequence.positions.shape[-1] == width
    assert 0.05 < sequence.positions[..., 0].mean() < 3


def test_preference_chooses_between_2d_and_3d(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", joints2d=_random(3, 17, 2), joints3d=_random(3, 17, 3), units="share")
    assert _read(path, prefer_2d=True).positions.shape[-1] == 2
    assert _read(path, prefer_2d=False).positions.shape[-1] == 3


def test_our_own_array_comes_after_its_dimension_and_before_the_other(tmp_path: Path) -> None:
    flat, solid = _random(3, 17, 2), _random(3, 17, 3) * 3
    path = _save(tmp_path / "a.npz", joints=flat, joints3d=solid)
    torch.testing.assert_close(_read(path, prefer_2d=True).positions[0], torch.from_numpy(flat))
    torch.testing.assert_close(_read(path, prefer_2d=False).positions[0], torch.from_numpy(solid))
    path = _save(tmp_path / "b.npz", joints=solid, movenet=_random(3, 17, 3))
    assert _read(path, prefer_2d=True).positions.shape[-1] == 2
    torch.testing.assert_close(_read(path, prefer_2d=False).positions[0], torch.from_numpy(solid))
    path = _save(tmp_path / "c.npz", joints=np.full((3, 17, 2), np.nan), movenet=_random(3, 17, 3))
    assert _read(path, prefer_2d=True).confidence.min() > 0


def test_network_outputs_bring_layout_and_score(tmp_path: Path) -> None:
    movenet, mediapipe = _random(3, 17, 3), _random(3, 33, 4)
    sequence = _read(_save(tmp_path / "a.npz", mediapipe=mediapipe))
    shoulder = INTERNAL.index("right_shoulder")
    torch.testing.assert_close(sequence.positions[0, :, shoulder], torch.from_numpy(mediapipe[:, 12, :2]))
    torch.testing.assert_close(sequence.confidence[0, :, shoulder], torch.from_numpy(mediapipe[:, 12, 3]))
    sequence = _read(_save(tmp_path / "b.npz", mediapipe=mediapipe, movenet=movenet))
    torch.testing.assert_close(sequence.positions[0], torch.from_numpy(movenet[..., :2]))


def test_missing_and_absurd_joints_are_unavailable_not_zero_points(tmp_path: Path) -> None:
    xy = _random(3, 17, 2)
    xy[0, 3] = np.nan
    xy[1, 4] = 0
    xy[2, 5] = 11  # frames away
    sequence = _read(_save(tmp_path / "a.npz", joints=xy, units="share"))
    assert (sequence.confidence[0] == 0).nonzero().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert sequence.positions.isfinite().all()


@pytest.mark.parametrize(("up", "expected"), [("+y", [1, 2, 3]), ("-y", [1, -2, 3]), ("+z", [1, 3, 2])])
def test_up_is_brought_to_y(tmp_path: Path, up: str, expected: list[float]) -> None:
    path = _save(tmp_path / "a.npz", joints3d=np.tile(_floats(1, 2, 3), (2, 17, 1)), up=up)
    assert _read(path).positions[0, 1, 4].tolist() == expected


def test_files_without_joints_give_none(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.npz", boxes=np.ones((3, 4)), mask_bits=np.zeros((3, 2, 2), np.uint8))
    assert read_joints_file(path, frame_size=None, layout=None, prefer_2d=True) is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"joints": np.full((3, 17, 2), np.nan)}, "no usable joint"),
        ({"joints": np.array([["a", "b"]])}, "no usable joint in joints, <U1"),
        ({"joints2d": np.full((3, 17, 2), np.nan)}, "no usable joint"),
        ({"joints3d": np.zeros((3, 17, 3))}, "no usable joint"),
        ({"joints3d": np.ones((3, 20, 3))}, "joints3d has 20 joints, layout COCO-17 has 17"),
        ({"joints3d": np.ones((3, 20, 3)), "layout": "Kinect20"}, "Kinect-20"),
        ({"joints3d": np.ones((3, 17, 2))}, "2 values for each joint, not 3"),
        ({"joints3d": np.ones((17, 3))}, r"shape \(17, 3\)"),
        ({"joints3d": np.ones((0, 17, 3))}, r"shape \(0, 17, 3\)"),
        ({"joints3d": np.array([["a"]])}, "<U1"),
        ({"joints3d": np.ones((3, 17, 3)), "up": "up"}, r"up = 'up'.*\+y"),
        ({"joints": np.ones((3, 17, 3)), "units": "feet"}, r"units = 'feet'.*pixels, share, metres"),
        ({"joints2d": np.ones((3, 17, 2)), "confidence": np.ones((4, 17))}, "confidence: shape"),
        ({"joints2d": np.ones((3, 17, 2)), "confidence": np.full((3, 17), 2.0)}, "confidences from 2 to 2"),
        ({"joints2d": np.ones((3, 17, 2)), "boxes": np.ones((2, 4))}, "boxes: shape"),
        ({"joints2d": np.array([{"x": 1}], dtype=object)}, "cannot be read as"),
    ],
)
def test_refusals_name_the_file_and_the_matter(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = _save(tmp_path / "clip.npz", **arrays)
    with pytest.raises(InputError, match=rf"clip\.npz.*{message}"):
        read_joints_file(path, frame_size=(10, 10), layout=COCO, prefer_2d=True)


def test_an_unknown_layout_is_not_guessed_from_the_number_of_joints(tmp_path: Path) -> None:
    path = _save(tmp_path / "clip.npz", joints3d=np.ones((3, 17, 3)))
    with pytest.raises(InputError, match=r"layout of joints3d is not known.*joint_names\.txt"):
        read_joints_file(path, frame_size=None, layout=None, prefer_2d=False)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    whole = _save(tmp_path / "whole.npz", joints3d=np.ones((30, 17, 3))).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "single.npy", np.ones(3))
    for name in ("cut.npz", "empty.npz", "single.npy", "absent.npz"):
        with pytest.raises(InputError, match=name):
            read_joints_file(tmp_path / name, frame_size=None, layout=COCO, prefer_2d=False)


def _pack(folder: Path, joints: Any, **arrays: Any) -> PackedSkeletons:
    (folder / "joint_names.txt").write_text("\n".join(INTERNAL))  # no newline at the end
    _save(folder / "skeletons.npz", joints=joints, offsets=np.array([0, len(joints)]), **arrays)
    return PackedSkeletons(folder)


def _standing(n_rows: int, vertical: int, sign: float) -> Floats:
    joints = _random(n_rows, 17, 3, low=-0.2, high=0.2) + _floats(0, 0, 2)
    joints[:, 0, vertical] += sign
    joints[:, 15:, vertical] -= sign
    return joints


def test_a_packed_file_whose_heads_are_below_the_ankles_is_turned_upright(tmp_path: Path) -> None:
    joints = _standing(20, 1, -0.8)
    packed = _pack(tmp_path, joints)
    assert (packed.units, packed.up) == ("metres", "-y")
    sequence = packed.sequence(5, 15, None)
    torch.testing.assert_close(sequence.positions[0], torch.from_numpy(joints[5:15] * _floats(1, -1, 1)))
    _pack(tmp_path, joints, up="+y")
    assert PackedSkeletons(tmp_path).up == "+y"


def test_a_packed_file_that_stands_along_z_must_say_so(tmp_path: Path) -> None:
    joints = _standing(20, 2, 0.8)
    with pytest.raises(InputError, match=r"apart along z.*\+z"):
        _pack(tmp_path, joints).sequence(0, 5, None)
    sequence = _pack(tmp_path, joints, up="+z").sequence(0, 5, None)
    torch.testing.assert_close(sequence.positions[0, :, :, 1], torch.from_numpy(joints[:5, :, 2]))


def test_packed_people_and_rows(tmp_path: Path) -> None:
    joints = _random(6, 2, 17, 3) * 3  # rows, people
    packed = _pack(tmp_path, joints, confidence=_random(6, 2, 17))
    sequence = packed.sequence(2, 5, None)
    torch.testing.assert_close(sequence.positions[1], torch.from_numpy(joints[2:5, 1]))
    assert sequence.confidence.shape == (2, 3, 17)
    for start, end in ((4, 7), (3, 3), (-1, 2)):
        with pytest.raises(InputError, match="has 6 rows"):
            packed.sequence(start, end, None)


def test_a_packed_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _pack(tmp_path, _random(50, 17, 3) * 3)
    calls: list[object] = []
    load = np.load

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", counting)
    for start in range(40):
        packed.sequence(start, start + 10, None)
    assert len(calls) == 1
