"""Fixtures that several test files share: made clips, small configurations."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded import mixed_folder, trained_run
from runs import CommandLine

from oskar.clip import ClipBatch
from oskar.config import Config, MaskingConfig, ModelConfig, PredictorConfig, TokensConfig

MakeClips = Callable[..., ClipBatch]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def made_clips(
    n_clips: int,
    tokens: TokensConfig,
    *,
    seed: int = 0,
    absent: Mapping[str, Collection[int]] | None = None,
    min_words: int = 5,
    share_confident: float = 0.85,
) -> ClipBatch:
    """Random frames, people that move and share the frame with them, captions of random length.

    ``absent`` names the clips without a modality; one that no clip has is None, as in real batches.
    """
    rng = np.random.default_rng(seed)
    missing = {name: set((absent or {}).get(name, ())) for name in ("video", "skeleton", "text")}
    has = {
        name: torch.tensor([i not in missing[name] for i in range(n_clips)])
        for name in missing
        if name in tokens.modalities and len(missing[name]) < n_clips
    }
    frames = joints = boxes = words = None
    if "video" in has:
        shape = (n_clips, tokens.n_frames, 3, tokens.resolution, tokens.resolution)
        frames = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    if "skeleton" in has:
        joints, boxes = _made_people(rng, n_clips, tokens, share_confident)
    if "text" in has:
        ids = rng.integers(0, tokens.vocabulary_size, (n_clips, tokens.n_words))
        length = rng.integers(min(min_words, tokens.n_words), tokens.n_words + 1, n_clips)
        length[list(missing["text"])] = 0
        words = torch.from_numpy(np.where(np.arange(tokens.n_words) < length[:, None], ids, -1))
    return ClipBatch(
        clip_ids=torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, n_clips)),
        labels=torch.full((n_clips,), -1),
        frames=frames,
        has_video=has.get("video"),
        joints=joints,
        boxes=boxes,
        has_skeleton=has.get("skeleton"),
        word_ids=words,
    )


def _made_people(
    rng: np.random.Generator, n_clips: int, tokens: TokensConfig, share_confident: float
) -> tuple[torch.Tensor, torch.Tensor]:
    people = (n_clips, tokens.n_people)
    centre = rng.uniform(0.1, 0.9, (*people, 1, 1, 2)) + rng.normal(0, 0.01, (*people, tokens.n_frames, 1, 2)).cumsum(2)
    places = centre + rng.normal(0, 0.12, (*people, 1, 17, 2)) + rng.normal(0, 0.01, (*people, tokens.n_frames, 17, 2))
    sure = rng.uniform(0, 1, (*people, tokens.n_frames, 17, 1)) < share_confident
    confidence = np.where(sure, rng.uniform(0.3, 1.0, sure.shape), rng.uniform(0.0, 0.29, sure.shape))
    joints = torch.from_numpy(np.concatenate([places, confidence], -1)).float()
    boxes = np.concatenate([places.min(3), places.max(3)], -1).clip(0, 1)
    return joints, torch.from_numpy(boxes).float()


@pytest.fixture
def make_clips() -> MakeClips:
    """A factory of made clip batches: ``make_clips(n_clips, tokens, absent={"text": {0}})``."""
    return made_clips


@pytest.fixture
def paper_tokens() -> TokensConfig:
    """The paper's 1568 + 816 + 256 tokens, on frames of 28 pixels with patches of 2."""
    return TokensConfig(resolution=28, patch_size=2)


@pytest.fixture(scope="session")
def mixed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of every modality, as ``embedded.mixed_folder`` makes them; not to be changed."""
    return mixed_folder(tmp_path_factory.mktemp("mixed") / "set")


@pytest.fixture(scope="session")
def mixed_run(tmp_path_factory: pytest.TempPathFactory, mixed_data: Path) -> Path:
    """A run of two steps on them; not to be changed."""
    return trained_run(tmp_path_factory.mktemp("mixed") / "run", mixed_data)


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """``oskar ...`` in this process."""
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def small_config() -> Config:
    """Three modalities, 32 + 136 + 12 tokens, a two-block encoder: everything in milliseconds."""
    return Config(
        recipe="test",
        tokens=TokensConfig(
            n_frames=4, resolution=32, patch_size=8, n_people=2, n_words=12, vocabulary_size=50, min_confidence=0.3
        ),
        masking=MaskingConfig(n_visible=16, n_target=16),
        model=ModelConfig(width=32, n_blocks=2, n_heads=4),
        predictor=PredictorConfig(width=24, n_layers=4, n_heads=4),
    )
