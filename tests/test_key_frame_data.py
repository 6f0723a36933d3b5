"""Key frames with people: of the built-in people, folders with boxes, AVA's files; crops that move boxes along."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from key_frames import BOXES, COLOURS, actions_of, ava_folder, write_rows
from numpy.typing import NDArray
from runs import noise_video, shrunk, write_index, write_video
from torch import Tensor

from oskar.config import Config
from oskar.data.boxes import LabelledBoxes
from oskar.data.key_frame_data import FolderKeyFrames, KeyFrameData, PeopleKeyFrames
from oskar.data.key_frame_reader import KeyFrameClips, KeyFrameReader, images_to_learn_from
from oskar.data.open_key_frames import open_key_frames
from oskar.data.people import ACTIONS, IDLE, PeopleWorld, generate
from oskar.data.people_reader import N_LABELLED, PeopleData
from oskar.data.reader import EvaluationWindow, TrainingDraw
from oskar.errors import InputError

JHMDB = Path(__file__).parents[2] / "shared" / "data" / "jhmdb_masks"


@pytest.fixture
def config() -> Config:
    """Clips of 4 frames, 2 apart, on 32 x 32 pixels."""
    config = shrunk("oskar-tiny")
    clip = replace(config.clip, temporal="stride", stride_frames=2, crop_scale=(0.3, 0.8))
    return replace(config, tokens=replace(config.tokens, n_frames=4), clip=clip)


def opened(data: Path | str, config: Config, split: str = "train", **settings: Any) -> KeyFrameData:
    chosen: dict[str, Any] = {"n_windows": 1, "stride_frames": 1, "movie_start_seconds": 0.0} | settings
    return open_key_frames([str(data)], config, split, **chosen)


def people_of(truth: LabelledBoxes) -> list[tuple[str, list[float], list[int]]]:
    """Image, box and classes of everybody."""
    return [
        (
            truth.images[truth.image_idx[i]],
            truth.boxes[i].tolist(),
            sorted(truth.class_idx[truth.box_idx == i].tolist()),
        )
        for i in range(len(truth.boxes))
    ]


@pytest.mark.parametrize("n_frames", [4, 16])
def test_people_do_what_their_tracks_say(config: Config, n_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key frame of 4 frames lies in second 0, that of 16 in second 1, where some actors already idle."""
    monkeypatch.setitem(N_LABELLED, "test", 70)
    config = replace(config, tokens=replace(config.tokens, n_frames=n_frames))
    data = PeopleKeyFrames(PeopleData(seed=3), config, "test")
    drawn = generate(PeopleWorld(n_frames=n_frames, resolution=32, n_people=2), torch.arange(70), 3, "test")
    key_frame = n_frames // 2
    expected = []
    for clip in range(70):
        for person in range(2):
            box = drawn.boxes[clip, person, key_frame].tolist()
            if box[2] > box[0]:
                action = int(drawn.tracks[clip, person, key_frame // 8])
                expected.append((f"people/3/test/{clip:06d},{key_frame:04d}", box, [] if action == IDLE else [action]))
    assert people_of(data.truth) == expected
    assert {len(classes) for _, _, classes in expected} == {0, 1}
    assert list(data.classes.values()) == list(ACTIONS)
    read = data.read([data.truth.images[5], data.truth.images[2]])
    assert torch.equal(torch.stack([r for r in read if isinstance(r, Tensor)]), drawn.frames[[5, 2]])


def test_people_know_their_splits_and_sizes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(N_LABELLED, "train", 4)
    monkeypatch.setitem(N_LABELLED, "test", 4)
    assert opened("people", config, "train").sha256 != opened("people", config, "test").sha256
    assert opened("people", config).sha256 != opened("people:9:1", config).sha256
    with pytest.raises(InputError, match=r"no split 'val'.*train or test"):
        opened("people", config, "val")
    with pytest.raises(InputError, match=r"tokens.n_people = 1.*2 or 3"):
        opened("people", replace(config, tokens=replace(config.tokens, n_people=1)))


def box_folder(folder: Path) -> Path:
    """Clips of 12 frames of 32 x 32: one with two people, one in shares, one short, and some without use."""
    tracks = np.tile(np.array([[8.0, 4, 24, 28]], dtype=np.float32), (12, 1)) + np.arange(12)[:, None] * 0.5
    other = np.full((12, 4), np.nan, dtype=np.float32)
    other[6:] = [0, 0, 8, 40]  # beyond the lower edge
    files: dict[str, dict[str, NDArray[Any]]] = {
        "a": {"boxes": np.stack([tracks, other])},
        "b": {"boxes": tracks / 32, "units": np.array("share")},
        "c": {"boxes": tracks[:3]},
        "d": {"boxes": tracks},
        "e": {"joints2d": np.zeros((12, 17, 2), dtype=np.float32)},
    }
    rows: list[dict[str, object]] = []
    for i, (name, arrays) in enumerate(files.items()):
        noise_video(folder / f"{name}.mkv", n_frames=12, seed=i)
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        label = "" if name == "d" else "xyz"[i % 3]
        row = {"clip_id": name, "path": f"{name}.mkv", "joints_path": f"{name}.npz", "label": label, "split": "train"}
        rows.append({**row, "has_joints": int(name == "e")})
    noise_video(folder / "f.mkv")
    rows.append({"clip_id": "f", "path": "f.mkv", "label": "x", "split": "train"})
    return write_index(folder, rows)


def test_folders_have_a_key_frame_in_every_window(config: Config, tmp_path: Path) -> None:
    folder = box_folder(tmp_path / "data")
    data = opened(folder, config)
    # The middle window of 12 frames starts at frame 2: frames 2, 4, 6, 8. The short clip shows 0, 2, 2, 2.
    moved = [8 + 3, 4 + 3, 24 + 3, 28 + 3]
    assert people_of(data.truth) == [
        ("a,0006", [v / 32 for v in moved], [0]),
        ("a,0006", [0.0, 0.0, 0.25, 1.0], [0]),
        ("b,0006", pytest.approx([v / 32 for v in moved]), [1]),
        ("c,0002", [9 / 32, 5 / 32, 25 / 32, 29 / 32], [2]),
    ]
    assert (data.n_classes, data.n_left_out, data.name) == (3, 3, "data")
    (read,) = data.read(["b,0006"])
    assert isinstance(read, Tensor)
    assert read.shape[:2] == (4, 3)
    windows = opened(folder, config, n_windows=3)
    assert windows.truth.images == ("a,0004", "a,0006", "a,0008", "b,0004", "b,0006", "b,0008", "c,0002")
    assert people_of(windows.truth)[0][1][0] == (8 + 2) / 32
    assert len([p for p in people_of(windows.truth) if p[0] == "a,0004"]) == 1  # the other is not there yet


def test_wrong_boxes_are_named(config: Config, tmp_path: Path) -> None:
    folder = box_folder(tmp_path / "data")
    np.savez(folder / "b.npz", boxes=np.zeros((12, 5), np.float32))
    with pytest.raises(InputError, match=r"b.npz: boxes float32 of shape \[12, 5\].*\[frames, 4\]"):
        opened(folder, config)
    (folder / "b.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"b.npz"):
        opened(folder, config)
    rows: list[dict[str, object]] = [{"clip_id": "f", "path": "f.mkv", "label": "x", "split": "train"}]
    noise_video(tmp_path / "none" / "f.mkv")
    with pytest.raises(InputError, match=r"no labelled clip has a video and boxes.*joints_path"):
        opened(write_index(tmp_path / "none", rows), config)


@pytest.mark.skipif(not JHMDB.is_dir(), reason=f"not there: {JHMDB}")
def test_jhmdb(config: Config) -> None:
    """Split 1: 336 and 135 clips, one key frame and one person each, boxes as the files have them."""
    config = replace(config, tokens=replace(config.tokens, n_frames=16))
    for split, n in (("train", 336), ("test", 135)):
        data = opened(JHMDB, config, split)
        assert isinstance(data, FolderKeyFrames)
        assert len(data.truth.images) == n == len(data.truth.boxes)
        assert (data.n_classes, data.n_left_out, len(set(data.truth.class_idx.tolist()))) == (21, 0, 14)
        for image, box, (class_idx,) in people_of(data.truth)[::20]:
            clip_id, _, number = image.rpartition(",")
            assert clip_id.startswith(data.classes[class_idx])
            with np.load(JHMDB / "joints" / f"{clip_id}.npz") as arrays:
                pixels = arrays["boxes"][int(number)].astype(float)
                assert abs(int(number) - len(arrays["boxes"]) / 2) <= 4
            assert box == pytest.approx((pixels / [320, 240, 320, 240]).tolist())


def seen_in(frame: Tensor) -> tuple[int, ...]:
    """The classes whose colours are nearest to those of the left and the right person."""
    scale = frame.shape[-1] / 32
    pixels = [frame[:, int(16 * scale), int(x * scale)].float() for x in (8, 24)]
    return tuple(min(COLOURS, key=lambda i: float((p - torch.tensor(COLOURS[i])).abs().sum())) for p in pixels)


def test_ava_images_are_seconds_of_movies(config: Config, tmp_path: Path) -> None:
    folder = ava_folder(tmp_path / "ava", n_seconds=4, excluded=(3,))
    data = opened(folder, config, "val")
    done = actions_of(ord("C"), 4)
    assert people_of(data.truth) == [
        (f"movieC,{second:04d}", list(box), sorted([class_id - 1, 11]))
        for second, ids in enumerate(done, start=1)
        for class_id, box in zip(ids, BOXES, strict=True)
    ]
    assert data.excluded == {"movieC,0003"}
    assert images_to_learn_from(data.truth, data.excluded) == tuple(f"movieC,000{s}" for s in (1, 2, 4))
    assert dict(data.classes) == {i - 1: f"class {i}" for i in COLOURS}
    assert [data.has_image(i) for i in ("movieC,0002", "movieC,1234", "movieA,0002")] == [True, True, False]
    for second, ids in enumerate(done, start=1):
        (frames,) = data.read([f"movieC,{second:04d}"])
        assert isinstance(frames, Tensor)
        assert [seen_in(frame) for frame in frames] == [ids] * 4
    (late,) = data.read(["movieC,0099"])
    assert isinstance(late, InputError)
    shifted = opened(folder, config, "val", movie_start_seconds=1.0)  # its first frame is called second 1
    (renamed,), (original,) = shifted.read(["movieC,0002"]), data.read(["movieC,0001"])
    assert isinstance(renamed, Tensor)
    assert isinstance(original, Tensor)
    assert torch.equal(renamed, original)
    wide = opened(folder, config, "val", stride_frames=10).read(["movieC,0002"])[0]
    assert isinstance(wide, Tensor)
    assert [seen_in(frame) for frame in wide] == [done[0], done[1], done[1], done[2]]  # frames 34, 44, 54, 64


def test_wrong_ava_folders_are_refused(config: Config, tmp_path: Path) -> None:
    folder = ava_folder(tmp_path / "ava", n_seconds=1)
    class_list = folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt"
    text = class_list.read_text()
    with pytest.raises(InputError, match=r"no ava_test_v2.2.csv.*ava_train_v2.2.csv, ava_val_v2.2.csv"):
        opened(folder, config, "test")
    class_list.write_text(text.replace("id: 80", "id: 81"))
    with pytest.raises(InputError, match=r"pbtxt: id 81.*1 to 80"):
        opened(folder, config)
    class_list.rename(folder / "ava_action_list_v2.2.pbtxt")
    (folder / "ava_action_list_v2.2.pbtxt").write_text(text)
    assert len(opened(folder, config).classes) == 3  # the only list there is
    (folder / "ava_action_list_other.pbtxt").write_text(text)
    with pytest.raises(InputError, match=r"2 files ava_action_list"):
        opened(folder, config)
    (folder / "ava_action_list_other.pbtxt").unlink()
    write_rows(folder / "ava_val_v2.2.csv", [("movieC", "0001", *BOXES[0], 81, 0)])
    with pytest.raises(InputError, match=r"ava_val_v2.2.csv: action_id 81.*1 to 80"):
        opened(folder, config, "val")


def white_box_folder(folder: Path) -> tuple[Path, tuple[int, int, int, int]]:
    """A black video of 48 x 64 pixels with a white person in its lower right."""
    x1, y1, x2, y2 = corners = 40, 20, 56, 44
    frames = np.zeros((12, 48, 64, 3), np.uint8)
    frames[:, y1:y2, x1:x2] = 255
    write_video(folder / "a.mkv", frames)
    np.savez(folder / "a.npz", boxes=np.tile(np.array(corners, dtype=np.float32), (12, 1)))
    row = {"clip_id": "a", "path": "a.mkv", "joints_path": "a.npz", "label": "x", "split": "train", "has_joints": 0}
    return write_index(folder, [row]), corners


@pytest.mark.parametrize("flip_probability", [0.0, 1.0])
def test_boxes_move_with_the_pixels(config: Config, tmp_path: Path, flip_probability: float) -> None:
    """Where the white pixels lie in crop after crop is where the box says, and somebody is always kept."""
    folder, _ = white_box_folder(tmp_path / "data")
    data = opened(folder, config)
    reader = KeyFrameReader(
        data, data.truth.images, data.truth, config, is_augmented=True, flip_probability=flip_probability
    )
    crops = []
    for step in range(40):
        clips = reader.read([0], TrainingDraw(0, step)).clips
        assert isinstance(clips, KeyFrameClips)
        assert clips.frames is not None
        rows, columns = (clips.frames[0, 2, 0] > 127).nonzero(as_tuple=True)
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 32
        torch.testing.assert_close(clips.person_boxes[0], seen, atol=1.5 / 32, rtol=0)
        assert (clips.clip_idx.tolist(), clips.box_idx.tolist()) == ([0], [0])
        crops.append(tuple(clips.person_boxes[0].tolist()))
    assert len(set(crops)) > 30
    whole = reader.read([0], EvaluationWindow()).clips
    assert isinstance(whole, KeyFrameClips)
    assert whole.person_boxes.tolist() == [pytest.approx([40 / 64, 20 / 48, 56 / 64, 44 / 48])]


def test_mirrored_crops_are_the_others_mirrored(config: Config, tmp_path: Path) -> None:
    data = opened(box_folder(tmp_path / "data"), config)
    plain, mirrored = (
        KeyFrameReader(data, data.truth.images, data.truth, config, is_augmented=True, flip_probability=p).read(
            [0, 1, 2], TrainingDraw(0, 0)
        )
        for p in (0.0, 1.0)
    )
    assert isinstance(plain.clips, KeyFrameClips)
    assert isinstance(mirrored.clips, KeyFrameClips)
    assert plain.clips.frames is not None
    assert mirrored.clips.frames is not None
    assert torch.equal(mirrored.clips.frames, plain.clips.frames.flip(-1))
    x1, y1, x2, y2 = plain.clips.person_boxes.T
    torch.testing.assert_close(mirrored.clips.person_boxes, torch.stack([1 - x2, y1, 1 - x1, y2], 1))


def test_who_is_outside_a_crop_is_left_out(config: Config, tmp_path: Path) -> None:
    """A crop of 0.3 or more misses the person on the far left at times, the one in the middle never."""
    data = opened(box_folder(tmp_path / "data"), config)
    reader = KeyFrameReader(data, data.truth.images, data.truth, config, is_augmented=True)
    met = set()
    for step in range(80):
        clips = reader.read([2, 0], TrainingDraw(0, step)).clips
        assert isinstance(clips, KeyFrameClips)
        of_two = clips.clip_idx == 1
        rows = clips.box_idx[of_two].tolist()
        widths = clips.person_boxes[of_two, 2] - clips.person_boxes[of_two, 0]
        assert len(rows) == len(widths) > 0
        assert bool((widths > 0).all())
        assert clips.box_idx[~of_two].tolist() == [3]
        met.add(tuple(rows))
    assert met == {(0, 1), (0,)}


def test_crops_do_not_depend_on_the_batch(config: Config, tmp_path: Path) -> None:
    folder = box_folder(tmp_path / "data")
    data = opened(folder, config, n_windows=3)
    reader = KeyFrameReader(data, data.truth.images, data.truth, config, is_augmented=True)
    together = reader.read(range(7), TrainingDraw(1, 5)).clips
    assert isinstance(together, KeyFrameClips)
    assert together.frames is not None
    for i in range(7):
        alone = reader.read([i], TrainingDraw(1, 5)).clips
        assert isinstance(alone, KeyFrameClips)
        assert alone.frames is not None
        assert torch.equal(alone.frames[0], together.frames[i])
        of_clip = together.clip_idx == i
        assert torch.equal(alone.person_boxes, together.person_boxes[of_clip])
        assert torch.equal(alone.box_idx, together.box_idx[of_clip])


def test_unreadable_clips_are_listed_and_the_others_keep_their_people(config: Config, tmp_path: Path) -> None:
    folder = box_folder(tmp_path / "data")
    (folder / "a.mkv").write_bytes(b"broken")
    data = opened(folder, config)
    reader = KeyFrameReader(data, data.truth.images, data.truth, config)
    read = reader.read([0, 1, 2], EvaluationWindow())
    assert [name for name, _ in read.bad] == ["a,0006"]
    assert isinstance(read.clips, KeyFrameClips)
    assert read.clips.box_idx.tolist() == [2, 3]
    assert read.clips.clip_idx.tolist() == [0, 1]
    assert reader.read([0], EvaluationWindow()).clips is None
