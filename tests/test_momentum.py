"""Momentum encoders: equation (2), one copy or three, and targets that no other modality can change."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from torch import Tensor

from oskar.config import Config, MomentumConfig
from oskar.errors import InputError
from oskar.masking.packing import PackedTokens, build_batch
from oskar.modalities import MODALITIES, Modality
from oskar.model.encoder import TokenEncoder
from oskar.model.momentum import MomentumEncoders
from oskar.pretraining import MaskedPrediction

SHARED = MomentumConfig()
CUSTOM = MomentumConfig(video=0.998, skeleton=0.9998, text=0.99998)


def online_encoder(config: Config) -> TokenEncoder:
    encoder = TokenEncoder(config.tokens, config.model)
    generator = torch.Generator().manual_seed(1)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return encoder


def target_tokens(make_clips: MakeClips, config: Config, **made: object) -> PackedTokens:
    return build_batch(make_clips(6, config.tokens, **made), config, 0).views[0].target


def only(packed: PackedTokens, name: Modality) -> PackedTokens:
    """One modality's tokens in their slots; all other slots empty."""
    own = packed.segments == MODALITIES.index(name)
    return PackedTokens(packed.segments.masked_fill(~own, -1), {name: packed.tokens[name]}, False)


def with_other_values(packed: PackedTokens, name: Modality) -> PackedTokens:
    tokens = packed.tokens[name]
    values = (
        (tokens.values + 1) % 50 if name == "text" else 255 - tokens.values if name == "video" else tokens.values / 2
    )
    return replace(packed, tokens={**packed.tokens, name: replace(tokens, values=values)})


@pytest.mark.parametrize("momentum", [SHARED, CUSTOM], ids=["shared", "customised"])
def test_targets_of_a_modality_ignore_the_others_bit_for_bit(
    make_clips: MakeClips, small_config: Config, momentum: MomentumConfig
) -> None:
    encoders = MomentumEncoders(online_encoder(small_config), momentum)
    packed = target_tokens(make_clips, small_config)
    before = encoders(packed, "modality")
    for m, name in enumerate(MODALITIES):
        after = encoders(with_other_values(packed, name), "modality")
        assert torch.equal((after != before).any(-1), packed.segments == m)


def test_the_shared_packed_pass_equals_three_separate_passes(make_clips: MakeClips, small_config: Config) -> None:
    encoders = MomentumEncoders(online_encoder(small_config), SHARED)
    packed = target_tokens(make_clips, small_config, absent={"video": {1}, "skeleton": {2}, "text": {1, 3}})
    together = encoders(packed, "modality")
    for m, name in enumerate(MODALITIES):
        alone = encoders(only(packed, name), "modality")
        own = packed.segments == m
        torch.testing.assert_close(together[own], alone[own], rtol=1e-5, atol=1e-5)


def test_customised_encoders_with_equal_momenta_equal_the_shared_one(
    make_clips: MakeClips, small_config: Config
) -> None:
    online = online_encoder(small_config)
    shared, custom = MomentumEncoders(online, SHARED), MomentumEncoders(online, CUSTOM)
    custom.momenta = dict.fromkeys(custom.momenta, 0.998)  # three copies, one lambda
    moved = online_encoder(small_config)
    for parameter in moved.parameters():
        parameter.data += 0.1
    for encoders in (shared, custom):
        for _ in range(3):
            encoders.update(moved, share=0.0)
    packed = target_tokens(
        make_clips, small_config, absent={"video": {1, 4}, "skeleton": {1, 2}, "text": {3}}, min_words=2
    )
    assert not packed.is_full
    real = packed.is_valid
    torch.testing.assert_close(shared(packed, "modality")[real], custom(packed, "modality")[real], rtol=1e-5, atol=1e-5)


def distance(encoder: TokenEncoder, online: TokenEncoder) -> Tensor:
    weights = dict(online.named_parameters())
    return torch.cat([(p - weights[name]).flatten() for name, p in encoder.named_parameters()])


@pytest.mark.parametrize("momentum", [SHARED, CUSTOM, MomentumConfig(video=0.5, skeleton=0.0, text=1.0)])
def test_the_distance_to_a_resting_encoder_shrinks_by_lambda_each_step(
    small_config: Config, momentum: MomentumConfig
) -> None:
    online = online_encoder(small_config)
    encoders = MomentumEncoders(online, momentum)
    for name in MODALITIES:
        assert float(distance(encoders.encoder(name), online).detach().abs().max()) == 0  # starts as an exact copy
    for parameter in online.parameters():
        parameter.data += torch.randn_like(parameter)
    before = {name: distance(encoders.encoder(name), online) for name in MODALITIES}
    for _ in range(20):
        encoders.update(online, share=0.3)
    for name in MODALITIES:
        expected = before[name] * getattr(momentum, name) ** 20
        torch.testing.assert_close(distance(encoders.encoder(name), online), expected, rtol=1e-3, atol=2e-5)


def test_a_final_momentum_is_reached_linearly(small_config: Config) -> None:
    online = online_encoder(small_config)
    encoders = MomentumEncoders(online, MomentumConfig(video=0.9, skeleton=0.9, text=0.9, final=1.0))
    for parameter in online.parameters():
        parameter.data += 1
    for share, expected in ((0.0, 0.9), (0.5, 0.9 * 0.95), (1.0, 0.9 * 0.95)):
        encoders.update(online, share)
        gap = distance(encoders.encoder("text"), online).abs()
        torch.testing.assert_close(gap, torch.full_like(gap, expected), rtol=1e-4, atol=0)


def test_slow_momenta_are_not_lost_to_rounding(small_config: Config) -> None:
    online = online_encoder(small_config)
    encoders = MomentumEncoders(online, replace(CUSTOM, video=0.99998))
    for parameter in online.parameters():
        parameter.data += 1
    for _ in range(1000):
        encoders.update(online, share=0.0)
    gap = float(distance(encoders.encoder("text"), online).detach().abs().double().mean())
    assert gap == pytest.approx(0.99998**1000, abs=2e-4)  # 0.9802: a bfloat16 average would stay at 1
    assert {p.dtype for p in encoders.parameters()} == {torch.float32}


@pytest.mark.parametrize("momentum", [SHARED, CUSTOM], ids=["shared", "customised"])
def test_no_gradient_reaches_the_averaged_side(
    make_clips: MakeClips, small_config: Config, momentum: MomentumConfig
) -> None:
    model = MaskedPrediction(replace(small_config, momentum=momentum))
    batch = build_batch(make_clips(6, small_config.tokens), small_config, 0)
    model(batch)["loss"].backward()
    assert model.momentum is not None
    assert all(not p.requires_grad and p.grad is None for p in model.momentum.parameters())
    assert all(p.grad is not None for p in model.fusion.parameters())
    clipped = [id(p) for group in model.parameter_groups_for_clipping().values() for p in group]
    assert len(clipped) == len(set(clipped))
    assert set(clipped) == {id(p) for p in model.parameters() if p.requires_grad}


def test_one_copy_if_shared_three_if_not(small_config: Config) -> None:
    online = online_encoder(small_config)
    n_weights = sum(p.numel() for p in online.parameters())
    shared, custom = MomentumEncoders(online, SHARED), MomentumEncoders(online, CUSTOM)
    assert sum(p.numel() for p in shared.parameters()) == n_weights
    assert len({id(shared.encoder(name)) for name in MODALITIES}) == 1
    assert len({id(custom.encoder(name)) for name in MODALITIES}) == 3
    owners = {key.split(".")[1] for key in custom.state_dict()}
    assert owners == set(MODALITIES)
    blocks = sum(p.numel() for p in online.blocks.parameters())
    assert sum(p.numel() for p in custom.parameters()) == n_weights + 2 * blocks + 2 * 64  # norm: weight and bias
    pointers = {p.data_ptr() for p in online.parameters()}
    assert not pointers & {p.data_ptr() for p in (*shared.parameters(), *custom.parameters())}


@pytest.mark.parametrize("momentum", [SHARED, CUSTOM], ids=["shared", "customised"])
def test_the_state_keeps_every_encoder(make_clips: MakeClips, small_config: Config, momentum: MomentumConfig) -> None:
    config = replace(small_config, momentum=momentum)
    model = MaskedPrediction(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    restored = MaskedPrediction(config)
    restored.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    batch = build_batch(make_clips(6, config.tokens), config, 0)
    assert model.momentum is not None
    assert restored.momentum is not None
    target = batch.views[0].target
    assert torch.equal(model.momentum(target, "modality"), restored.momentum(target, "modality"))
    assert torch.equal(model(batch)["loss"], restored(batch)["loss"])


def test_a_single_modality_has_a_single_encoder(small_config: Config) -> None:
    config = replace(small_config, tokens=replace(small_config.tokens, modalities=("skeleton",)), momentum=CUSTOM)
    model = MaskedPrediction(config)
    assert model.momentum is not None
    assert model.momentum.momenta == {"skeleton": 0.9998}
    assert model.encoder("skeleton") is model.momentum.encoder("skeleton")
    with pytest.raises(InputError, match="video"):
        model.encoder("video")


def test_joint_targets_need_one_encoder(small_config: Config) -> None:
    joint = replace(small_config.model, target_attention="joint")
    with pytest.raises(InputError, match="target_attention"):
        MaskedPrediction(replace(small_config, model=joint, momentum=CUSTOM))
    MaskedPrediction(replace(small_config, model=joint))
