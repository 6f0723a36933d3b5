"""Health: measures against hand calculation and known variances, the rule against written-out runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MakeClips
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oskar.config import BlockConfig, Config, MaskingConfig, MomentumConfig, TargetConfig
from oskar.masking.packing import ModalityTokens, PackedTokens, build_batch
from oskar.pretraining import MaskedPrediction, ViewOutput
from oskar.targets.target import Comparison
from oskar.train import verdict as rule
from oskar.train.health import MIN_DEGREES, exchange_contents, judge, measure, observe

Record = dict[str, object]


def output_of(targets: Tensor, predictions: Tensor, token_idx: Tensor) -> ViewOutput:
    """One view of one modality: everything ``[B, K, W]`` and ``token_idx`` ``[B, K]``."""
    n_clips, n_slots = token_idx.shape
    tokens = ModalityTokens(
        torch.zeros(n_clips * n_slots, 1), torch.arange(n_clips * n_slots), token_idx.flatten(), None, n_slots
    )
    target = PackedTokens(torch.zeros_like(token_idx), {"video": tokens}, True)
    return ViewOutput(
        torch.zeros(n_clips, 1, 1), Comparison(torch.zeros(targets.shape[:2]), predictions, targets), target
    )


def drawn_positions(n_clips: int, n_slots: int, n_positions: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(n_positions)[:n_slots] for _ in range(n_clips)]))


def vectors(token_idx: Tensor, position_std: float, content_std: float, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    table = position_std * torch.randn(int(token_idx.max()) + 1, width, generator=generator)
    return 0.5 + table[token_idx] + content_std * torch.randn(*token_idx.shape, width, generator=generator)


@pytest.mark.parametrize(("position_std", "content_std"), [(1.0, 0.3), (3.0, 0.05), (0.1, 1.0)])
def test_spread_is_that_of_the_content_and_unbiased_in_small_groups(position_std: float, content_std: float) -> None:
    """About 1.6 tokens share a position, where a variance without correction would be about half."""
    measured, over_all_tokens = [], []
    for seed in range(30):
        token_idx = drawn_positions(16, 10, 100, seed)
        targets = vectors(token_idx, position_std, content_std, 8, seed)
        values = measure([output_of(targets, targets, token_idx)], ["video"])
        measured.append(values["spread_target_video"])
        over_all_tokens.append(float(targets.std((0, 1)).mean()))
    assert np.mean(measured) == pytest.approx(content_std, rel=0.03)
    # The trap: over all tokens the position hides what the content does.
    assert np.mean(over_all_tokens) == pytest.approx(math.hypot(position_std, content_std), rel=0.1)


def test_measures_of_a_case_by_hand() -> None:
    """Two positions, one feature pair, enough clips to count; every number by loops over pairs."""
    n_clips = MIN_DEGREES
    token_idx = torch.stack([torch.arange(2)] * n_clips)
    generator = torch.Generator().manual_seed(0)
    targets, predictions = torch.randn(2, n_clips, 2, 3, generator=generator)
    values = measure([output_of(targets, predictions, token_idx)], ["video"])
    t, p = targets.double().numpy(), predictions.double().numpy()
    variance = np.mean([t[:, k].var(0, ddof=1) for k in range(2)], axis=0)
    assert values["spread_target_video"] == pytest.approx(np.sqrt(variance).mean(), rel=1e-5)
    cosines = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        for k in range(2)
        for i, x in enumerate(t[:, k])
        for y in t[i + 1 :, k]
    ]
    assert values["cosine_target_video"] == pytest.approx(np.mean(cosines), rel=1e-5)
    shares = np.linalg.svd((t - t.mean(0)).reshape(-1, 3), compute_uv=False)
    shares /= shares.sum()
    assert values["rank_target_video"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    error = ((p - t) ** 2).sum(-1).mean()
    assert values["explained_content_video"] == pytest.approx(1 - error / variance.sum(), rel=1e-5)
    assert values["explained_video"] == pytest.approx(1 - error / t.reshape(-1, 3).var(0, ddof=1).sum(), rel=1e-5)


@given(st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_effective_rank_counts_equal_directions(n_directions: int, seed: int) -> None:
    token_idx = torch.zeros(2000, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    content = torch.randn(2000, 1, n_directions, generator=generator)
    basis = torch.linalg.qr(torch.randn(16, n_directions, generator=generator)).Q
    values = measure([output_of(5.0 + content @ basis.T, content @ basis.T, token_idx)], ["video"])
    assert values["rank_target_video"] == pytest.approx(n_directions, rel=0.01)


def test_explained_variance_tells_position_from_content() -> None:
    token_idx = drawn_positions(200, 10, 40, 0)
    table = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    content = 0.5 * torch.randn(200, 10, 6, generator=torch.Generator().manual_seed(2))
    targets = table[token_idx] + content
    knows_position = measure([output_of(targets, table[token_idx], token_idx)], ["video"])
    assert knows_position["explained_video"] == pytest.approx(1 / 1.25, abs=0.03)
    assert knows_position["explained_content_video"] == pytest.approx(0.0, abs=0.03)
    assert knows_position["spread_prediction_video"] == pytest.approx(0.0, abs=1e-6)
    assert knows_position["cosine_prediction_video"] == pytest.approx(1.0, abs=1e-6)
    knows_all = measure([output_of(targets, targets, token_idx)], ["video"])
    assert knows_all["explained_video"] == knows_all["explained_content_video"] == 1.0


def test_a_constant_has_no_spread_one_direction_and_nothing_to_explain() -> None:
    token_idx = drawn_positions(40, 4, 12, 0)
    targets = torch.linspace(-1, 1, 7).expand(40, 4, 7)
    values = measure([output_of(targets, 0.9 * targets, token_idx)], ["video"])
    assert values["spread_target_video"] == pytest.approx(0.0, abs=1e-6)
    assert values["rank_target_video"] == 1.0
    assert values["cosine_target_video"] == pytest.approx(1.0, abs=1e-6)
    assert math.isnan(values["explained_video"])
    assert math.isnan(values["explained_content_video"])


def test_response_is_the_contents_share_of_the_size() -> None:
    token_idx = drawn_positions(300, 10, 40, 0)
    first, second = (vectors(token_idx, 2.0, 0.4, 8, 0) for _ in range(2))
    second = first + 0.4 * torch.randn(first.shape, generator=torch.Generator().manual_seed(9)) * math.sqrt(2.0)
    values = measure([output_of(first, first, token_idx)], ["video"], [output_of(second, first, token_idx)])
    assert values["response_target_video"] == pytest.approx(0.4 / float(first.square().mean().sqrt()), rel=0.02)
    assert values["response_prediction_video"] == 0.0


def test_what_cannot_be_measured_is_nan() -> None:
    alone = torch.arange(40).view(20, 2)  # no two clips share a position
    targets = torch.randn(20, 2, 4)
    few = measure([output_of(targets, targets, alone)], ["video", "text"])
    assert all(math.isnan(value) for value in few.values())
    assert {key.rpartition("_")[2] for key in few} == {"video", "text"}
    shared = torch.zeros(20, 2, dtype=torch.int64)
    for spoiled in (torch.full_like(targets, math.nan), torch.zeros_like(targets)):
        outputs = [output_of(spoiled, spoiled, shared)]
        assert all(math.isnan(value) for value in measure(outputs, ["video"], outputs).values())


def configs(config: Config) -> dict[str, Config]:
    blocks = (BlockConfig(n_blocks=2, spatial_scale=0.5), BlockConfig(n_blocks=1, spatial_scale=0.7))
    return {
        "oskar": config,
        "mae": replace(
            config,
            target=TargetConfig(space="input"),
            momentum=MomentumConfig(video=None, skeleton=None, text=None),
        ),
        "vjepa": replace(
            config,
            tokens=replace(config.tokens, modalities=("video",)),
            masking=MaskingConfig(style="blocks", blocks=blocks, n_visible=None, n_target=None),
            predictor=replace(config.predictor, kind="joint"),
            target=TargetConfig(context="all", loss="l1"),
        ),
    }


@pytest.mark.parametrize("recipe", ["oskar", "mae", "vjepa"])
def test_observing_a_model_measures_all_and_changes_nothing(
    make_clips: MakeClips, small_config: Config, recipe: str
) -> None:
    config = configs(small_config)[recipe]
    module = MaskedPrediction(config)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = build_batch(make_clips(32, config.tokens), config, 0)
    values = observe(module, batch)
    assert values == observe(module, batch)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    for name in config.tokens.modalities:
        is_compared = recipe != "mae" or name != "text"
        assert all(math.isfinite(v) == is_compared for key, v in values.items() if key.endswith(name))
        assert not is_compared or values[f"response_target_{name}"] > 0.01


def test_exchanging_contents_changes_contents_alone(make_clips: MakeClips, small_config: Config) -> None:
    batch = build_batch(make_clips(64, small_config.tokens), small_config, 0)
    exchanged = exchange_contents(batch)
    for before, after in zip(batch.views, exchanged.views, strict=True):
        for side in ("visible", "target"):
            a, b = getattr(before, side), getattr(after, side)
            assert b.segments is a.segments
            for name, tokens in a.tokens.items():
                other = b.tokens[name]
                assert torch.equal(tokens.slots, other.slots)
                assert torch.equal(tokens.token_idx, other.token_idx)
                assert other.boxes is tokens.boxes
                rows = [sorted(map(tuple, values.tolist())) for values in (tokens.values, other.values)]
                assert rows[0] == rows[1]
    tokens, other = batch.views[0].target.tokens["video"], exchanged.views[0].target.tokens["video"]
    assert (tokens.values != other.values).any(1).all()  # random frames: no two tubelets are alike


def test_a_dead_embedding_is_seen_by_the_response_and_hidden_from_the_spread(
    make_clips: MakeClips, small_config: Config
) -> None:
    module = MaskedPrediction(small_config)
    assert module.momentum is not None
    with torch.no_grad():
        for weight in module.momentum.encoder("skeleton").embedding.content["skeleton"].parameters():
            weight.zero_()
    values = observe(module, build_batch(make_clips(64, small_config.tokens), small_config, 0))
    assert values["response_target_skeleton"] == 0.0
    assert values["spread_target_skeleton"] > 0.01  # boxes and neighbours differ between clips all the same
    assert values["response_target_video"] > 0.1


def run(n: int = 30, changed: Record | None = None) -> list[Record]:
    """A healthy run of one modality; values may be callables of the record's number."""
    values: Record = {
        "loss": lambda i: 1.0 - 0.02 * i,
        "loss_video": lambda i: 1.0 - 0.02 * i,
        "response_target_video": 0.5,
        "response_prediction_video": 0.1,
        "explained_video": 0.3,
        "explained_content_video": 0.2,
        "grad_norm_fusion": 0.1,
        "grad_norm_predictor": 0.2,
        "n_skipped_steps": 0,
        **(changed or {}),
    }
    records = [{key: value(i) if callable(value) else value for key, value in values.items()} for i in range(n)]
    return [{"step": 10 * (i + 1), "split": "train", **record} for i, record in enumerate(records)]


def test_a_healthy_run_has_no_reasons() -> None:
    verdict = judge(run())
    assert verdict.to_json() == {"verdict": "healthy", "by_modality": {"video": "healthy"}, "reasons": []}
    assert json.loads(json.dumps(verdict.to_json())) == verdict.to_json()


@pytest.mark.parametrize("n", [0, 1, rule.MIN_RECORDS - 1])
def test_too_few_records_are_neither_healthy_nor_collapsed(n: int) -> None:
    verdict = judge(run(n, {"response_target_video": 0.0}))
    assert verdict.verdict == "suspect"
    assert "too few records to judge" in verdict.reasons[0]


def test_records_of_other_splits_do_not_count() -> None:
    evaluation = [{**record, "split": "test", "loss": None} for record in run()]
    assert judge([*run(), *evaluation]) == judge(run())
    assert judge([*run(4), *evaluation]).verdict == "suspect"


CASES: dict[str, tuple[Record, str, str]] = {
    "gone": ({"response_target_video": lambda i: 0.5 if i < 20 else 0.02}, "collapsed", "4% of its best"),
    "never there": ({"response_target_video": 0.0}, "collapsed", "never depended on the contents"),
    "shrunken and not followed": (
        {
            "response_target_video": lambda i: 0.5 if i < 5 else 0.1,
            "explained_content_video": lambda i: 0.0 if i < 5 else -30.0,
        },
        "collapsed",
        "31 times the variance left",
    ),
    "shrunken but followed": (
        {"response_target_video": lambda i: 0.5 if i < 5 else 0.1, "explained_content_video": -2.0},
        "healthy",
        "",
    ),
    "collapsed before the first record": (
        {"response_target_video": 0.06, "explained_content_video": -30.0},
        "collapsed",
        "31 times the variance left",
    ),
    "collapsed, then drifted apart": (
        {"response_target_video": lambda i: 0.02 if 5 < i < 12 else 0.5 if i < 9 else 0.2},
        "collapsed",
        "at the end it is 40%",
    ),
    "a dip that was recovered from": ({"response_target_video": lambda i: 0.02 if 5 < i < 12 else 0.45}, "healthy", ""),
    "one odd batch": ({"response_target_video": lambda i: 0.0 if i == 15 else 0.5}, "healthy", ""),
    "small": ({"response_target_video": lambda i: 0.5 if i < 5 else 0.04}, "suspect", "8% of its best"),
    "small and worse than the mean": (
        {"response_target_video": lambda i: 0.5 if i < 5 else 0.1, "explained_video": -0.2},
        "suspect",
        "worse than the batch mean",
    ),
    "predictions that ignore the clip": (
        {"response_prediction_video": 0.0},
        "collapsed",
        "do not depend on what is visible",
    ),
    "predictions that hardly see the clip": (
        {"response_prediction_video": 5e-4, "explained_video": -0.1},
        "suspect",
        "hardly depend on what is visible",
    ),
    "predictions that hardly see the clip but help": ({"response_prediction_video": 5e-4}, "healthy", ""),
    "diverged": ({"loss": lambda i: 1.0 + 0.1 * i}, "collapsed", "diverged: the loss rose"),
    "not finite": ({"loss": lambda i: 1.0 if i < 29 else None}, "collapsed", "not finite"),
    "not finite, before JSON": ({"loss": lambda i: 1.0 if i < 29 else math.nan}, "collapsed", "not finite"),
    "steps left out": ({"n_skipped_steps": lambda i: i}, "suspect", "29 of 300 steps were left out"),
    "no gradient": ({"grad_norm_fusion": 0.0}, "suspect", "no gradient reaches the fusion side"),
    "spread where nothing was exchanged": (
        {"response_target_video": None, "spread_target_video": lambda i: 0.5 if i < 20 else 0.001},
        "collapsed",
        "0% of its best",
    ),
    "word ids, learned": ({"response_target_video": None}, "healthy", ""),
    "word ids, not learned": ({"response_target_video": None, "loss_video": 1.0}, "suspect", "its loss did not fall"),
    "gaps": ({"response_target_video": lambda i: 0.5 if i % 3 == 0 else None}, "healthy", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule(case: str) -> None:
    changed, expected, words = CASES[case]
    verdict = judge(run(changed=changed))
    assert verdict.verdict == expected
    assert words in "; ".join(verdict.reasons)
    assert bool(verdict.reasons) == (expected != "healthy")


def test_the_verdict_names_the_modality_that_failed_and_the_one_that_is_absent() -> None:
    dead: Record = {"loss_text": 0.5, "response_target_text": lambda i: 0.3 if i < 10 else 0.0, "loss_skeleton": None}
    verdict = judge(run(changed=dead))
    assert verdict.verdict == "collapsed"
    assert verdict.by_modality == {"video": "healthy", "text": "collapsed", "skeleton": "absent"}
    assert [reason.partition(":")[0] for reason in verdict.reasons] == ["text"]
