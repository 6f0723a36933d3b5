"""AdamW's groups, rates and clipping."""

import copy

import pytest
import torch
from conftest import MakeClips
from runs import shrunk
from torch import nn

from oskar.config import TrainConfig
from oskar.masking.packing import build_batch
from oskar.pretraining import MaskedPrediction
from oskar.tasks.probes import Probes
from oskar.train.optim import build_optimizer, clip_gradients, decays, set_rates


def test_which_weights_of_oskar_small_decay() -> None:
    """A32: matrices of linear maps, and nothing else."""
    model = MaskedPrediction(shrunk("oskar-small"))  # names do not depend on the size
    matrices = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in trainable.items() if decays(name, p)} == matrices & trainable.keys()
    kept = {name for name, p in trainable.items() if not decays(name, p)}
    for name in (
        "fusion.embedding.content.text.projection.weight",  # the table of words
        "fusion.embedding.position.by_modality.video.table",
        "fusion.embedding.position.by_modality.skeleton.modality",
        "fusion.embedding.position.by_modality.skeleton.box.0.bias",
        "fusion.norm.weight",
        "predictor.query",
        "predictor.positions.by_modality.text.table",
        "predictor.norm.bias",
    ):
        assert name in kept
    for name in (
        "fusion.embedding.content.video.projection.weight",
        "fusion.embedding.content.skeleton.projection.weight",
        "fusion.embedding.position.by_modality.skeleton.box.0.weight",
        "predictor.input.weight",
        "target.readout.weight",
    ):
        assert name in trainable
        assert name not in kept


def test_heads_and_other_recipes_follow_the_same_rule() -> None:
    for module in (
        Probes(16, 4, 3, out_projection=True),
        *(MaskedPrediction(shrunk(n)) for n in ("mae-tiny", "vjepa-tiny")),
    ):
        matrices = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        assert {name for name, p in trainable.items() if decays(name, p)} == matrices & trainable.keys()


def test_every_trainable_parameter_is_optimised_once_and_no_other() -> None:
    config = shrunk("oskar-custom")
    model = MaskedPrediction(config)
    optimizer = build_optimizer(model, config.train)
    optimised = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    set_rates(optimizer, 0.5, 0.3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(group["betas"] == config.train.betas for group in optimizer.param_groups)


def test_a_module_without_matrices_can_be_optimised() -> None:
    optimizer = build_optimizer(nn.LayerNorm(3), TrainConfig())
    assert len(optimizer.param_groups) == 1
    set_rates(optimizer, 1e-3, 0.1)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0


def test_decay_shrinks_matrices_alone() -> None:
    """Without gradient a decayed weight is multiplied by 1 - lr x decay (AdamW is decoupled)."""
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    nn.init.ones_(module[1].bias)  # type: ignore[arg-type]
    before = copy.deepcopy(module.state_dict())
    optimizer = build_optimizer(module, TrainConfig())
    set_rates(optimizer, 0.1, 0.5)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = module.state_dict()
    torch.testing.assert_close(after["0.weight"], before["0.weight"] * 0.95)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("max_norm", [1e-4, 0.013, 1e6])
def test_each_group_is_clipped_as_pytorch_clips_it(max_norm: float, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    config = shrunk("oskar-tiny")
    model = MaskedPrediction(config)
    model(build_batch(make_clips(4, config.tokens), config, 0))["loss"].backward()
    groups = model.parameter_groups_for_clipping()
    assert set(groups) == {"fusion", "predictor"}
    twin = copy.deepcopy(model)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.clone()
    expected = {
        name: torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        for name, parameters in twin.parameter_groups_for_clipping().items()
    }
    norms = dict(zip(groups, clip_gradients(groups.values(), max_norm), strict=True))
    for name in groups:
        assert norms[name].item() == pytest.approx(expected[name].item())
        by_hand = sum(float(p.grad.double().square().sum()) for p in groups[name] if p.grad is not None) ** 0.5
        assert by_hand <= max_norm * 1.001
        if by_hand < 0.99 * max_norm:
            assert norms[name].item() == pytest.approx(by_hand)  # not touched
    for (_, ours), (_, theirs) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_one_groups_norm_does_not_clip_the_other() -> None:
    large, small = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    large.grad, small.grad = torch.full((3,), 100.0), torch.full((3,), 0.1)
    norms = clip_gradients([[large], [small]], 1.0)
    assert [n.item() for n in norms] == pytest.approx([100 * 3**0.5, 0.1 * 3**0.5])
    assert large.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(small.grad, torch.full((3,), 0.1))


def test_without_a_limit_norms_are_only_measured() -> None:
    parameter, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    (norm,) = clip_gradients([[parameter, unused]], None)
    assert norm.item() == 5.0
    assert parameter.grad.tolist() == [3.0, 4.0]
    assert [n.item() for n in clip_gradients([[unused]], 1.0)] == [0.0]


def test_a_share_of_the_rate_by_name() -> None:
    """Parameters of one share stand together, and a step of the whole rate moves them in that proportion."""
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    before = [p.detach().clone() for p in module.parameters()]
    config = TrainConfig(lr=0.1, weight_decay=0.0)
    optimizer = build_optimizer(module, config, lambda name: 0.25 if name.startswith("0.") else 1.0)
    set_rates(optimizer, 0.1, 0.0)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # Adam's first step moves every weight by its rate.
    for parameter, old, rate in zip(module.parameters(), before, (0.025, 0.1), strict=True):
        torch.testing.assert_close(old - parameter.detach(), torch.full_like(old, rate))
