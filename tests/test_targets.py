"""Prediction targets: latents picked and normalised, pixels, joints and words, none of them with a gradient."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from oracles import networks
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import BlockConfig, Config, MaskingConfig, MomentumConfig, Routing, TargetConfig
from oskar.masking.packing import Batch, PackedTokens, build_batch
from oskar.pretraining import MaskedPrediction
from oskar.targets.input_space import InputTarget
from oskar.targets.latent import LatentTarget
from oskar.tokens.video import PIXEL_MEAN, PIXEL_STD

NO_MOMENTUM = MomentumConfig(video=None, skeleton=None, text=None)
ABSENT = {"video": {1, 4}, "skeleton": {1, 2}, "text": {3}}


def mae_config(config: Config, normalise: bool = True) -> Config:
    return replace(config, target=TargetConfig(space="input", normalise=normalise), momentum=NO_MOMENTUM)


def vjepa_config(config: Config) -> Config:
    blocks = (BlockConfig(n_blocks=2, spatial_scale=0.3), BlockConfig(n_blocks=1, spatial_scale=0.7))
    return replace(
        config,
        tokens=replace(config.tokens, modalities=("video",)),
        masking=MaskingConfig(style="blocks", blocks=blocks, n_visible=None, n_target=None),
        model=replace(config.model, mlp="gelu", bias=True, positions="sincos"),
        predictor=replace(config.predictor, kind="joint", context_positions=True),
        target=TargetConfig(context="all", loss="l1"),
    )


def made_batch(make_clips: MakeClips, config: Config, **made: object) -> Batch:
    return build_batch(make_clips(6, config.tokens, **made), config, step=0)


# ---- latents ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "normalise"), [("mse", True), ("l1", True), ("mse", False)])
def test_latents_are_compared_feature_by_feature(
    make_clips: MakeClips, small_config: Config, loss: str, normalise: bool
) -> None:
    settings = TargetConfig(normalise=normalise, loss="mse" if loss == "mse" else "l1")
    model = networks.randomised(MaskedPrediction(replace(small_config, target=settings)))
    batch = made_batch(make_clips, small_config)
    assert isinstance(model.target, LatentTarget)
    assert model.momentum is not None
    predicted = torch.randn(6, 16, 24)
    (latents,) = model.target.latents(batch, model.momentum)
    raw = model.momentum(batch.views[0].target, "modality")
    expected = networks.layer_norm(raw, 1e-5) if normalise else raw
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    comparison = model.target(predicted, batch.views[0].target, latents)
    difference = predicted @ model.target.readout.weight.T - expected
    error = difference.square() if loss == "mse" else difference.abs()
    torch.testing.assert_close(comparison.error, error.sum(-1) / 32, rtol=1e-3, atol=1e-3)
    assert not latents.requires_grad
    assert not comparison.predictions.requires_grad
    assert comparison.error.requires_grad


def test_the_loss_has_no_gradient_towards_the_targets(make_clips: MakeClips, small_config: Config) -> None:
    """With the same weights on both sides, the gradient is that of a regression to constants."""
    model = networks.randomised(MaskedPrediction(small_config))
    batch = made_batch(make_clips, small_config)
    model(batch)["loss"].backward()
    gradient = [p.grad.clone() for p in model.fusion.parameters() if p.grad is not None]
    model.zero_grad()
    constants = [t.clone() for t in model.target.latents(batch, model.momentum) or []]
    view = batch.views[0]
    comparison = model.target(model.predictor(model.fusion(view.visible, "joint"), view, 0), view.target, constants[0])
    comparison.error.mean().backward()
    for a, b in zip(gradient, model.fusion.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-4, atol=1e-6)


def test_targets_see_target_tokens_only(make_clips: MakeClips, small_config: Config) -> None:
    """Unlike V-JEPA's: a visible token cannot change a target."""
    model = networks.randomised(MaskedPrediction(small_config))
    batch = made_batch(make_clips, small_config)
    view = batch.views[0]
    skeleton = view.visible.tokens["skeleton"]
    other = replace(
        view.visible, tokens={**view.visible.tokens, "skeleton": replace(skeleton, values=-skeleton.values)}
    )
    changed = replace(batch, views=(replace(view, visible=other),))
    for a, b in zip(model.compare(batch), model.compare(changed), strict=True):
        assert torch.equal(a.comparison.targets, b.comparison.targets)
        assert not torch.equal(a.fused, b.fused)


def test_vjepa_targets_are_a_full_pass_picked_at_its_output(make_clips: MakeClips, small_config: Config) -> None:
    config = vjepa_config(small_config)
    model = networks.randomised(MaskedPrediction(config))
    clips = make_clips(6, config.tokens)
    batch = build_batch(clips, config, 0)
    assert len(batch.views) == 2
    assert batch.everything is not None
    assert batch.everything.segments.shape == (6, 32)
    assert model.momentum is not None
    full = networks.layer_norm(model.momentum(batch.everything, "modality"), 1e-5)  # token n stands in slot n
    for view, output in zip(batch.views, model.compare(batch), strict=True):
        video = view.target.tokens["video"]
        assert view.target.is_full
        picked = full[video.slots // view.target.segments.shape[1], video.token_idx]
        torch.testing.assert_close(output.comparison.targets.flatten(0, 1), picked, rtol=1e-4, atol=1e-4)
    assert clips.frames is not None
    before = model.compare(batch)[0].comparison.targets
    clips.frames[:, :, :, :8, :8] = 255 - clips.frames[:, :, :, :8, :8]  # the whole clip is the context of a target
    after = model.compare(build_batch(clips, config, 0))[0].comparison.targets
    assert bool((before != after).any(-1).all())


def test_all_tokens_as_context_also_with_three_modalities_and_absent_ones(
    make_clips: MakeClips, small_config: Config
) -> None:
    config = replace(small_config, target=TargetConfig(context="all"))
    model = networks.randomised(MaskedPrediction(config))
    clips = make_clips(6, config.tokens, absent=ABSENT, min_words=2)
    batch = build_batch(clips, config, 0)
    assert batch.everything is not None
    assert not batch.everything.is_full
    assert model.momentum is not None
    full = networks.layer_norm(model.momentum(batch.everything, "modality"), 1e-5).flatten(0, 1)
    places = {
        (int(slot) // batch.everything.segments.shape[1], name, int(token)): int(slot)
        for name, tokens in batch.everything.tokens.items()
        for slot, token in zip(tokens.slots, tokens.token_idx, strict=True)
    }
    targets = model.compare(batch)[0].comparison.targets.flatten(0, 1)
    for name, tokens in batch.views[0].target.tokens.items():
        for slot, token in zip(tokens.slots.tolist(), tokens.token_idx.tolist(), strict=True):
            place = places[slot // 16, name, token]
            torch.testing.assert_close(targets[slot], full[place], rtol=1e-4, atol=1e-4)


def test_views_share_one_pass_over_all_tokens(
    make_clips: MakeClips, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = vjepa_config(small_config)
    model = MaskedPrediction(config)
    assert model.momentum is not None
    calls: list[PackedTokens] = []
    original = model.momentum.forward

    def counted(packed: PackedTokens, routing: Routing) -> Tensor:
        calls.append(packed)
        return original(packed, routing)

    monkeypatch.setattr(model.momentum, "forward", counted)
    model(made_batch(make_clips, config))
    assert len(calls) == 1


# ---- input space ------------------------------------------------------------------------------------------


def test_pixel_targets_have_mean_zero_and_variance_one(make_clips: MakeClips, small_config: Config) -> None:
    batch = made_batch(make_clips, small_config)
    video = batch.views[0].target.tokens["video"]
    target = InputTarget(mae_config(small_config))
    values = target.values("video", video)
    assert values.shape == (len(video.slots), 2 * 3 * 8 * 8)
    torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.square().mean(1), torch.ones(len(values)), atol=1e-4, rtol=0)
    plain = InputTarget(mae_config(small_config, normalise=False)).values("video", video)
    expected = (float(video.values[0, 64]) / 255 - PIXEL_MEAN[1]) / PIXEL_STD[1]  # frame 0, green, row 0, column 0
    assert float(plain[0, 64]) == pytest.approx(expected, rel=1e-4)


def test_input_errors_by_hand(make_clips: MakeClips, small_config: Config) -> None:
    target = networks.randomised(InputTarget(mae_config(small_config)))
    tokens = made_batch(make_clips, small_config, absent=ABSENT).views[0].target
    predicted = torch.randn(6, 16, 24)
    comparison = target(predicted, tokens, None)
    flat, error = predicted.flatten(0, 1), comparison.error.flatten()
    for name, packed in tokens.tokens.items():
        readout = target.readouts[name]
        assert isinstance(readout, nn.Linear)
        for n in range(0, len(packed.slots), 5):
            slot = int(packed.slots[n])
            output = readout.weight @ flat[slot] + readout.bias
            if name == "text":
                odds = torch.softmax(output, 0)
                expected = -math.log(float(odds[int(packed.values[n])].detach())) / math.log(50)
            elif name == "skeleton":
                place = (packed.values[n, :2] - 0.5) / 0.25
                expected = float((output - place).square().mean().detach())
            else:
                pixels = target.values("video", packed)[n]
                expected = float((output - pixels).square().mean().detach())
                torch.testing.assert_close(comparison.targets.flatten(0, 1)[slot], pixels)
            assert float(error[slot].detach()) == pytest.approx(expected, rel=1e-3)
    assert float(error[~tokens.is_valid.flatten()].detach().abs().sum()) == 0
    assert not comparison.targets.requires_grad
    assert not comparison.predictions.requires_grad


def test_word_surprise_starts_at_one(make_clips: MakeClips, small_config: Config) -> None:
    tokens = made_batch(make_clips, small_config).views[0].target
    target = InputTarget(mae_config(small_config))
    comparison = target(torch.zeros(6, 16, 24), tokens, None)  # all words equally likely: log V / log V
    is_word = tokens.segments == 2
    torch.testing.assert_close(comparison.error[is_word], torch.ones(int(is_word.sum())))
    logits = torch.randn(4, 50)
    ids = torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(
        F.cross_entropy(logits, ids), (logits.logsumexp(1) - logits[torch.arange(4), ids]).mean()
    )


@pytest.mark.parametrize("names", [("video",), ("skeleton",), ("text",), ("skeleton", "text"), ("video", "text")])
def test_any_subset_of_modalities_can_be_predicted_in_input_space(
    make_clips: MakeClips, small_config: Config, names: tuple[str, ...]
) -> None:
    config = mae_config(small_config)
    config = config.with_overrides([f"tokens.modalities={list(names)}".replace("'", '"')])
    model = MaskedPrediction(config)
    losses = model(made_batch(make_clips, config))
    assert set(losses) == {"loss", *(f"loss_{name}" for name in names)}
    losses["loss"].backward()
    assert bool(losses["loss"].isfinite())
    assert model.encoder(names[0]) is model.fusion


def test_a_missing_frame_of_a_joint_is_no_error(make_clips: MakeClips, small_config: Config) -> None:
    """Each token's error is the mean over the coordinates of the frames in which its joint is there, by hand."""
    tokens = replace(small_config.tokens, segment_frames=2, modalities=("skeleton",))
    config = mae_config(replace(small_config, tokens=tokens))
    batch = build_batch(make_clips(6, tokens, share_confident=0.5), config, step=0)
    target, packed = networks.randomised(InputTarget(config)), batch.views[0].target
    predicted = torch.randn(*packed.segments.shape, config.predictor.width)
    error = target(predicted, packed, None).error.flatten()
    joints, n_partial = packed.tokens["skeleton"], 0
    readout = target.readouts["skeleton"]
    for slot, values in zip(joints.slots.tolist(), joints.values, strict=True):
        place = readout(predicted.flatten(0, 1)[slot])
        frames = [(place[2 * f : 2 * f + 2], values[3 * f : 3 * f + 3]) for f in range(2)]
        known = [((said - (seen[:2] - 0.5) / 0.25) ** 2).mean() for said, seen in frames if seen[2] > 0]
        n_partial += len(known) == 1
        torch.testing.assert_close(error[slot], torch.stack(known).mean(), rtol=1e-4, atol=1e-5)
    assert n_partial > 3
