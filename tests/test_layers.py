"""Attention, feed-forward layers and blocks against written-out references."""

import itertools
import math

import pytest
import torch
from oracles import networks

from oskar.config import ModelConfig, TokensConfig
from oskar.model.attention import attend
from oskar.model.encoder import TokenEncoder
from oskar.model.layers import GELUMLP, Attention, Block, DropPath, SwiGLU, allowed_pairs, set_drop_path


@pytest.mark.parametrize(("bias", "has_context", "has_pairs"), list(itertools.product((False, True), repeat=3)))
def test_attention_equals_the_einsum_written_out(bias: bool, has_context: bool, has_pairs: bool) -> None:
    attention = networks.randomised(Attention(24, 3, bias))
    x = torch.randn(2, 5, 24)
    context = torch.randn(2, 7, 24) if has_context else None
    keys = x if context is None else context
    pairs = torch.rand(2, 5, keys.shape[1]) < 0.6 if has_pairs else None
    if pairs is not None:
        pairs[:, :, 0] = True
    expected = networks.attention(x, keys, attention.query_key_value.weight, attention.query_key_value.bias, 3, pairs)
    expected = attention.output(expected)
    actual = attention(x, context, None if pairs is None else pairs[:, None])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_pairs", [False, True])
def test_bfloat16_attention_is_the_same_in_both_of_its_forms(has_pairs: bool) -> None:
    query, key, value = (torch.randn(2, 3, n, 8).bfloat16() for n in (9, 11, 11))
    pairs = torch.rand(2, 1, 9, 11) < 0.5 if has_pairs else None
    if pairs is not None:
        pairs[..., 0] = True
    written_out = attend(query.requires_grad_(), key, value, pairs)
    with torch.no_grad():
        fused = attend(query, key, value, pairs)
    exact = attend(query.float(), key.float(), value.float(), pairs)
    for actual in (written_out, fused):
        torch.testing.assert_close(actual.float(), exact, rtol=0.03, atol=0.03)
    (expected,) = torch.autograd.grad(exact.sum(), query)
    (actual,) = torch.autograd.grad(written_out.sum(), query)
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)


def test_swiglu_by_hand() -> None:
    mlp = SwiGLU(3, bias=False)  # hidden width 8
    x = torch.tensor([0.5, -1.0, 2.0])
    weight = mlp.gate_value.weight.detach()
    gate, value = weight[:8] @ x, weight[8:] @ x
    hidden = [float(g) / (1 + math.exp(-float(g))) * float(v) for g, v in zip(gate, value, strict=True)]
    torch.testing.assert_close(mlp(x), mlp.output.weight @ torch.tensor(hidden))
    assert [SwiGLU(width, False).output.in_features for width in (384, 768, 1024)] == [1024, 2048, 2730]


def test_gelu_mlp_is_four_times_wide_and_exact() -> None:
    mlp = networks.randomised(GELUMLP(4, bias=True))
    x = torch.randn(4)
    hidden = [0.5 * float(h) * (1 + math.erf(float(h) / math.sqrt(2))) for h in mlp.input(x).detach()]
    assert len(hidden) == 16
    torch.testing.assert_close(mlp(x), mlp.output(torch.tensor(hidden)))


def test_blocks_are_pre_norm_and_residual() -> None:
    block = Block(24, 3, ModelConfig(width=24, n_heads=3))
    x, context = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    for other in (None, context):
        attended = x + block.attention(networks.layer_norm(x, 1e-6), other)
        expected = attended + block.mlp(networks.layer_norm(attended, 1e-6))
        torch.testing.assert_close(block(x, other), expected, rtol=1e-5, atol=1e-5)


def test_allowed_pairs_by_hand() -> None:
    segments = torch.tensor([[0, 0, 2, -1]])
    within = allowed_pairs(segments, segments, within_segment=True)[0, 0].long()
    assert within.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    joint = allowed_pairs(segments, segments, within_segment=False)[0, 0].long()
    assert joint.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_initial_weights_are_normal_of_the_configured_width() -> None:
    encoder = TokenEncoder(TokensConfig(vocabulary_size=500), ModelConfig(n_blocks=1, bias=True))
    for name, parameter in encoder.named_parameters():
        if parameter.dim() == 2 and parameter.numel() > 5000:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05), name
        elif name.endswith("bias"):
            assert float(parameter.detach().abs().max()) == 0, name
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    assert block.norm_mlp.eps == 1e-6


def test_drop_path_is_nothing_until_it_is_configured() -> None:
    config = ModelConfig(width=16, n_blocks=3, n_heads=2)
    encoder = TokenEncoder(TokensConfig(), config).train()
    assert not [name for name in encoder.state_dict() if "drop_path" in name]
    branch, before = torch.randn(2, 3, 4), torch.get_rng_state()
    assert DropPath()(branch) is branch
    assert torch.equal(torch.get_rng_state(), before)  # pretraining draws nothing
    set_drop_path(encoder.blocks, 0.3)
    rates = [block.drop_path.rate for block in encoder.blocks if isinstance(block, Block)]
    assert rates == pytest.approx([0.0, 0.15, 0.3])


def test_drop_path_leaves_out_whole_branches_of_some_clips_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    path, branch = DropPath(), torch.ones(20000, 2, 3)
    path.rate = 0.25
    dropped = path.train()(branch)
    is_kept = dropped[:, 0, 0] != 0
    torch.testing.assert_close(dropped, is_kept[:, None, None] / 0.75 * branch)
    assert abs(float(is_kept.double().mean()) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 20000)
    assert path.eval()(branch) is branch


def test_a_block_whose_path_is_always_dropped_does_nothing_in_training() -> None:
    torch.manual_seed(0)
    block = networks.randomised(Block(16, 2, ModelConfig(width=16, n_heads=2))).train()
    x = torch.randn(64, 5, 16)
    without = block(x)
    block.drop_path.rate = 0.5
    changed = (block(x) - x).flatten(1).abs().amax(1) > 0
    assert 0.5 < float(changed.double().mean()) < 1.0  # three in four keep one branch at least
    torch.testing.assert_close(block.eval()(x), without)
