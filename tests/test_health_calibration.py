"""The verdict against planted failures and healthy runs: small models on the synthetic people, minutes on one core."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from oskar.clip import ClipBatch
from oskar.config import (
    Config,
    MaskingConfig,
    ModelConfig,
    MomentumConfig,
    PredictorConfig,
    TargetConfig,
    TokensConfig,
    TrainConfig,
)
from oskar.data.people import PeopleWorld, generate
from oskar.masking.packing import build_batch
from oskar.modalities import Modality
from oskar.pretraining import MaskedPrediction
from oskar.train.health import Verdict, judge, observe
from oskar.train.optim import build_optimizer, clip_gradients, set_rates
from oskar.train.schedules import lr_at

HEALTHY_STEPS = 200
CALLED_WITHIN_STEPS = 100  # of the run's start, for what is wrong from the start
CALLED_WITHIN_STEPS_OF_DEATH = 30  # for what dies while the run goes on
DEATH_STEP = 80
LOG_EVERY_STEPS = 10
N_CLIPS = 384

Plant = Callable[[MaskedPrediction], None]
Record = dict[str, object]


def oskar(*, seed: int = 0, lr: float = 1e-3, momentum: float = 0.998) -> Config:
    return Config(
        recipe="calibration",
        tokens=TokensConfig(
            n_frames=8, resolution=32, patch_size=8, n_people=2, n_words=16, vocabulary_size=512, min_confidence=0.3
        ),
        masking=MaskingConfig(n_visible=16, n_target=16),
        model=ModelConfig(width=64, n_blocks=2, n_heads=2),
        predictor=PredictorConfig(width=64, n_layers=2, n_heads=2),
        momentum=MomentumConfig(video=momentum, skeleton=momentum, text=momentum),
        train=TrainConfig(steps=HEALTHY_STEPS, batch_size=32, lr=lr, lr_scaling="none", warmup_share=0.05, seed=seed),
    )


def mae(*, seed: int = 0, lr: float = 1e-3) -> Config:
    no_momentum = MomentumConfig(video=None, skeleton=None, text=None)
    return replace(oskar(seed=seed, lr=lr), target=TargetConfig(space="input"), momentum=no_momentum)


@cache
def people(n_clips: int, tokens: TokensConfig) -> ClipBatch:
    world = PeopleWorld(n_frames=tokens.n_frames, resolution=tokens.resolution, n_people=tokens.n_people)
    made = generate(world, torch.arange(n_clips), seed=0)
    words = [caption.replace(".", " .").replace(",", " ,").replace(";", " ;").split() for caption in made.captions]
    vocabulary = {word: i for i, word in enumerate(sorted({word for caption in words for word in caption}))}
    assert len(vocabulary) <= tokens.vocabulary_size
    ids = torch.full((n_clips, tokens.n_words), -1)
    for row, caption in zip(ids, words, strict=True):
        kept = caption[: tokens.n_words]
        row[: len(kept)] = torch.tensor([vocabulary[word] for word in kept])
    present = torch.ones(n_clips, dtype=torch.bool)
    return ClipBatch(
        clip_ids=torch.arange(n_clips),
        labels=made.labels,
        frames=made.frames,
        has_video=present,
        joints=made.joints,
        boxes=made.boxes,
        has_skeleton=present,
        word_ids=ids,
    )


def train(config: Config, n_steps: int, *, plant: Plant | None = None, plant_step: int = 0) -> list[Record]:
    """Records as the loop writes them; ``plant`` spoils the model anew before every step after ``plant_step``."""
    torch.manual_seed(config.train.seed)
    module = MaskedPrediction(config)
    optimizer = build_optimizer(module, config.train)
    clips = people(N_CLIPS, config.tokens)
    draws = torch.Generator().manual_seed(config.train.seed)
    records: list[Record] = []
    for step in range(n_steps):
        if plant is not None and step >= plant_step:
            plant(module)
        chosen = torch.randint(len(clips), (config.train.batch_size,), generator=draws)
        batch = build_batch(clips.rows(chosen), config, step)
        set_rates(optimizer, lr_at(step, config.train), config.train.weight_decay)
        losses = module(batch)
        losses["loss"].backward()
        groups = module.parameter_groups_for_clipping()
        norms = clip_gradients(groups.values(), config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.after_step((step + 1) / config.train.steps)
        if plant is not None and step >= plant_step:
            plant(module)
        if (step + 1) % LOG_EVERY_STEPS == 0:
            record: Record = {"step": step + 1, "split": "train", "n_skipped_steps": 0}
            record |= {name: float(value.detach()) for name, value in losses.items()}
            record |= {f"grad_norm_{name}": float(norm) for name, norm in zip(groups, norms, strict=True)}
            records.append(record | observe(module, batch))
    return records


def constant_output(module: MaskedPrediction) -> None:
    """The encoders' last norm says the same whatever it is given."""
    encoders = [module.fusion, *([] if module.momentum is None else [module.momentum.encoder("video")])]
    with torch.no_grad():
        for encoder in encoders:
            encoder.norm.weight.zero_()
            encoder.norm.bias.copy_(torch.linspace(-1.0, 1.0, len(encoder.norm.bias)))


def dead_embedding(name: Modality) -> Plant:
    """One modality's contents embed to nothing; positions, people's boxes and attention go on."""

    def plant(module: MaskedPrediction) -> None:
        assert module.momentum is not None
        with torch.no_grad():
            for encoder in (module.fusion, module.momentum.encoder(name)):
                for weight in encoder.embedding.content[name].parameters():
                    weight.zero_()

    return plant


def called_at(records: list[Record], verdict: str = "collapsed") -> int | None:
    """The first step at whose record the verdict is ``verdict``; it must stay so."""
    verdicts = [judge(records[: i + 1]).verdict for i in range(len(records))]
    if verdict not in verdicts:
        return None
    first = verdicts.index(verdict)
    assert set(verdicts[first:]) == {verdict}
    return LOG_EVERY_STEPS * (first + 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_healthy_seeds_are_healthy(seed: int) -> None:
    records = train(oskar(seed=seed), HEALTHY_STEPS)
    assert judge(records) == Verdict(
        verdict="healthy", by_modality=dict.fromkeys(("skeleton", "text", "video"), "healthy"), reasons=()
    )
    assert called_at(records) is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_momentum_is_called(seed: int) -> None:
    records = train(oskar(seed=seed, momentum=0.0), HEALTHY_STEPS if seed == 0 else CALLED_WITHIN_STEPS)
    step = called_at(records)
    assert step is not None
    assert step <= CALLED_WITHIN_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_learning_rate_100_times_too_high_is_called(seed: int) -> None:
    step = called_at(train(oskar(seed=seed, lr=0.1), CALLED_WITHIN_STEPS))
    assert step is not None
    assert step <= CALLED_WITHIN_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("config", [oskar(), mae()], ids=["latent", "input"])
def test_a_constant_encoder_is_called(config: Config) -> None:
    records = train(config, DEATH_STEP + CALLED_WITHIN_STEPS_OF_DEATH, plant=constant_output, plant_step=DEATH_STEP)
    assert judge(records[: DEATH_STEP // LOG_EVERY_STEPS]).verdict == "healthy"
    assert called_at(records) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["video", "skeleton", "text"])
def test_one_modality_dying_is_called_and_named(name: Modality) -> None:
    records = train(
        oskar(), DEATH_STEP + CALLED_WITHIN_STEPS_OF_DEATH, plant=dead_embedding(name), plant_step=DEATH_STEP
    )
    assert judge(records[: DEATH_STEP // LOG_EVERY_STEPS]).verdict == "healthy"
    verdict = judge(records)
    assert verdict.verdict == "collapsed"
    assert verdict.by_modality == {m: "collapsed" if m == name else "healthy" for m in ("video", "skeleton", "text")}
    assert all(reason.startswith(name) for reason in verdict.reasons)
    # What makes the exchange of contents necessary: across clips the dead targets still differ.
    assert float(str(records[-1][f"spread_target_{name}"])) > 0.05
    assert records[-1][f"response_target_{name}"] == 0.0


@pytest.mark.slow
def test_masked_autoencoding_is_healthy() -> None:
    assert judge(train(mae(), HEALTHY_STEPS)).verdict == "healthy"


@pytest.mark.slow
def test_masked_autoencoding_with_a_learning_rate_100_times_too_high_is_called() -> None:
    assert judge(train(mae(lr=0.1), CALLED_WITHIN_STEPS)).verdict == "suspect"
