"""Readers: pooled data, evaluation reads, joints on the pixels, which captions count."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import noise_video, packed_folder, shrunk, video_folder, write_index, write_video

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data import people_reader
from oskar.data.folder_reader import FolderReader
from oskar.data.manifest import read_manifest
from oskar.data.open import OpenedData, open_split, open_training
from oskar.data.people_reader import PeopleReader
from oskar.data.pooled_reader import PooledReader
from oskar.data.reader import ClipReader, Draw, EvaluationWindow, TrainingDraw
from oskar.errors import InputError
from oskar.randomness import hash_id

CAPTIONS = ("a man waves", "a woman kicks a ball", "they sit down")


@pytest.fixture(autouse=True)
def _few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_reader, "_N_CAPTIONS", 64)  # a small vocabulary is enough


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    return replace(config, tokens=replace(config.tokens, n_frames=4))


def full_folder(folder: Path, n: int = 3) -> Path:
    """Videos, joints in pixels and written captions."""
    for i in range(n):
        folder.mkdir(parents=True, exist_ok=True)
        joints = np.random.default_rng(i).uniform(2, 30, (8, 17, 2)).astype(np.float32)
        np.savez(folder / f"v{i}.npz", joints2d=joints, layout=np.array("COCO-17"))
    return video_folder(folder, n, joints_path=lambda i: f"v{i}.npz", caption=lambda i: CAPTIONS[i % 3])


def index_of(reader: ClipReader, clip_id: str) -> int:
    return next(i for i in range(len(reader)) if reader.clip_id(i) == clip_id)


def read(reader: ClipReader, indices: Sequence[int], draw: Draw) -> ClipBatch:
    result = reader.read(indices, draw)
    assert result.bad == ()
    assert result.clips is not None
    return result.clips


def row_of(clips: ClipBatch, clip_id: str) -> dict[str, Any]:
    (place,) = (clips.clip_ids == hash_id(clip_id)).nonzero().squeeze(1).tolist()
    values = {name: getattr(clips, name) for name in ClipBatch.__dataclass_fields__}
    return {name: None if value is None else value[place] for name, value in values.items()}


def test_pooled_data_keep_what_each_clip_has(config: Config, tmp_path: Path) -> None:
    opened = open_training(
        [str(full_folder(tmp_path / "full")), str(packed_folder(tmp_path / "joints", 4)), "people:5"], config
    )
    reader = opened.reader
    assert isinstance(reader, PooledReader)
    assert opened.names == ("full", "joints", "people")
    assert len(reader) == 3 + 2 + 5  # half of the packed clips are for testing
    assert reader.classes == ()
    assert {reader.label(i) for i in range(len(reader))} == {-1}
    assert len({reader.clip_id(i) for i in range(len(reader))}) == 10
    order = [7, 0, 4, 2, 9]  # mixed on purpose
    clips = read(reader, order, TrainingDraw(0, 0))
    assert len(clips) == 5
    assert set(clips.clip_ids.tolist()) == {hash_id(reader.clip_id(i)) for i in order}
    assert clips.labels.tolist() == [-1] * 5
    full, joints, people = (row_of(clips, reader.clip_id(i)) for i in (0, 4, 7))
    assert bool(full["has_video"] & full["has_skeleton"])
    assert int((full["word_ids"] >= 0).sum()) > 0
    assert not joints["has_video"]
    assert joints["has_skeleton"]
    assert int((joints["word_ids"] >= 0).sum()) == 0
    assert not joints["frames"].any()
    assert bool(people["has_video"] & people["has_skeleton"])
    assert people["word_ids"][0] >= 0
    assert clips.frames is not None
    assert clips.frames.shape == (5, 4, 3, 32, 32)
    only_joints = read(reader, [3, 4], TrainingDraw(0, 0))
    assert only_joints.frames is None
    assert only_joints.has_video is None


@pytest.mark.parametrize("draw", [TrainingDraw(3, 5), EvaluationWindow(0, 1), EvaluationWindow(1, 3)])
def test_a_read_depends_on_the_clip_and_the_draw_alone(draw: Draw, config: Config, tmp_path: Path) -> None:
    data = [str(full_folder(tmp_path / "full")), str(packed_folder(tmp_path / "joints", 4)), "people:4"]
    reader = open_training(data, config).reader
    together = read(reader, [5, 0, 1, 3, 2], draw)
    for index in (0, 1, 2, 3, 5):
        alone = row_of(read(reader, [index], draw), reader.clip_id(index))
        again = row_of(read(reader, [index], draw), reader.clip_id(index))
        beside = row_of(together, reader.clip_id(index))
        for name, value in alone.items():
            if value is None and beside[name] is None:
                continue
            if value is None:
                if name not in ("boxes", "word_ids", "tubelets"):
                    assert not beside[name.replace("frames", "has_video").replace("joints", "has_skeleton")].any()
                continue
            assert torch.equal(value, again[name])
            assert torch.equal(value, beside[name])


def test_training_draws_differ_and_evaluation_does_not(config: Config, tmp_path: Path) -> None:
    reader = open_training([str(full_folder(tmp_path / "full"))], config).reader
    draws = [TrainingDraw(0, step) for step in range(4)] + [TrainingDraw(seed, 0) for seed in (1, 2)]
    views = [read(reader, [0], draw).frames for draw in draws]
    for i, a in enumerate(views):
        assert a is not None
        assert not any(b is not None and torch.equal(a, b) for b in views[:i])


def marker_folder(folder: Path) -> Path:
    """A bright square that wanders over a black video; every joint of the file is its centre."""
    n_frames, size = 12, 64
    centres = np.stack([np.linspace(18, 46, n_frames), np.linspace(44, 22, n_frames)], -1)
    frames = np.zeros((n_frames, size, size, 3), np.uint8)
    for frame, (x, y) in zip(frames, centres, strict=True):
        frame[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3] = 255
    write_video(folder / "m.mkv", frames)
    joints = np.repeat((centres.round() + 0.5)[:, None], 17, axis=1)
    np.savez(folder / "m.npz", joints2d=joints.astype(np.float32), layout=np.array("COCO-17"))
    return write_index(folder, [{"clip_id": "m", "path": "m.mkv", "joints_path": "m.npz"}])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_joints_stay_on_the_pixels(flip: float, config: Config, tmp_path: Path) -> None:
    config = replace(config, clip=replace(config.clip, flip_probability=flip, crop_scale=(0.4, 1.0)))
    reader = open_training([str(marker_folder(tmp_path / "marker"))], config).reader
    n_seen = 0
    draws: list[Draw] = [*(TrainingDraw(0, step) for step in range(25)), EvaluationWindow(0, 1)]
    for draw in draws:
        clips = read(reader, [0], draw)
        assert clips.frames is not None
        assert clips.joints is not None
        for frame, joints in zip(clips.frames[0].float().mean(1), clips.joints[0, 0], strict=True):
            if not bool((joints[:, 2] > 0).all()):
                continue
            x, y = joints[0, :2].tolist()
            if not 0.15 < x < 0.85 or not 0.15 < y < 0.85:
                continue  # the square itself may be cut
            weight = frame / frame.sum()
            place = torch.arange(32) + 0.5
            assert float((weight.sum(0) * place).sum()) / 32 == pytest.approx(x, abs=0.02)
            assert float((weight.sum(1) * place).sum()) / 32 == pytest.approx(y, abs=0.02)
            n_seen += 1
    assert n_seen > 40


def test_clips_with_a_caption_are_never_mirrored(config: Config, tmp_path: Path) -> None:
    """A7: "left" and "right" in the caption would be wrong; clips whose caption is not read may be."""
    data = [str(full_folder(tmp_path / "full"))]

    def frames(flip_probability: float, captions: str) -> torch.Tensor:
        overrides = [f"clip.flip_probability={flip_probability}", f"data.captions={captions}"]
        clips = read(open_training(data, config.with_overrides(overrides)).reader, [0, 1, 2], TrainingDraw(0, 0))
        assert clips.frames is not None
        return clips.frames

    assert torch.equal(frames(1.0, "written"), frames(0.0, "written"))
    assert not torch.equal(frames(1.0, "none"), frames(0.0, "none"))


def caption_folder(folder: Path) -> Path:
    return video_folder(
        folder, 4, caption=lambda i: f"someone does {i}", caption_source=lambda i: "written" if i < 2 else "composed"
    )


@pytest.mark.parametrize(("which", "n_with_text"), [("written", 2), ("all", 4), ("none", 0)])
def test_composed_captions_count_only_where_asked(which: str, n_with_text: int, config: Config, tmp_path: Path) -> None:
    config = config.with_overrides([f"data.captions={which}"])
    opened = open_training([str(caption_folder(tmp_path / "c"))], config)
    clips = read(opened.reader, range(4), TrainingDraw(0, 0))
    has_text = [False] * 4 if clips.word_ids is None else (clips.word_ids >= 0).any(1).tolist()
    assert has_text == [i < n_with_text for i in range(4)]
    assert (opened.words is None) == (which == "none")
    if opened.words is not None:  # composed captions do not enter the vocabulary either
        assert ('"2":' in opened.words.to_json()) == (which == "all")


def test_composed_captions_are_off_in_every_recipe() -> None:
    assert shrunk("oskar-small").data.captions == "written"


def test_a_caption_of_any_length_is_cut(config: Config, tmp_path: Path) -> None:
    long = "word " * 2000 + "x" * 10_000
    folder = video_folder(tmp_path / "c", 2, caption=lambda i: long if i else "")
    clips = read(open_training([str(folder)], config).reader, [0, 1], TrainingDraw(0, 0))
    assert clips.word_ids is not None
    assert clips.word_ids.shape == (2, 16)
    assert (clips.word_ids >= 0).sum(1).tolist() == [0, 16]


def test_short_clips_repeat_frames(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    for n in (1, 2, 15):
        noise_video(folder / f"v{n}.mkv", n)
    config = replace(config, tokens=replace(config.tokens, n_frames=16))
    reader = open_training([str(folder)], config).reader
    for draw in (TrainingDraw(0, 0), EvaluationWindow(0, 1), EvaluationWindow(1, 2)):
        clips = read(reader, [0, 1, 2], draw)
        assert clips.frames is not None
        assert clips.frames.shape[1] == 16
    one = index_of(reader, "short/v1")
    frames = read(reader, [one], EvaluationWindow()).frames
    assert frames is not None
    assert bool((frames == frames[:, :1]).all())


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 1e9])
def test_broken_joints_become_unavailable(value: float, config: Config, tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "full", 1)
    joints = np.full((8, 17, 2), 16.0, np.float32)
    joints[:, 3] = value
    joints[2] = value
    joints[:, 4] = (-20, 50)  # outside the frame, but a number
    np.savez(folder / "v0.npz", joints2d=joints, layout=np.array("COCO-17"))
    for draw in (TrainingDraw(0, 0), EvaluationWindow()):
        clips = read(open_training([str(folder)], config).reader, [0], draw)
        assert clips.joints is not None
        assert clips.boxes is not None
        assert bool(clips.joints.isfinite().all())
        assert bool(clips.boxes.isfinite().all())
        assert not (clips.joints[0, 0, :, 3, 2] > 0).any()
        is_there = clips.joints[..., 2] > 0
        assert bool((clips.joints[..., :2][is_there] >= 0).all())
        assert bool((clips.joints[..., :2][is_there] <= 1).all())
        assert bool(is_there.any())


def test_clips_that_cannot_be_read_are_named_with_their_file(config: Config, tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "full", 5)
    (folder / "v0.mkv").write_bytes(b"")
    (folder / "v1.mkv").write_bytes(b"not a video" * 50)
    np.savez(folder / "v2.npz", joints2d=np.ones((8, 12, 2), np.float32), layout=np.array("COCO-17"))
    (folder / "v3.npz").write_bytes(b"PK\x03\x04 cut")
    result = open_training([str(folder)], config).reader.read(range(5), TrainingDraw(0, 0))
    assert result.clips is not None
    assert len(result.clips) == 1
    reasons = dict(result.bad)
    assert sorted(reasons) == [f"full/v{i}" for i in range(4)]
    for clip_id, named in zip(sorted(reasons), ("v0.mkv", "v1.mkv", "v2.npz", "v3.npz"), strict=True):
        assert named in reasons[clip_id]
        assert "Fix: " in reasons[clip_id]
    assert "12 joints" in reasons["full/v2"]


def test_rows_without_the_modality_are_left_out_and_counted(config: Config, tmp_path: Path) -> None:
    folder = video_folder(
        tmp_path / "some", 4, label=lambda i: "ab"[i % 2], split=lambda i: "test", caption=lambda i: CAPTIONS[i % 3]
    )
    joints = np.full((8, 17, 2), 16.0, np.float32)
    np.savez(folder / "j.npz", joints2d=joints, layout=np.array("COCO-17"))
    index = (folder / "index.csv").read_text().splitlines()
    rows = [index[0] + ",joints_path", *(f"{line},{'j.npz' if i < 1 else ''}" for i, line in enumerate(index[1:]))]
    (folder / "index.csv").write_text("\n".join([*rows, ",".join(["only-words", "", "a", "test", "a man waves", ""])]))
    assert len(open_split([str(folder)], config, None, "test", "video").reader) == 4
    opened = open_split([str(folder)], config, None, "test", "skeleton")
    assert (len(opened.reader), opened.n_left_out) == (1, 4)
    (folder / "index.csv").write_text("\n".join(index))
    with pytest.raises(InputError, match=r"some.*no clip has skeleton"):
        open_split([str(folder)], config, None, "test", "skeleton")


def test_data_are_told_apart_by_their_fingerprint(config: Config, tmp_path: Path) -> None:
    folders = [str(packed_folder(tmp_path / name, n)) for name, n in (("a", 4), ("b", 6))]

    def sha(*data: str) -> str:
        opened: OpenedData = open_training(list(data), config.with_overrides(["data.captions=none"]))
        return opened.sha256

    same = sha(folders[0]), sha(str(packed_folder(tmp_path / "elsewhere", 4)))
    assert same[0] == same[1]
    different = [
        same[0],
        sha(folders[1]),
        sha("people:4"),
        sha("people:5"),
        sha("people:4:1"),
        sha(folders[0], "people:4"),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("name", ["people:0", "people:x", "people:1:2:3", "people:", "people:1:"])
def test_people_are_asked_for_strictly(name: str, config: Config) -> None:
    with pytest.raises(InputError, match=name):
        open_training([name], config)


def test_people_must_fit_and_come_once(config: Config) -> None:
    with pytest.raises(InputError, match="same people twice"):
        open_training(["people:3:1", "people:5:1"], config)
    with pytest.raises(InputError, match=r"tokens\.n_people = 1"):
        open_training(["people:3"], config.with_overrides(["tokens.n_people=1", "data.captions=none"]))
    with pytest.raises(InputError, match="no split 'val'"):
        open_split(["people:3"], config, None, "val")
    with pytest.raises(InputError, match="no data"):
        open_training([], config)


def test_people_read_the_same_whoever_stands_beside(config: Config) -> None:
    reader = open_split(["people"], config, None, "test").reader
    assert isinstance(reader, PeopleReader)
    together = read(reader, [3, 11, 5], EvaluationWindow())
    alone = read(reader, [11], EvaluationWindow())
    for name, value in row_of(alone, reader.clip_id(11)).items():
        assert value is None or torch.equal(value, row_of(together, reader.clip_id(11))[name])
    assert together.labels.tolist() == [reader.label(i) for i in (3, 11, 5)]


def test_a_folder_without_the_recipes_modalities_is_refused(config: Config, tmp_path: Path) -> None:
    manifest = read_manifest(packed_folder(tmp_path / "joints", 4))
    only_video = config.with_overrides(['tokens.modalities=["video"]'])
    with pytest.raises(InputError, match=r"joints.*no clip has any of video"):
        FolderReader(manifest, only_video, None)
