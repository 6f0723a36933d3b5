"""One person in the formats of other tools reads the same; each way a file can be broken is named."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pose_files import (
    HEIGHT,
    N_FRAMES,
    WIDTH,
    Joints,
    alphapose_of,
    coco_of,
    flat,
    landmarks_of,
    moving_person,
    shares,
    write_json,
    write_openpose,
)
from test_pyskl import content, flat_item

from oskar.data.formats.pyskl import PysklSample
from oskar.errors import InputError
from oskar.preparation.detections import Detections
from oskar.preparation.sidecars.captions import read_caption
from oskar.preparation.sidecars.find import SidecarFiles, find_sidecars
from oskar.preparation.sidecars.read import plain_json, read_poses
from oskar.preparation.sidecars.video_facts import VideoFacts

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
FACTS = VideoFacts(n_frames=N_FRAMES, size=(WIDTH, HEIGHT))


def read(folder: Path, facts: VideoFacts = FACTS, sample: PysklSample | None = None) -> tuple[Detections, str]:
    files = find_sidecars(["clip"], [folder], folder / "nowhere")["clip"]
    plain, _ = plain_json(files)
    found = read_poses(files, plain, sample, Path("poses.pkl"), facts)
    assert found is not None
    return found


def write_npz(folder: Path, joints: Joints) -> None:
    np.savez(
        folder / "clip.npz", joints=joints.astype(np.float32), layout=np.array("COCO-17"), units=np.array("pixels")
    )


Write = Callable[[Path, Joints], object]
FORMATS: dict[str, tuple[str, Write]] = {
    "own": ("npz", write_npz),
    "coco": ("coco", lambda folder, joints: write_json(folder / "clip.json", coco_of(joints))),
    "coco of larger images": (
        "coco",
        lambda folder, joints: write_json(folder / "clip.json", coco_of(joints, scale=3)),
    ),
    "coco from frame 1": (
        "coco",
        lambda folder, joints: write_json(folder / "clip.coco.json", coco_of(joints, first=1)),
    ),
    "alphapose": ("alphapose", lambda folder, joints: write_json(folder / "clip.json", alphapose_of(joints))),
    "alphapose, its own name": (
        "alphapose",
        lambda folder, joints: write_json(folder / "clip" / "alphapose-results.json", alphapose_of(joints, first=1)),
    ),
    "openpose": ("openpose", lambda folder, joints: write_openpose(folder / "clip", joints)),
    "openpose beside the video": ("openpose", write_openpose),
    "openpose from frame 1": ("openpose", lambda folder, joints: write_openpose(folder, joints, first=1)),
    "openpose in shares": ("openpose", lambda folder, joints: write_openpose(folder / "clip", shares(joints))),
    "mediapipe": (
        "mediapipe",
        lambda folder, joints: write_json(folder / "clip.json", [landmarks_of(person) for person in joints]),
    ),
    "mediapipe, numbered": (
        "mediapipe",
        lambda folder, joints: write_json(
            folder / "clip.mediapipe.json",
            {"frames": [{"frame": t, "landmarks": [landmarks_of(person)]} for t, person in enumerate(joints)][::-1]},
        ),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_person(name: str, tmp_path: Path) -> None:
    expected_format, write = FORMATS[name]
    joints = moving_person(3)
    write(tmp_path, joints)
    found, said = read(tmp_path)
    assert expected_format in said
    assert found.frame_idx.tolist() == list(range(N_FRAMES))
    np.testing.assert_allclose(found.joints, shares(joints), atol=2e-6)


def test_boxes_scores_and_tracks_come_along(tmp_path: Path) -> None:
    first, second = moving_person(1), moving_person(2)
    write_json(tmp_path / "clip.json", alphapose_of(first, track=4) + alphapose_of(second, track=2))
    found, _ = read(tmp_path)
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [4, 2] * N_FRAMES
    assert (found.scores == 2.5).all()
    low, high = shares(first)[0, :, :2].min(axis=0), shares(first)[0, :, :2].max(axis=0)
    np.testing.assert_allclose(found.boxes[0], [*low, *high], atol=1e-6)
    write_json(tmp_path / "clip.json", alphapose_of(first, track=None))
    assert read(tmp_path)[0].track_ids is None


def test_alphapose_with_more_joints_keeps_cocos(tmp_path: Path) -> None:
    joints = moving_person(1)
    people = alphapose_of(joints)
    for person in people:
        person["keypoints"] += [0.0] * 27
    write_json(tmp_path / "clip.json", people)
    np.testing.assert_allclose(read(tmp_path)[0].joints, shares(joints), atol=2e-6)


def test_visibilities_of_coco_become_confidences(tmp_path: Path) -> None:
    joints = moving_person(1)
    joints[..., 2] = np.arange(17) % 3
    write_json(tmp_path / "clip.json", coco_of(joints))
    found, _ = read(tmp_path)
    assert found.joints[0, :, 2].tolist() == [0, 1, 1] * 5 + [0, 1]


def test_openpose_with_18_joints(tmp_path: Path) -> None:
    """COCO-18 is BODY_25 without the middle of the hips and the feet."""
    order = (
        0,
        17,
        6,
        8,
        10,
        5,
        7,
        9,
        12,
        14,
        16,
        11,
        13,
        15,
        2,
        1,
        4,
        3,
    )  # 17 stands for the neck, from OpenPose's page
    joints = moving_person(1)
    for t, person in enumerate(joints):
        body = np.concatenate([person, [[30.0, 20.0, 0.9]]])[list(order)]
        write_json(tmp_path / f"clip_{t}_keypoints.json", {"people": [{"pose_keypoints_2d": flat(body)}]})
    np.testing.assert_allclose(read(tmp_path)[0].joints, shares(joints), atol=2e-6)


def test_openpose_tracks_and_frames_without_people(tmp_path: Path) -> None:
    write_openpose(tmp_path, moving_person(1))
    path = tmp_path / "clip_000000000003_keypoints.json"
    write_json(path, {"people": []})
    found, _ = read(tmp_path)
    assert found.frame_idx.tolist() == [0, 1, 2, 4, 5]
    assert found.track_ids is None
    for file in tmp_path.glob("*_keypoints.json"):
        file.write_text(file.read_text().replace('"person_id": [-1]', '"person_id": [8]'))
    tracked = read(tmp_path)[0].track_ids
    assert tracked is not None
    assert set(tracked.tolist()) == {8}


def test_frames_that_start_in_the_middle_need_to_be_told(tmp_path: Path) -> None:
    """Frames 1 to 3 of 6: as they are, unless the first frame is said to be 1."""
    write_openpose(tmp_path, moving_person(1)[:3], first=1)
    assert read(tmp_path)[0].frame_idx.tolist() == [1, 2, 3]
    told = VideoFacts(n_frames=N_FRAMES, size=(WIDTH, HEIGHT), first_frame=1)
    assert read(tmp_path, told)[0].frame_idx.tolist() == [0, 1, 2]


def test_frames_without_numbers_are_at_their_place_in_the_list(tmp_path: Path) -> None:
    frames = [None, *(landmarks_of(person) for person in moving_person(1)[:3])]
    write_json(tmp_path / "clip.json", frames)
    told = VideoFacts(n_frames=N_FRAMES, size=(WIDTH, HEIGHT), first_frame=1)
    assert read(tmp_path, told)[0].frame_idx.tolist() == [1, 2, 3]


def test_only_the_very_number_of_frames_says_that_they_count_from_1(tmp_path: Path) -> None:
    """Frames 1 and 8 of a video of 6: nothing is shifted, and the number in the file is the one named."""
    for frame in (1, 8):
        write_openpose(tmp_path, moving_person(1)[:1], first=frame)
    with pytest.raises(InputError, match="frame 8: the video has 6 frames"):
        read(tmp_path)


def test_a_pyskl_sample_is_in_its_own_pixels(tmp_path: Path) -> None:
    item = flat_item("clip", 0, 2, N_FRAMES)
    from test_pyskl import load

    sample = load(tmp_path, {"split": {}, "annotations": [item]}).samples["clip"]
    found, said = read(tmp_path, sample=sample)
    assert said == "pyskl"
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [0, 1] * N_FRAMES
    expected = item["keypoint"][1, 2].astype(np.float32) / (1920, 1080)
    np.testing.assert_allclose(found.joints[5, :, :2], expected, rtol=1e-5)
    np.testing.assert_allclose(found.joints[5, :, 2], item["keypoint_score"][1, 2], rtol=1e-3)


def test_3d_poses_do_not_lie_on_a_video(tmp_path: Path) -> None:
    from test_pyskl import load, solid_item

    name = "S001C001P001R001A001"
    sample = load(tmp_path, content(solid_item)).samples[name]
    with pytest.raises(InputError, match=rf"poses.pkl \({name}\): joints in metres do not lie on the video"):
        read(tmp_path, sample=sample)
    joints = np.random.default_rng(0).normal(0, 1, (N_FRAMES, 17, 3))
    np.savez(tmp_path / "clip.npz", joints3d=joints, layout=np.array("COCO-17"))
    with pytest.raises(InputError, match=r"clip.npz: joints in metres"):
        read(tmp_path)


def test_joints_of_another_video_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path, moving_person(1, n_frames=9))
    with pytest.raises(InputError, match=r"clip.npz: 9 frames of joints for 6 frames of video.*Fix: give one row"):
        read(tmp_path)


def test_two_files_of_poses_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "clip.json", coco_of(moving_person(1)))
    write_openpose(tmp_path / "clip", moving_person(1))
    with pytest.raises(InputError, match=r"holds poses of the same video. Fix: keep one"):
        read(tmp_path)


def broken_coco(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    whole = coco_of(moving_person(1))
    change(whole)
    return whole


def broken_alphapose(**change: object) -> list[dict[str, Any]]:
    people = alphapose_of(moving_person(1))
    people[2] |= change
    return people


def broken_mediapipe(**change: object) -> list[Any]:
    frames: list[Any] = [landmarks_of(person) for person in moving_person(1)]
    frames[2][4] |= change
    return frames


# fmt: off
BROKEN: list[tuple[object, str]] = [
    ([{"image_id": "a.jpg", "keypoints": [1.0] * 51}], "person 0: 'a.jpg' holds no frame number"),
    (broken_coco(lambda c: c["annotations"][1].update(image_id=7)), "annotation 1: image_id '7' is no image"),
    (broken_coco(lambda c: c["annotations"][1].update(keypoints=[1.0] * 50)), "1: keypoints holds 50 numbers"),
    (broken_coco(lambda c: c["annotations"][1].update(keypoints=[1.0] * 48)), "frame 1: 16 joints, layout COCO-17"),
    (broken_coco(lambda c: c["annotations"][1].update(keypoints=["1"] * 51)), "keypoints is '1', not a number"),
    (broken_coco(lambda c: c["annotations"][1].update(bbox=[1, 2, 3])), "annotation 1: box is 3 values"),
    (broken_coco(lambda c: c["annotations"][1].update(track_id=1.5)), "annotation 1: track 1.5"),
    (broken_coco(lambda c: c["images"][1].pop("file_name")), "image 101: file_name is missing"),
    (broken_coco(lambda c: c["images"][1].update(width=0)), "image 101: 0 x 48 pixels"),
    (broken_coco(lambda c: c["images"][1].update(width=640)), "images of sizes"),
    (broken_coco(lambda c: c.update(annotations={})), "annotations is a dict"),
    (broken_alphapose(image_id="77.jpg"), "frame 77: the video has 6 frames, counted from 0"),
    (broken_alphapose(image_id=None), "person 2: image_id 'None'"),
    (broken_alphapose(score="high"), "person 2: score is 'high', not a number"),
    (broken_alphapose(idx=[1, 2]), "person 2: track is"),
    (broken_mediapipe(x=None), "frame 2, landmark 4: x is 'None', not a number"),
    (broken_mediapipe(visibility=7), "frame 2: confidences from .* to 7"),
    ([[{"x": 0.1, "y": 0.1, "visibility": 1.0}] * 32] * N_FRAMES, "32 joints, layout MediaPipe-33 has 33"),
    ({"frames": [{"frame": 1, "landmarks": []}, {"frame": 1, "landmarks": []}]}, "a frame is there twice"),
    ({"frames": [{"hands": []}]}, "frame 0: no landmarks"),
    ({"frames": [3]}, "frame 0: '3'"),
    ("poses", "neither poses .* nor details of a clip"),
    ({"kaption": "a dog"}, "unknown key 'kaption'. Fix: did you mean caption"),
    ([1, 2], "neither poses .* nor details of a clip"),
]
# fmt: on


@pytest.mark.parametrize(("stored", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_pose_files(stored: object, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "clip.json", stored)
    with pytest.raises(InputError, match=rf"(?s)clip\.json.*{message}"):
        read(tmp_path)


def test_a_truncated_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_json(tmp_path / "clip.json", coco_of(moving_person(1)))
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match=r"clip.json line 1: not JSON"):
        read(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"clip.json line 1: not UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text('{"people": 3}'), "people is a int"),
        (lambda path: path.write_text('{"people": [{}]}'), "person 0: pose_keypoints_2d is missing"),
        (lambda path: path.write_text('{"people": [{"pose_keypoints_2d": [1, 2]}]}'), "holds 2 numbers"),
        (lambda path: path.write_text('{"people": [{"pose_keypoints_2d": [1, 2, 0.5]}]}'), "1 joints"),
        (lambda path: path.write_text("{"), "not JSON"),
        (lambda path: path.rename(path.with_name("clip_000000000007_keypoints.json")), "frame 7: the video has 6"),
        (lambda path: path.rename(path.with_name("clip_03_keypoints.json")), "frame 3 is there twice"),
    ],
)
def test_broken_openpose_files(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write_openpose(tmp_path, moving_person(1))
    change(tmp_path / "clip_000000000002_keypoints.json")
    with pytest.raises(InputError, match=f"{message}.*Fix: "):
        read(tmp_path)


SRT = (
    "1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>A man</i> runs\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\nand jumps\r\n"
)
VTT = (
    "WEBVTT - a title\n\nNOTE\nnobody reads this\n\nSTYLE\n::cue { color: red }\n\n"
    "00:01.000 --> 00:02.000 align:start\n<v Ann>A man <00:01.500>runs &amp; jumps\n\n"
    "intro\n01:00:02.000 --> 01:00:03.000\nA man runs &amp; jumps\nand falls\n"
)


@pytest.mark.parametrize(
    ("name", "text", "caption"),
    [
        ("clip.txt", "  two\n lines \n", "two lines"),
        ("clip.srt", SRT, "A man runs and jumps"),
        ("clip.srt", "\ufeff" + SRT, "A man runs and jumps"),
        ("clip.vtt", VTT, "A man runs & jumps and falls"),
    ],
)
def test_captions(name: str, text: str, caption: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_caption(tmp_path / name) == caption


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("clip.txt", b" \n", "holds no text"),
        ("clip.txt", b"caf\xe9", "line 1: not UTF-8"),
        ("clip.srt", b"A man runs", "holds no cue"),
        ("clip.vtt", SRT.encode(), "line 1: '1.*, not WEBVTT. Fix: call SubRip files .srt"),
        ("clip.vtt", b"WEBVTT\n\n00:01.000 --> 00:02.000\n\n", "holds no text"),
    ],
)
def test_broken_captions(name: str, text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        read_caption(tmp_path / name)


def test_which_files_belong_to_which_video(tmp_path: Path) -> None:
    names = ("a.json", "a.txt", "ab.json", "sub/a.srt", "sub/a.coco.json", "a/0_keypoints.json", "a_1_keypoints.json")
    for name in (*names, "out/a.npz", "b_1_keypoints.json", "sub/a.old.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_sidecars(["a", "sub/a"], [tmp_path], tmp_path / "out")
    assert found["a"] == SidecarFiles(
        plain=(tmp_path / "a.json",),
        captions=(tmp_path / "a.txt",),
        openpose=(tmp_path / "a" / "0_keypoints.json", tmp_path / "a_1_keypoints.json"),
    )
    assert found["sub/a"] == SidecarFiles(
        poses=(tmp_path / "sub" / "a.coco.json",), captions=(tmp_path / "sub" / "a.srt",)
    )


def test_real_joints_in_two_formats_agree(tmp_path: Path) -> None:
    """Push-ups seen by MediaPipe and by MoveNet: each written out as a file of its format and read again."""
    folder = DATA_DIR / "pushup"
    if not folder.is_dir():
        pytest.skip("shared/data/pushup is not there")
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[::40]
    for row in rows:
        n_frames, size = int(row["n_frames"]), (float(row["width"]), float(row["height"]))
        facts = VideoFacts(n_frames=n_frames, size=size)
        with np.load(folder / row["joints_path"]) as arrays:
            media, move = arrays["mediapipe"], arrays["movenet"]
        frames = [
            None
            if np.isnan(person).any()
            else [dict(zip(("x", "y", "z", "visibility"), map(float, landmark), strict=True)) for landmark in person]
            for person in media
        ]
        write_json(tmp_path / "clip.json", frames)
        by_mediapipe, _ = read(tmp_path, facts)
        original = (float(row["src_width"]), float(row["src_height"]))
        pixels = move * np.array([*original, 1.0])
        people = [
            {"image_id": t, "category_id": 1, "keypoints": flat(np.nan_to_num(person)), "score": 0.9}
            for t, person in enumerate(pixels * np.array([*(np.array(size) / original), 1.0]))
        ]
        write_json(tmp_path / "clip.json", people)
        by_movenet, _ = read(tmp_path, facts)
        is_seen = np.isfinite(move).all(axis=(1, 2)) & (np.nan_to_num(move[..., 2]) > 0).any(axis=1)
        assert by_movenet.frame_idx.tolist() == np.flatnonzero(is_seen).tolist()
        np.testing.assert_allclose(by_movenet.joints[:, :, :2], move[is_seen][..., :2], atol=1e-5)
        shared = np.intersect1d(by_mediapipe.frame_idx, by_movenet.frame_idx)
        pairs = [found.joints[np.isin(found.frame_idx, shared), 5:, :2] for found in (by_mediapipe, by_movenet)]
        assert np.nanmedian(np.abs(pairs[0] - pairs[1])) < 0.05  # two networks on the same frames


def test_json_of_numbers_that_are_none_is_read_as_unknown(tmp_path: Path) -> None:
    """NaN is not JSON, but Python writes it: the joint is unknown, not an error."""
    joints = moving_person(1)
    people = alphapose_of(joints)
    people[0]["keypoints"][0] = float("nan")
    (tmp_path / "clip.json").write_text(json.dumps(people))
    found, _ = read(tmp_path)
    assert found.joints[0, 0, 2] == 0
    assert np.isnan(found.joints[0, 0, :2]).all()
