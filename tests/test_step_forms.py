"""Cheaper forms of the same step: a gated layer that keeps less, recomputed blocks, targets in bfloat16."""

from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from torch import Tensor
from torch.nn import functional as F

from oskar.config import Config, MomentumConfig, PredictorConfig
from oskar.masking.packing import Batch, build_batch
from oskar.model.layers import gated
from oskar.planning.counting import LiveBytes
from oskar.pretraining import MaskedPrediction


def plain_gated(gate_value: Tensor) -> Tensor:
    gate, value = gate_value.chunk(2, dim=-1)
    return F.silu(gate) * value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_product_and_its_gradient_are_the_plain_ones_bit_for_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(3, 5, 64, generator=generator).to(dtype).requires_grad_()
    second = first.detach().clone().requires_grad_()
    upstream = torch.randn(3, 5, 32, generator=generator).to(dtype)
    found, wanted = gated(first), plain_gated(second)
    assert found.grad_fn is not None
    assert "Gated" in type(found.grad_fn).__name__
    found.backward(upstream)  # type: ignore[no-untyped-call]
    wanted.backward(upstream)  # type: ignore[no-untyped-call]
    assert torch.equal(found, wanted)
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)
    with torch.no_grad():
        assert torch.equal(gated(first), wanted)


def test_the_gated_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(gated, torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True))


def test_the_gated_product_keeps_less() -> None:
    def kept(function: object) -> int:
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = torch.randn(4, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = function(x * 1.0)  # type: ignore[operator]
        assert result.shape == (4, 32)
        return sum(saved.values())

    assert kept(gated) == 4 * 64 * 4  # its input alone
    assert kept(plain_gated) == 4 * 64 * 4 + 4 * 32 * 4  # silu of the gate too


def gradients(config: Config, module: MaskedPrediction, batch: Batch) -> tuple[list[Tensor], int]:
    """All gradients, and the most bytes alive on the way to them."""
    module.zero_grad(set_to_none=True)
    with LiveBytes() as live:
        module(batch)["loss"].backward()
    return [p.grad for p in module.parameters() if p.grad is not None], live.peak


@pytest.mark.parametrize("kind", ["cross", "joint"])
def test_recomputed_blocks_give_the_same_gradients_in_less_memory(
    make_clips: MakeClips, small_config: Config, kind: str
) -> None:
    predictor = PredictorConfig(kind="joint" if kind == "joint" else "cross", width=24, n_layers=4, n_heads=4)
    config = replace(small_config, predictor=predictor, model=replace(small_config.model, n_blocks=8))
    again = replace(config, model=replace(config.model, checkpointing=True))
    plain, recomputing = MaskedPrediction(config), MaskedPrediction(again)
    recomputing.load_state_dict(plain.state_dict())
    batch = build_batch(make_clips(6, config.tokens, absent={"video": {1}, "skeleton": {1}}, min_words=2), config, 0)
    wanted, peak = gradients(config, plain, batch)
    found, smaller = gradients(again, recomputing, batch)
    assert len(found) == len(wanted) > 100
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
    assert smaller < 0.6 * peak


def test_targets_in_bfloat16_lie_within_its_rounding_while_their_average_stays_exact(
    make_clips: MakeClips, small_config: Config
) -> None:
    """Y^t has variance 1, so the mean square difference is a share of it; weights are averaged in float32 (A28)."""
    config = replace(small_config, momentum=MomentumConfig(video=0.9999, skeleton=0.9999, text=0.9999))
    module = MaskedPrediction(config)
    batch = build_batch(make_clips(6, config.tokens), config, 0)
    exact = module.target.latents(batch, module.momentum)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module.target.latents(batch, module.momentum)
    assert exact is not None
    assert rounded is not None
    assert rounded[0].dtype == torch.float32
    assert not torch.equal(rounded[0], exact[0])
    assert float((rounded[0] - exact[0]).square().mean()) < 3e-4
    similarity = F.cosine_similarity(rounded[0], exact[0], dim=-1)
    assert float(similarity.min()) > 0.999
    assert module.momentum is not None
    assert {p.dtype for p in module.momentum.parameters()} == {torch.float32}
