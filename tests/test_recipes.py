"""What every recipe must hold, whatever it is made of: the seam suite, over all registered recipes."""

import copy
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from conftest import MakeClips
from runs import shrunk
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.masking.packing import Batch, PackedTokens, build_batch
from oskar.masking.plan import View, draw_views
from oskar.modalities import modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.model.momentum import MomentumEncoders
from oskar.pretraining import MaskedPrediction
from oskar.recipes import RECIPES
from oskar.tokens import token_sources
from oskar.train.checkpoint import load_module_strict
from oskar.train.optim import build_optimizer, clip_gradients

N_CLIPS = 4


@pytest.fixture(params=RECIPES)
def config(request: pytest.FixtureRequest) -> Config:
    name: str = request.param
    return shrunk(name)


def plan(clips: ClipBatch, config: Config, step: int = 0) -> tuple[View, ...]:
    sources, specs = token_sources(clips, config.tokens), modality_specs(config.tokens)
    masking, seed = config.masking, config.train.seed
    return draw_views(sources, specs, masking, seed=seed, step=step, clip_ids=clips.clip_ids)


def chosen(view_set: PackedTokens) -> list[tuple[int, int, int]]:
    """(clip, modality, token) of every chosen token."""
    n_slots = view_set.segments.shape[1]
    names = list(view_set.tokens)
    return [
        (int(slot) // n_slots, names.index(name), int(token))
        for name, tokens in view_set.tokens.items()
        for slot, token in zip(tokens.slots, tokens.token_idx, strict=True)
    ]


def test_visible_and_target_share_no_token(config: Config, make_clips: MakeClips) -> None:
    for step in range(5):
        batch = build_batch(make_clips(N_CLIPS, config.tokens, seed=step), config, step)
        for view in batch.views:
            visible, target = chosen(view.visible), chosen(view.target)
            assert len(set(visible)) == len(visible) > 0
            assert len(set(target)) == len(target) > 0
            assert not set(visible) & set(target)


def test_budgets_hold(config: Config, make_clips: MakeClips) -> None:
    for step in range(5):
        for view in plan(make_clips(N_CLIPS, config.tokens, seed=step), config, step):
            n_visible, n_target = view.visible_idx.is_valid.sum(1), view.target_idx.is_valid.sum(1)
            if config.masking.style == "blocks":  # cut to the clip that has fewest
                assert len(set(n_visible.tolist())) == len(set(n_target.tolist())) == 1
            else:
                assert set(n_visible.tolist()) == {config.masking.n_visible}
                assert set(n_target.tolist()) == {config.masking.n_target}
    if config.masking.style == "blocks":
        cut = replace(config, masking=replace(config.masking, n_visible=5, n_target=7))
        for view in plan(make_clips(N_CLIPS, config.tokens), cut):
            assert view.visible_idx.is_valid.sum(1).max() <= 5
            assert view.target_idx.is_valid.sum(1).max() <= 7


def test_the_plan_follows_from_seed_step_and_clip(config: Config, make_clips: MakeClips) -> None:
    clips = make_clips(N_CLIPS, config.tokens)

    def drawn(seed: int, step: int) -> list[Tensor]:
        views = plan(clips, replace(config, train=replace(config.train, seed=seed)), step)
        sets = [s for view in views for s in (view.visible_idx, view.target_idx)]
        return [s.modality_idx * 10_000 + s.token_idx for s in sets]

    first = drawn(0, 3)
    torch.rand(7)  # the global state plays no part
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(0, 3), strict=True))
    for other in (drawn(1, 3), drawn(0, 4)):
        assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True))


def hidden_changed(clips: ClipBatch, config: Config, view: View) -> ClipBatch:
    """The clips with other values in every token that ``view`` does not show."""
    names = list(modality_specs(config.tokens))
    shown = {name: torch.zeros(N_CLIPS, spec.n_tokens) for name, spec in modality_specs(config.tokens).items()}
    for m, name in enumerate(names):
        clip, slot = (view.visible_idx.modality_idx == m).nonzero(as_tuple=True)
        shown[name][clip, view.visible_idx.token_idx[clip, slot]] = 1
    changed: dict[str, Any] = {}
    if clips.frames is not None:
        t, p = config.tokens.tubelet_frames, config.tokens.patch_size
        grid = shown["video"].view(N_CLIPS, -1, config.tokens.resolution // p, config.tokens.resolution // p)
        pixels = grid.repeat_interleave(t, 1).repeat_interleave(p, 2).repeat_interleave(p, 3)[:, :, None].bool()
        changed["frames"] = torch.where(pixels, clips.frames, 255 - clips.frames)
    if clips.joints is not None:
        by_segment = shown["skeleton"].view(N_CLIPS, clips.joints.shape[1], -1, clips.joints.shape[3])
        is_shown = by_segment.repeat_interleave(config.tokens.segment_frames, 2)[..., None].bool()
        moved = torch.cat([1 - clips.joints[..., :2], clips.joints[..., 2:]], -1)  # which exist stays the same
        changed["joints"] = torch.where(is_shown, clips.joints, moved)
    if clips.word_ids is not None:
        is_hidden = (shown["text"] == 0) & (clips.word_ids >= 0)
        changed["word_ids"] = torch.where(is_hidden, (clips.word_ids + 7) % 64, clips.word_ids)
    return replace(clips, **changed)


def test_hidden_content_does_not_reach_the_encoder(config: Config, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(config).eval()
    clips = make_clips(N_CLIPS, config.tokens)
    for number, view in enumerate(plan(clips, config)):
        changed = hidden_changed(clips, config, view)
        before, after = build_batch(clips, config, 0), build_batch(changed, config, 0)
        assert chosen(before.views[number].visible) == chosen(after.views[number].visible)
        assert not all(
            torch.equal(tokens.values, after.views[number].target.tokens[name].values)
            for name, tokens in before.views[number].target.tokens.items()
            if name != "skeleton"
        )
        fused = [model.fusion(b.views[number].visible, model.routing) for b in (before, after)]
        assert torch.equal(fused[0], fused[1])


def test_targets_carry_no_gradient(config: Config, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(config)
    batch = build_batch(make_clips(N_CLIPS, config.tokens), config, 0)
    for output in model.compare(batch):
        assert not output.comparison.targets.requires_grad
        assert output.comparison.error.requires_grad
    model(batch)["loss"].backward()
    if model.momentum is not None:
        assert not any(p.requires_grad or p.grad is not None for p in model.momentum.parameters())
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    clipped = [id(p) for group in model.parameter_groups_for_clipping().values() for p in group]
    assert sorted(trainable) == sorted(clipped)  # every trainable parameter is clipped, once


def steps_on(model: MaskedPrediction, config: Config, batch: Batch, n: int) -> list[float]:
    optimizer = build_optimizer(model, config.train)
    losses = []
    for _ in range(n):
        loss = model(batch)["loss"]
        loss.backward()
        clip_gradients(model.parameter_groups_for_clipping().values(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(0.0)
        losses.append(float(loss.detach()))
    return losses


def test_a_few_steps_lower_the_loss(config: Config, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    config = replace(config, train=replace(config.train, lr=3e-3))
    model = MaskedPrediction(config)
    losses = steps_on(model, config, build_batch(make_clips(N_CLIPS, config.tokens), config, 0), 15)
    assert losses[-1] < 0.95 * losses[0]


def test_any_modality_may_be_absent(config: Config, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(config)
    names = config.tokens.modalities
    if len(names) == 1:
        pytest.skip(f"{names[0]} is all this recipe has")
    everyone = range(N_CLIPS)
    cases: list[dict[str, object]] = [{name: {0}} for name in names]  # of one clip
    cases += [{name: everyone} for name in names]  # of the whole batch
    cases += [{name: everyone for name in names if name != only} for only in names if only != "text"]
    cases += [{name: set(everyone) - {i} for i, name in enumerate(names)}]  # every clip has another one
    for absent in cases:
        result = model(build_batch(make_clips(N_CLIPS, config.tokens, absent=absent), config, 0))
        model.zero_grad()
        result["loss"].backward()
        assert bool(result["loss"].isfinite())
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
        for name in names:
            is_gone = absent.get(name) == everyone
            assert bool(result[f"loss_{name}"].isnan()) or not is_gone


def test_the_state_reloads_strictly(config: Config, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(config)
    batch = build_batch(make_clips(N_CLIPS, config.tokens), config, 0)
    steps_on(model, config, batch, 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    other = MaskedPrediction(config)
    load_module_strict(other, state, "made")
    assert list(other.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    assert torch.equal(other(batch)["loss"], model(batch)["loss"])


def different_sections(a: Config, b: Config) -> set[str]:
    return {f.name for f in fields(Config) if getattr(a, f.name) != getattr(b, f.name)}


def test_only_what_names_it_differs_between_variants() -> None:
    small, custom = RECIPES["oskar-small"](), RECIPES["oskar-custom"]()
    assert different_sections(small, custom) == {"recipe", "momentum"}
    assert (custom.momentum.video, custom.momentum.skeleton, custom.momentum.text) == (0.998, 0.9998, 0.99998)
    tiny, mae = RECIPES["oskar-tiny"](), RECIPES["mae-tiny"]()
    assert different_sections(tiny, mae) == {"recipe", "target", "momentum"}
    vjepa = RECIPES["vjepa-tiny"]()
    assert (vjepa.train, vjepa.clip) == (tiny.train, tiny.clip)


@pytest.mark.parametrize("name", ["oskar-tiny", "oskar-demo"])
def test_tiny_targets_start_fixed_and_end_following(name: str) -> None:
    """The average's share of the online weights: none at the start, a hundredth at the end, half of it half-way."""
    torch.manual_seed(0)
    config = shrunk(name)
    online = TokenEncoder(config.tokens, config.model)
    for share, expected in ((0.0, 0.0), (0.5, 0.005), (1.0, 0.01)):
        averaged = MomentumEncoders(online, config.momentum)
        moved = copy.deepcopy(online)
        with torch.no_grad():
            moved.norm.weight.add_(1.0)
        averaged.update(moved, share)
        drift = averaged.encoder("video").norm.weight - online.norm.weight
        torch.testing.assert_close(drift, torch.full_like(drift, expected), rtol=1e-3, atol=1e-6)
