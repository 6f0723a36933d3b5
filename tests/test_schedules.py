"""Learning rate, weight decay and momentum against hand values, PyTorch's schedulers and V-JEPA's formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from oskar.config import MomentumConfig, TrainConfig
from oskar.model.encoder import TokenEncoder
from oskar.model.momentum import MomentumEncoders
from oskar.recipes import RECIPES, recipe
from oskar.train.schedules import lr_at, peak_lr, warmup_steps, weight_decay_at

TEN = TrainConfig(steps=10, batch_size=256, lr=1.0, warmup_share=0.2, weight_decay=0.05)


def test_ten_steps_by_hand() -> None:
    half_turn = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 9)]
    rates = [lr_at(step, TEN) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, *half_turn], abs=1e-12)
    assert rates[5] == pytest.approx(0.5)  # half of the cosine
    assert rates[9] == pytest.approx(0.0, abs=1e-15)
    assert [weight_decay_at(step, TEN) for step in range(10)] == [0.05] * 10


def test_the_rate_scales_with_the_batch_unless_told_otherwise() -> None:
    plain = replace(TEN, lr_scaling="none")
    assert [lr_at(s, TEN) for s in range(10)] == [lr_at(s, plain) for s in range(10)]  # equal at batch 256
    assert peak_lr(replace(TEN, batch_size=8192, lr=1e-4)) == pytest.approx(3.2e-3)
    assert peak_lr(replace(plain, batch_size=8192, lr=1e-4)) == 1e-4
    assert peak_lr(replace(TEN, batch_size=64)) == 0.25


def test_start_and_final_rates() -> None:
    config = replace(TEN, start_lr=0.2, final_lr=0.1)
    assert lr_at(0, config) == pytest.approx(0.6)  # half way from 0.2 to 1
    assert lr_at(1, config) == pytest.approx(1.0)
    assert lr_at(5, config) == pytest.approx(0.55)  # half way from 1 to 0.1
    assert lr_at(9, config) == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_any_warmup_stays_between_its_ends(share: float) -> None:
    config = replace(TEN, steps=30, warmup_share=share, final_lr=0.01)
    rates = [lr_at(step, config) for step in range(30)]
    n_warm = warmup_steps(config)
    assert n_warm == round(30 * share)
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:n_warm] == sorted(rates[:n_warm])
    assert rates[n_warm:] == sorted(rates[n_warm:], reverse=True)
    assert rates[-1] == pytest.approx(1.0 if share == 1.0 else 0.01)


def test_a_single_step_has_a_rate() -> None:
    assert lr_at(0, replace(TEN, steps=1, warmup_share=0.02)) == pytest.approx(0.0)
    assert lr_at(0, replace(TEN, steps=1, warmup_share=1.0)) == pytest.approx(1.0)


def test_the_cosine_is_pytorchs() -> None:
    config = replace(TEN, steps=50, warmup_share=0.0, lr=3e-4, final_lr=1e-6)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-6)
    for step in range(50):
        optimizer.step()
        scheduler.step()
        assert lr_at(step, config) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)


def test_vjepas_schedules() -> None:
    """arXiv 2404.08471: everything computed for 112,500 steps and stopped at 90,000."""
    config = recipe("vjepa-large").train
    assert warmup_steps(config) == 12_000
    assert lr_at(0, config) == pytest.approx(2e-4, rel=1e-3)
    assert lr_at(11_999, config) == pytest.approx(6.25e-4)
    last = config.steps - 1
    assert lr_at(last, config) == pytest.approx(7.5e-5, rel=0.01)
    assert weight_decay_at(0, config) == pytest.approx(0.04, abs=1e-6)
    assert weight_decay_at(last, config) == pytest.approx(0.37, abs=0.005)
    total = 112_500
    for k in (1, 500, 12_000, 12_001, 40_000, 90_000):  # the formulas of the released code, k counted from 1
        warm = 2e-4 + (6.25e-4 - 2e-4) * k / 12_000
        cosine = 1e-6 + (6.25e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (k - 12_000) / (total - 12_000)))
        assert lr_at(k - 1, config) == pytest.approx(warm if k <= 12_000 else cosine, rel=1e-6)
        decay = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * k / total))
        assert weight_decay_at(k - 1, config) == pytest.approx(decay, rel=1e-9)


@pytest.mark.parametrize(("step", "expected"), [(1, 0.998 + 0.002 / 112_500), (45_000, 0.9988), (90_000, 0.9996)])
def test_vjepas_momentum(step: int, expected: float) -> None:
    """The momentum is what is left of an average of ones after one update by zeros."""
    config = recipe("vjepa-tiny")
    online = TokenEncoder(config.tokens, config.model)
    encoders = MomentumEncoders(online, recipe("vjepa-large").momentum)
    for parameter in online.parameters():
        parameter.data.zero_()
    averaged = next(encoders.parameters())
    averaged.data.fill_(1.0)
    encoders.update(online, step / 112_500)
    assert averaged.detach().flatten()[0].item() == pytest.approx(expected, abs=1e-6)
    constant = MomentumEncoders(online, MomentumConfig(video=0.9, skeleton=0.9, text=0.9))
    next(constant.parameters()).data.fill_(1.0)
    constant.update(online, step / 112_500)
    assert next(constant.parameters()).detach().flatten()[0].item() == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_leaves_its_bounds(name: str) -> None:
    config = recipe(name).train
    for step in range(0, config.steps, max(config.steps // 50, 1)):
        assert 0 <= lr_at(step, config) <= peak_lr(config) * (1 + 1e-12)
        assert 0 <= weight_decay_at(step, config) <= 1
