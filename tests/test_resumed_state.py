"""State of modules, optimisers and generators: restored bit for bit, or refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oskar.errors import InputError
from oskar.train.checkpoint import (
    generator_tensors,
    load_checkpoint,
    load_generator_tensors,
    load_module_strict,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
    under,
)


def test_weights_of_another_size_are_refused_with_a_table_and_nothing_changes() -> None:
    torch.manual_seed(0)
    small, large = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), *(nn.Linear(4, 4) for _ in range(20)))
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_module_strict(
            small, {"weight": torch.zeros(4, 3), "extra": torch.zeros(1)}, "run/checkpoints/step-00000001"
        )
    message = str(error.value)
    for part in (
        "run/checkpoints/step-00000001 does not fit Linear",
        "1 missing:\n  bias: found nothing, wanted float32 [2]",
        "1 unexpected:\n  extra: found float32 [1], wanted nothing",
        "1 of another shape or type:\n  weight: found float32 [4, 3], wanted float32 [2, 3]",
        "made by another recipe or size",
    ):
        assert part in message
    assert all(torch.equal(small.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(InputError) as error:
        load_module_strict(large, {}, "x")
    assert "42 missing" in str(error.value)
    assert str(error.value).count("found nothing") == 10
    assert "and 32 more" in str(error.value)


def test_weights_load_where_no_value_can_be_lost() -> None:
    module = nn.Linear(2, 2, bias=False)
    load_module_strict(module, {"weight": torch.full((2, 2), 1.5, dtype=torch.bfloat16)}, "x")
    assert torch.equal(module.weight, torch.full((2, 2), 1.5))
    with pytest.raises(InputError, match=r"found float64 \[2, 2\], wanted float32 \[2, 2\]"):
        load_module_strict(module, {"weight": torch.zeros(2, 2, dtype=torch.float64)}, "x")


class Job:
    """A small training run whose every state matters: dropout, momentum copy, late first gradients."""

    def __init__(self, *, fused: bool, seed: int) -> None:
        torch.manual_seed(seed)
        self.first, self.late, self.last = nn.Linear(5, 7), nn.Linear(5, 7), nn.Linear(7, 3)
        self.model = nn.ModuleDict({"first": self.first, "late": self.late, "last": self.last})
        self.momentum = nn.Linear(7, 3)
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        decayed = [p for p in self.names if p.dim() > 1]
        others = [p for p in self.names if p.dim() == 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
        self.generators = {"cpu": torch.default_generator}
        self.step = 0

    def train(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step += 1
            self.optimizer.param_groups[0]["lr"] = 1e-2 / self.step
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(self.step))
            hidden = self.first(x) + (self.late(x) if self.step > 6 else 0.0)
            loss = self.last(nn.functional.dropout(hidden.tanh(), 0.5)).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for average, now in zip(self.momentum.parameters(), self.last.parameters(), strict=True):
                    average.lerp_(now, 0.01)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **{f"model/{name}": value for name, value in self.model.state_dict().items()},
            **{f"momentum/{name}": value for name, value in self.momentum.state_dict().items()},
            **optimizer_tensors(self.optimizer, self.names),
            **generator_tensors(self.generators),
        }

    def load(self, path: Path) -> None:
        tensors, state = load_checkpoint(path)
        self.step = state["step"]
        load_module_strict(self.model, under("model/", tensors), str(path))
        load_module_strict(self.momentum, under("momentum/", tensors), str(path))
        load_optimizer_tensors(self.optimizer, self.names, tensors, str(path))
        load_generator_tensors(self.generators, tensors, str(path))


@pytest.mark.parametrize("fused", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, fused: bool) -> None:
    whole = Job(fused=fused, seed=0)
    whole.train(12)
    wanted = {name: value.clone() for name, value in whole.tensors().items()}
    first = Job(fused=fused, seed=0)
    for seed, n_steps in enumerate((1, 4, 3)):  # resumed three times, once before a parameter's first gradient
        first.train(n_steps)
        path = save_checkpoint(tmp_path, first.step, first.tensors(), {})
        first = Job(fused=fused, seed=100 + seed)
        first.load(path)
    first.train(4)
    found = first.tensors()
    assert found.keys() == wanted.keys()
    assert [name for name, value in wanted.items() if not torch.equal(found[name], value)] == []
    assert found["optimizer/late.weight/step"] == 6  # of 12 steps
    assert found["optimizer/first.weight/step"] == 12


def test_the_names_and_values_of_the_optimiser_state_are_adams() -> None:
    job = Job(fused=True, seed=0)
    job.train(1)
    tensors = optimizer_tensors(job.optimizer, job.names)
    weight = job.first.weight
    assert weight.grad is not None
    torch.testing.assert_close(tensors["optimizer/first.weight/exp_avg"], 0.1 * weight.grad)
    torch.testing.assert_close(tensors["optimizer/first.weight/exp_avg_sq"], 0.05 * weight.grad**2)
    assert not any(name.startswith("optimizer/late") for name in tensors)


def test_optimiser_state_of_another_model_is_refused() -> None:
    job = Job(fused=True, seed=0)
    job.train(1)
    tensors = optimizer_tensors(job.optimizer, job.names)
    other = nn.Linear(5, 8)
    names = dict(zip(other.parameters(), ("first.weight", "other.bias"), strict=True))
    optimizer = torch.optim.AdamW(other.parameters(), fused=True)
    with pytest.raises(InputError) as error:
        load_optimizer_tensors(optimizer, names, tensors, "run/step")
    assert "optimizer/first.weight/exp_avg: found float32 [7, 5], wanted float32 [8, 5]" in str(error.value)
    assert "optimizer/last.bias/exp_avg: found float32 [3], wanted nothing" in str(error.value)
    assert len(optimizer.state) == 0
    with pytest.raises(ValueError, match="one name"):
        optimizer_tensors(optimizer, dict.fromkeys(names, "same"))


def test_a_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.randn(11, generator=generator)
    path = save_checkpoint(tmp_path, 1, generator_tensors({"data": generator}), {})
    wanted = torch.randn(5, generator=generator)
    other = torch.Generator()
    load_generator_tensors({"data": other}, load_checkpoint(path)[0], "x")
    assert torch.equal(torch.randn(5, generator=other), wanted)
    with pytest.raises(InputError, match="generator/masks: found nothing, wanted uint8"):
        load_generator_tensors({"masks": other}, load_checkpoint(path)[0], "x")
