"""The .skeleton text format: the given fixture, genuine files against a plain reading, and every way to break one."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.data.formats.ntu_skeleton import KinectRecording, read_skeleton_file
from oskar.errors import InputError

SHARED = Path(__file__).parents[2] / "shared"
FIXTURE = SHARED / "spec" / "fixtures" / "ntu" / "S017C003P001R002A055.skeleton"
GENUINE = SHARED / "data" / "ntu_samples"

BODY = "72057594037931648 0 1 1 1 1 0 -0.11 0.14 2"
JOINT = "0.5 -0.25 3.5 100.5 200.25 900.5 500.25 0 0 0 0 2"


def frame(*body_ids: int, joint: str = JOINT) -> str:
    bodies = [f"{body_id} 0 1 1 1 1 0 -0.11 0.14 2\n25\n" + f"{joint}\n" * 25 for body_id in body_ids]
    return f"{len(body_ids)}\n" + "".join(bodies)


def single(values: list[float] | list[list[float]]) -> list[float]:
    """The values as float32 holds them."""
    rounded: list[float] = np.array(values, dtype=np.float32).tolist()
    return rounded


def read(tmp_path: Path, content: str | bytes) -> KinectRecording:
    path = tmp_path / "s.skeleton"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_skeleton_file(path)


def test_the_fixture() -> None:
    if not FIXTURE.is_file():
        pytest.skip(f"fixture not there: {FIXTURE}")
    recording = read_skeleton_file(FIXTURE)
    assert recording.n_frames == 2
    assert recording.frame_idx.tolist() == [0, 1, 1]
    assert recording.body_ids.dtype == np.int64
    assert recording.body_ids.tolist() == [90000000000000001, 90000000000000001, 90000000000000002]
    assert recording.positions.shape == (3, 25, 3)
    assert recording.positions[0, :2].tolist() == single([[-0.4, 0, 3.2], [-0.4, 0.28, 3.21]])
    assert recording.depth_xy[0, 1].tolist() == single([210.517134, 180.161994])
    assert recording.colour_xy[0, 1].tolist() == single([827.912773, 447.538941])
    assert recording.tracking[0].tolist() == [2] * 21 + [1, 1, 2, 2]
    assert recording.tracking.dtype == np.int8


@pytest.mark.parametrize("name", ["S001C001P001R001A011", "S001C003P008R002A058", "S004C002P003R001A017"])
def test_genuine_files_say_what_a_plain_reading_says(name: str) -> None:
    path = GENUINE / f"{name}.skeleton"
    if not path.is_file():
        pytest.skip(f"real data not there: {path}")
    recording = read_skeleton_file(path)
    words = iter(path.read_text().split())  # blind to lines
    n_frames, row = int(next(words)), 0
    for number in range(n_frames):
        for _ in range(int(next(words))):
            body = [next(words) for _ in range(10)]
            assert (recording.frame_idx[row], str(recording.body_ids[row])) == (number, body[0])
            joints = np.array([[float(next(words)) for _ in range(12)] for _ in range(int(next(words)))])
            np.testing.assert_array_equal(recording.positions[row], joints[:, :3].astype(np.float32))
            np.testing.assert_array_equal(recording.colour_xy[row], joints[:, 5:7].astype(np.float32))
            np.testing.assert_array_equal(recording.depth_xy[row], joints[:, 3:5].astype(np.float32))
            np.testing.assert_array_equal(recording.tracking[row], joints[:, 11])
            row += 1
    assert (next(words, None), row, recording.n_frames) == (None, len(recording.frame_idx), n_frames)


def test_genuine_files_are_read_fast() -> None:
    path = GENUINE / "S001C003P008R002A058.skeleton"  # the largest: 70 frames with two bodies
    if not path.is_file():
        pytest.skip(f"real data not there: {path}")
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        read_skeleton_file(path)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.1


@settings(max_examples=30, deadline=None)
@given(
    bodies=st.lists(st.lists(st.integers(0, 2**63 - 1), max_size=3, unique=True), max_size=5),
    line_end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from(["", "\n", "\r\n \n\t\n"]),
    is_end_cut=st.booleans(),
)
def test_any_counts_and_line_ends(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[list[int]], line_end: str, tail: str, is_end_cut: bool
) -> None:
    text = f"{len(bodies)}\n" + "".join(frame(*ids) for ids in bodies)
    text = text.replace("\n", line_end).removesuffix(line_end) + ("" if is_end_cut and not tail else line_end) + tail
    recording = read(tmp_path_factory.mktemp("any"), text)
    assert recording.n_frames == len(bodies)
    assert recording.body_ids.tolist() == [i for ids in bodies for i in ids]
    assert recording.frame_idx.tolist() == [number for number, ids in enumerate(bodies) for _ in ids]
    assert recording.positions.shape == (len(recording.body_ids), 25, 3)


def test_what_is_not_finite_or_outside_its_image_is_missing(tmp_path: Path) -> None:
    """A point counts whole or not at all; images are 512 x 424 and 1920 x 1080 pixels."""
    cases = {  # x y z, depth x y, colour x y: whether each of the three is known
        "nan 1 2 10 10 10 10": (False, True, True),
        "1 1 -inf 10 10 10 10": (False, True, True),
        "1 1 1e39 10 10 10 10": (False, True, True),  # beyond float32
        "1 1 2 NaN 10 -Infinity inf": (True, False, False),
        "1 1 2 511.9 423.9 1919.9 1079.9": (True, True, True),
        "1 1 2 0 0 -0.0 0": (True, True, True),
        "1 1 2 512 10 1920 10": (True, False, False),
        "1 1 2 10 424 10 1080": (True, False, False),
        "1 1 2 -0.1 10 10 -0.1": (True, False, False),
        "0 0 0 10 10 10 10": (True, True, True),
    }
    joints = [f"{case} 0 0 0 0 1" for case in cases] + [JOINT] * (25 - len(cases))
    recording = read(tmp_path, "1\n1\n" + BODY + "\n25\n" + "\n".join(joints))
    for row, (case, expected) in enumerate(cases.items()):
        points = (recording.positions, recording.depth_xy, recording.colour_xy)
        for point, is_known in zip(points, expected, strict=True):
            values = point[0, row].tolist()
            assert all(math.isfinite(v) for v in values) if is_known else all(math.isnan(v) for v in values), case
    assert recording.positions[0, 4].tolist() == [1, 1, 2]


def changed(line: int, text: str) -> str:
    """A good file of one frame with one of its lines, counted from 1, replaced."""
    lines = ("1\n" + frame(7)).splitlines()
    lines[line - 1] = text
    return "\n".join(lines)


BROKEN: dict[str, tuple[str, str]] = {
    "empty": ("", "line 1: the file ends before a frame count"),
    "no number": ("one\n", r"line 1: frame count 'one'\. Fix: write a whole number"),
    "negative": ("-1\n", "line 1: frame count '-1'"),
    "two numbers": ("1 1\n", "line 1: '1 1' is not a frame count of 1 numbers"),
    "blank inside": (changed(2, ""), "line 2: '' is not a body count"),
    "fewer frames": ("2\n" + frame(7), "line 30: the file ends before a body count"),
    "more frames": ("1\n" + frame(7) + frame(7), "line 30: 28 lines after the last frame"),
    "cut": (("1\n" + frame(7))[:-30].rsplit("\n", 1)[0], "line 29: the file ends before a joint"),
    "cut in a line": (("1\n" + frame(7))[:-9], r"line 29: '0\.5 .*' is not a joint of 12 numbers"),
    "joint count": (changed(4, "20"), r"line 4: 20 joints\. Fix: NTU RGB\+D has 25"),
    "body": (changed(3, "7 0 1 1 1 1 0 -0.11 0.14"), "line 3: .* is not a body of 10 numbers"),
    "body number": (changed(3, "7 0 1 1 x 1 0 -0.11 0.14 2"), "line 3: body with could not convert .*x"),
    "float id": (changed(3, "7.2e16 0 1 1 1 1 0 -0.11 0.14 2"), r"line 3: bodyID '7\.2e16'"),
    "large id": (changed(3, f"{2**63} 0 1 1 1 1 0 -0.11 0.14 2"), "line 3: bodyID '9223372036854775808'"),
    "joint number": (changed(9, JOINT.replace("3.5", "3,5")), "line 9: joint with could not convert .*3,5"),
    "underscore": (changed(9, JOINT.replace("100.5", "1_00.5")), "line 9: .* is not a joint"),
    "tracking state": (changed(9, JOINT[:-1] + "3"), "line 9: joint with tracking state 3"),
    "fraction": (changed(9, JOINT[:-1] + "1.5"), r"line 9: joint with tracking state 1\.5"),
    "two of one id": ("1\n" + frame(7, 7), "line 30: body 7 is twice in frame 0"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_faults_name_file_and_line(tmp_path: Path, fault: str) -> None:
    content, message = BROKEN[fault]
    with pytest.raises(InputError, match=rf"s\.skeleton {message}") as caught:
        read(tmp_path, content)
    assert ". Fix: " in str(caught.value)


def test_other_bytes_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1: .* is not a frame count"):
        read(tmp_path, b"\xff\xfe\x00 \x00")
    with pytest.raises(InputError, match=r"gone\.skeleton: cannot be read"):
        read_skeleton_file(tmp_path / "gone.skeleton")
