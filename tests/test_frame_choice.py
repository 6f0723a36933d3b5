"""Every rule of choosing frames, by name, and the reader that uses it; crops along the longer side."""

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from runs import shrunk, write_index, write_video
from torch.nn import functional as F

from oskar.config import ClipConfig
from oskar.data.cropping import centre_crop, side_crop
from oskar.data.frame_choice import evaluation_frames, n_uniforms, training_frames
from oskar.data.open import open_split
from oskar.data.reader import EvaluationWindow, TrainingDraw, evaluation_views

RULES = get_args(get_type_hints(ClipConfig)["temporal"])


def config_of(rule: str) -> ClipConfig:
    return ClipConfig(temporal=rule, stride_frames=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_available", [1, 3, 17, 64, 65, 300])
def test_every_rule_gives_frames_that_are_there_in_order(rule: str, n_available: int) -> None:
    rng = torch.Generator().manual_seed(n_available)
    clips = [
        training_frames(n_available, n_frames=16, config=config_of(rule), u=torch.rand(16, generator=rng).tolist())
        for _ in range(20)
    ]
    for n_clips in (1, 2, 5):
        clips += evaluation_frames(n_available, n_frames=16, config=config_of(rule), n_clips=n_clips)
    assert len(clips) == 28
    for idx in clips:
        assert len(idx) == 16
        assert idx == sorted(idx)
        assert 0 <= idx[0] <= idx[-1] < n_available


def test_official_rules_by_hand() -> None:
    """Benchmark protocols 1.3 and 2.5, on videos whose numbers can be counted on fingers."""
    dense = evaluation_frames(100, n_frames=16, config=config_of("dense"), n_clips=5)
    starts = [int(k * (25 - 16) / 4) for k in range(5)]  # of the 25 frames 0, 4, 8 ...
    assert dense == [[4 * (start + i) for i in range(16)] for start in starts]
    tick = 40 / 16
    both = sorted([int(tick / 2 + tick * i) for i in range(16)] + [int(tick * i) for i in range(16)])
    assert evaluation_frames(40, n_frames=16, config=config_of("segments"), n_clips=2) == [both[::2], both[1::2]]
    assert evaluation_frames(64, n_frames=16, config=config_of("centres"), n_clips=1) == [list(range(2, 64, 4))]
    assert training_frames(64, n_frames=16, config=config_of("segments"), u=[0.5] * 16) == list(range(2, 64, 4))
    assert n_uniforms(1) == 2


def test_crops_along_the_longer_side() -> None:
    assert side_crop((240, 320), 0, 1) == centre_crop((240, 320))
    lefts = [side_crop((240, 320), i, 3).x1 * 320 for i in range(3)]
    tops = [side_crop((320, 240), i, 3).y1 * 320 for i in range(3)]
    assert lefts == tops == [0, 40, 80]
    assert all(side_crop((50, 50), i, 3) == centre_crop((50, 50)) for i in range(3))


def test_the_reader_shows_the_views_that_are_asked_for(tmp_path: Path) -> None:
    """Crops of a wide video, pixel by pixel against slices of its frames."""
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "data/wide.mkv", pictures)
    write_index(tmp_path / "data", [{"clip_id": "wide", "path": "wide.mkv", "label": "a", "split": "test"}])
    config = shrunk("oskar-tiny")
    clip = replace(config.clip, temporal="segments", crop_scale=(1.0, 1.0))  # so frames keep their size
    config = replace(config, clip=clip, tokens=replace(config.tokens, modalities=("video",), n_frames=4))
    reader = open_split([str(tmp_path / "data")], config, None, "test", "video").reader
    views = evaluation_views(2, 3)
    assert len(set(views)) == 6
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    for view in views:
        read = reader.read([0], view).clips
        assert read is not None
        assert read.frames is not None
        idx = [j * 12 // 8 for j in range(view.number, 8, 2)]
        expected = frames[idx][..., 8 * view.crop : 8 * view.crop + 32]
        assert torch.equal(read.frames[0], expected)
    middle = reader.read([0], EvaluationWindow()).clips
    assert middle is not None
    assert middle.frames is not None
    assert torch.equal(middle.frames[0], frames[[0, 3, 6, 9]][..., 8:40])
    drawn = reader.read([0], TrainingDraw(0, 0)).clips
    assert drawn is not None
    assert drawn.frames is not None
    assert F.mse_loss(drawn.frames[0].float(), middle.frames[0].float()) > 0
