"""Folders of bounded size, and videos that are decoded once for several clips."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import noise_video, shrunk, video_folder

from oskar.config import Config
from oskar.data.bounded_folder import BoundedFolder
from oskar.data.decoding import read_frames
from oskar.data.frame_cache import FrameCache
from oskar.data.open import open_training
from oskar.data.reader import EvaluationWindow, TrainingDraw
from oskar.data.stream import StepDataset
from oskar.errors import InputError
from oskar.randomness import hash_id


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_least_recently_used_file_goes_first(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path / "cache", 300)
    for i, name in enumerate("abc"):
        os.utime(folder.put(name, b"x" * 100), ns=(i, i))
    assert folder.find("a") is not None  # used now, so younger than the others
    assert folder.find("z") is None
    folder.put("d", b"x" * 100)
    assert names_in(tmp_path / "cache") == ["a", "c", "d"]
    folder.put("e", b"x" * 250)
    assert names_in(tmp_path / "cache") == ["e"]
    assert folder.put("f", b"x" * 1000).read_bytes() == b"x" * 1000  # larger than the limit: kept alone
    assert names_in(tmp_path / "cache") == ["f"]


def test_no_limit_keeps_all_and_half_written_files_go(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path / "cache", None)
    left, fresh = tmp_path / "cache" / "a.1.unfinished", tmp_path / "cache" / "b.2.unfinished"
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    folder.put("a", b"x" * 1000)
    folder.put("b", b"x" * 1000)
    assert names_in(tmp_path / "cache") == ["a", "b", "b.2.unfinished"]  # the young one may have a writer

    def broken(file: Any) -> None:
        file.write(b"half")
        raise InputError("no more", fix="none")

    with pytest.raises(InputError, match="no more"):
        folder.write("c", broken)
    assert names_in(tmp_path / "cache") == ["a", "b", "b.2.unfinished"]


def test_the_frame_cache_on_disk_is_bounded(tmp_path: Path) -> None:
    paths = [noise_video(tmp_path / f"{i}.mkv", 4, seed=i) for i in range(4)]
    one = 4 * 3 * 24 * 24 + 128
    cache = FrameCache(tmp_path / "cache", short_side=24, memory_bytes=0, folder_bytes=2 * one)
    for path in paths:
        frames = cache.frames(path)
        assert frames is not None
        assert frames.shape == (4, 3, 24, 24)
    assert len(names_in(tmp_path / "cache")) == 2
    assert FrameCache(None, short_side=24, memory_bytes=0).frames(paths[0]) is None


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    data = replace(config.data, captions="none", cache_gib=0.0)
    clip = replace(config.clip, span_share=(0.2, 0.3), crop_scale=(0.3, 0.9))
    return replace(config, tokens=replace(config.tokens, n_frames=4), data=data, clip=clip)


def joint_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(2):
        joints = np.random.default_rng(i).uniform(2, 30, (40, 17, 2)).astype(np.float32)
        np.savez(folder / f"v{i}.npz", joints2d=joints, layout=np.array("COCO-17"))
    video_folder(folder, 2, joints_path=lambda i: f"v{i}.npz")
    for i in range(2):
        noise_video(folder / f"v{i}.mkv", 40, seed=i)
    return folder


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_several_clips_of_one_decoded_video(
    cache_gib: float, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a window, a crop and masks of its own; the first is the clip that there is without repeats."""
    config = replace(config, data=replace(config.data, cache_gib=cache_gib))
    reader = open_training([str(joint_folder(tmp_path / "v"))], config).reader
    draw = TrainingDraw(0, 3)
    alone = reader.read([1], draw).clips
    decoded: list[int] = []
    original = read_frames

    def counting(path: Any, frame_idx: Any, **more: Any) -> Any:
        decoded.append(len(frame_idx))
        return original(path, frame_idx, **more)

    monkeypatch.setattr("oskar.data.folder_reader.read_frames", counting)
    clips = reader.read([1, 1, 1, 0, 0, 0], replace(draw, n_repeats=3)).clips
    assert len(decoded) == (0 if cache_gib else 2)
    assert alone is not None
    assert alone.frames is not None
    assert clips is not None
    assert clips.frames is not None
    assert clips.joints is not None
    names = [f"v/v{i}{repeat}" for i in (1, 0) for repeat in ("", "#1", "#2")]
    assert clips.clip_ids.tolist() == [hash_id(name) for name in names]
    assert torch.equal(clips.frames[0], alone.frames[0])
    assert len({frames.numpy().tobytes() for frames in clips.frames}) == 6
    assert len({joints.numpy().tobytes() for joints in clips.joints}) == 6
    as_named = reader.read([1, 1], draw).clips  # one epoch ends with the clip that the next begins with
    assert as_named is not None
    assert as_named.frames is not None
    assert torch.equal(as_named.frames[0], alone.frames[0])
    assert torch.equal(as_named.frames[1], alone.frames[0])


def test_evaluation_repeats_the_clip_itself(tmp_path: Path, config: Config) -> None:
    reader = open_training([str(joint_folder(tmp_path / "v"))], config).reader
    clips = reader.read([1, 1], EvaluationWindow()).clips
    assert clips is not None
    assert clips.clip_ids.tolist() == [hash_id("v/v1")] * 2


def test_people_repeat_with_masks_of_their_own(config: Config) -> None:
    reader = open_training(["people:3"], config).reader
    clips = reader.read([1, 1, 2, 2], TrainingDraw(0, 0, n_repeats=2)).clips
    assert clips is not None
    assert len(set(clips.clip_ids.tolist())) == 4


def test_a_batch_is_the_same_however_it_is_cut(tmp_path: Path, config: Config) -> None:
    """Of one clip from each of three sets, equal ones stand side by side where epochs meet, and in each part."""
    data = [str(video_folder(tmp_path / name, 1)) for name in ("a", "b")]
    reader = open_training([*data, "people:1"], config).reader

    def ids(n_processes: int, accumulation: int) -> list[list[int]]:
        cut = {"n_steps": 4, "batch_size": 8, "seed": 0, "accumulation": accumulation, "n_processes": n_processes}
        ranks = [StepDataset(reader, lambda clips, _: clips, rank=rank, **cut) for rank in range(n_processes)]
        return [
            sorted(i for rank in ranks for part in rank[step].parts for i in part.clip_ids.tolist())
            for step in range(4)
        ]

    names = [hash_id(reader.clip_id(i)) for i in range(3)]
    whole = ids(1, 1)
    assert {i for step in whole for i in step} == set(names)
    assert ids(2, 1) == ids(1, 4) == ids(4, 2) == whole
