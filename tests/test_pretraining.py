"""The whole method: the loss by hand, gradients, routing, learning on one batch, mixed and padded batches."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from oracles import networks
from torch import Tensor

from oskar.config import BlockConfig, Config, MaskingConfig, MomentumConfig, Routing, TargetConfig
from oskar.masking.packing import Batch, build_batch
from oskar.pretraining import MaskedPrediction, mean_where

ABSENT = {"video": {1, 4}, "skeleton": {1, 2}, "text": {3}}
CUSTOM = MomentumConfig(video=0.998, skeleton=0.9998, text=0.99998)
BLOCKS = (BlockConfig(n_blocks=2, spatial_scale=0.2), BlockConfig(n_blocks=1, spatial_scale=0.6))


def recipes(config: Config) -> dict[str, Config]:
    """The first wave in miniature."""
    no_momentum = MomentumConfig(video=None, skeleton=None, text=None)
    return {
        "oskar": config,
        "customised": replace(config, momentum=CUSTOM),
        "mae": replace(config, target=TargetConfig(space="input"), momentum=no_momentum),
        "vjepa": replace(
            config,
            tokens=replace(config.tokens, modalities=("video",)),
            masking=MaskingConfig(style="blocks", blocks=BLOCKS, n_visible=None, n_target=None),
            model=replace(config.model, mlp="gelu", bias=True, positions="sincos"),
            predictor=replace(config.predictor, kind="joint", context_positions=True),
            target=TargetConfig(context="all", loss="l1"),
        ),
    }


RECIPES = ("oskar", "customised", "mae", "vjepa")


def made_batch(make_clips: MakeClips, config: Config, n: int = 6, **made: object) -> Batch:
    return build_batch(make_clips(n, config.tokens, **made), config, step=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_loss_is_a_mean_over_target_tokens(make_clips: MakeClips, small_config: Config, recipe: str) -> None:
    config = recipes(small_config)[recipe]
    model = networks.randomised(MaskedPrediction(config))
    absent = {"text": range(6), "skeleton": {0, 1}} if recipe != "vjepa" else {}  # unequal counts, no text at all
    batch = made_batch(make_clips, config, absent=absent)
    outputs, losses = model.compare(batch), model(batch)
    of_views = []
    by_modality: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for output in outputs:
        errors = []
        for error, segment in zip(
            output.comparison.error.detach().flatten().tolist(), output.target.segments.flatten().tolist(), strict=True
        ):
            if segment >= 0:
                errors.append(error)
                by_modality[segment].append(error)
        of_views.append(math.fsum(errors) / len(errors))
    assert float(losses["loss"].detach()) == pytest.approx(math.fsum(of_views) / len(of_views), rel=1e-4)
    for m, name in enumerate(config.tokens.modalities):
        expected = math.fsum(by_modality[m]) / len(by_modality[m]) if by_modality[m] else math.nan
        assert float(losses[f"loss_{name}"]) == pytest.approx(expected, rel=1e-4, nan_ok=True)
        assert not losses[f"loss_{name}"].requires_grad


def test_a_mean_looks_at_nothing_but_what_is_valid() -> None:
    values = torch.tensor([1.0, math.nan, 4.0, math.inf], requires_grad=True)
    mean = mean_where(values, torch.tensor([True, False, True, False]))
    assert float(mean.detach()) == 2.5
    (gradient,) = torch.autograd.grad(mean, values)
    assert gradient.tolist() == [0.5, 0, 0.5, 0]
    assert math.isnan(float(mean_where(values.detach(), torch.zeros(4, dtype=torch.bool))))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_visible_modality_learns(make_clips: MakeClips, small_config: Config, recipe: str) -> None:
    config = recipes(small_config)[recipe]
    model = MaskedPrediction(config)
    batch = made_batch(make_clips, config)
    model(batch)["loss"].backward()
    for name in config.tokens.modalities:
        assert all(name in view.visible.tokens for view in batch.views)
        embedding = model.fusion.embedding
        for part in (embedding.content[name], embedding.position.by_modality[name]):
            assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in part.parameters())
    for parameter in (*model.predictor.parameters(), *model.target.parameters()):
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
    assert model.predictor.query.grad is not None
    assert bool((model.predictor.query.grad.abs().sum(1) > 0).all())


def test_a_modality_that_is_not_visible_gets_no_gradient(make_clips: MakeClips, small_config: Config) -> None:
    model = MaskedPrediction(small_config)
    model(made_batch(make_clips, small_config, absent={"text": range(6)}))["loss"].backward()
    assert all(p.grad is None for p in model.fusion.embedding.content["text"].parameters())
    assert all(p.grad is not None for p in model.fusion.embedding.content["video"].parameters())


ROUTING_TABLE = [("SSS", 0), ("SSC", 1), ("SCS", 2), ("CCC", 3), ("CCS", 4), ("CSS", 5)]


def routed(config: Config, letters: str) -> Config:
    routes: dict[str, Routing] = {"S": "modality", "C": "joint"}
    model = replace(config.model, fusion_attention=routes[letters[0]], target_attention=routes[letters[1]])
    return replace(config, model=model, predictor=replace(config.predictor, attention=routes[letters[2]]))


def test_the_routing_table_has_six_different_methods(make_clips: MakeClips, small_config: Config) -> None:
    """Fusion, target and predictor each separate (S) or joint (C): table 8 of the paper."""
    states = networks.randomised(MaskedPrediction(small_config)).state_dict()
    batch = made_batch(make_clips, small_config)
    outputs: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for letters, _ in ROUTING_TABLE:
        model = MaskedPrediction(routed(small_config, letters))
        model.load_state_dict(states)
        (output,) = model.compare(batch)
        assert bool(model(batch)["loss"].isfinite())
        outputs[letters] = (output.fused, output.comparison.targets, output.comparison.predictions)
    for a, b in itertools.combinations(outputs, 2):
        for part, (x, y) in enumerate(zip(outputs[a][:2], outputs[b][:2], strict=True)):
            assert torch.equal(x, y) == (a[part] == b[part])
        same_predictions = a[0] == b[0] and a[2] == b[2]
        assert torch.equal(outputs[a][2], outputs[b][2]) == same_predictions


def train(model: MaskedPrediction, batch: Batch, steps: int, lr: float, momentum: bool) -> list[float]:
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if momentum:
            model.after_step(0.0)
        losses.append(float(loss.detach()))
    return losses


def test_one_batch_with_resting_targets_can_be_learned_by_heart(make_clips: MakeClips, small_config: Config) -> None:
    """With a predictor at least as wide as the latents; a narrower one cannot reach their last directions."""
    torch.manual_seed(0)
    config = replace(small_config, predictor=replace(small_config.predictor, width=40))
    model = MaskedPrediction(config)
    losses = train(model, made_batch(make_clips, config, n=8), 200, 3e-3, momentum=False)
    assert losses[0] == pytest.approx(1.0, abs=0.15)  # normalised targets against predictions near zero
    assert losses[-1] < 0.02 * losses[0]


def test_moving_targets_keep_their_spread_while_the_loss_falls(make_clips: MakeClips, small_config: Config) -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(small_config)
    batch = made_batch(make_clips, small_config, n=8)

    def spread() -> float:
        return float(model.compare(batch)[0].comparison.targets.flatten(0, 1).std(0).mean())

    before = spread()
    losses = train(model, batch, 150, 2e-3, momentum=True)
    assert losses[-1] < 0.5 * losses[0]
    assert spread() > 0.6 * before


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_few_steps_lower_the_loss_on_one_batch(make_clips: MakeClips, small_config: Config, recipe: str) -> None:
    torch.manual_seed(0)
    config = recipes(small_config)[recipe]
    model = MaskedPrediction(config)
    losses = train(
        model, made_batch(make_clips, config, absent={"skeleton": {2}, "text": {0}}), 25, 3e-3, momentum=True
    )
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("recipe", ["oskar", "customised", "mae"])
def test_a_mixed_batch_equals_its_clips_alone(make_clips: MakeClips, small_config: Config, recipe: str) -> None:
    """Drawing, packing and every network: what a clip contributes does not depend on its neighbours."""
    config = recipes(small_config)[recipe]
    model = networks.randomised(MaskedPrediction(config))
    clips = make_clips(6, config.tokens, absent=ABSENT, min_words=2)
    (together,) = model.compare(build_batch(clips, config, 0))
    assert not bool(together.target.is_full)
    for i in range(6):
        rows = slice(i, i + 1)
        (single,) = model.compare(build_batch(clips.rows(torch.tensor([i])), config, 0))
        own = together.target.is_valid[rows]
        assert torch.equal(own, single.target.is_valid)
        torch.testing.assert_close(
            together.comparison.error[rows][own], single.comparison.error[own], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("is_bfloat16", [False, True])
@pytest.mark.parametrize("recipe", ["oskar", "customised", "mae"])
def test_a_clip_without_any_token_does_no_harm(
    make_clips: MakeClips, small_config: Config, recipe: str, is_bfloat16: bool
) -> None:
    config = recipes(small_config)[recipe]
    model = MaskedPrediction(config)
    batch = made_batch(make_clips, config, absent={"video": {2}, "skeleton": {2}, "text": {2}})
    assert not bool(batch.views[0].visible.is_valid[2].any())
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
        loss = model(batch)["loss"]
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("names", [("video",), ("skeleton",), ("text",), ("video", "text"), ("skeleton", "text")])
def test_any_subset_of_modalities_pretrains(
    make_clips: MakeClips, small_config: Config, names: tuple[str, ...]
) -> None:
    config = small_config.with_overrides([f"tokens.modalities={list(names)}".replace("'", '"')])
    model = MaskedPrediction(config)
    losses = model(made_batch(make_clips, config))
    losses["loss"].backward()
    model.after_step(0.5)
    assert set(losses) == {"loss", *(f"loss_{name}" for name in names)}
    assert all(bool(loss.isfinite()) for loss in losses.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_bfloat16_autocast_runs_and_stays_close(make_clips: MakeClips, small_config: Config, recipe: str) -> None:
    torch.manual_seed(0)
    config = recipes(small_config)[recipe]
    model = MaskedPrediction(config)
    absent = {} if recipe == "vjepa" else {"video": {2}, "skeleton": {2, 3}, "text": {4}}
    batch = made_batch(make_clips, config, absent=absent)
    exact = model(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)["loss"]
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.03)
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    model.after_step(0.0)


def test_a_batch_counts_its_tokens_and_moves_whole(make_clips: MakeClips, small_config: Config) -> None:
    config = recipes(small_config)["vjepa"]
    batch = made_batch(make_clips, config)
    assert len(batch) == 6
    sizes = [view.visible.segments.shape[1] + view.target.segments.shape[1] for view in batch.views]
    assert batch.n_tokens == 6 * sum(sizes)
    moved = batch.to(torch.device("meta"))
    assert moved.views[0].visible.tokens["video"].values.is_meta
    assert moved.everything is not None
    assert moved.everything.segments.is_meta
    assert all(slots.is_meta for slots in moved.target_slots)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_never_looks_at_values(make_clips: MakeClips, small_config: Config, recipe: str) -> None:
    """On the meta device reading a value fails: a step that passes never makes a GPU wait for the host."""
    config = recipes(small_config)[recipe]
    absent = {} if recipe == "vjepa" else ABSENT
    batch = made_batch(make_clips, config, absent=absent, min_words=2).to(torch.device("meta"))
    model = MaskedPrediction(config).to("meta")
    model(batch)["loss"].backward()
    model.after_step(0.5)


def test_the_cost_of_a_step_does_not_grow_with_the_raw_grid(make_clips: MakeClips, small_config: Config) -> None:
    larger = replace(small_config, tokens=replace(small_config.tokens, resolution=128, n_frames=8, n_people=5))
    for config in (small_config, larger):
        view = made_batch(make_clips, config).views[0]
        assert view.visible.segments.shape == view.target.segments.shape == (6, 16)
        taken = sum(len(t.values) for packed in (view.visible, view.target) for t in packed.tokens.values())
        assert taken == 6 * 32
