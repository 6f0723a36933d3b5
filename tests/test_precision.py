"""The choice of precision: measured, explained, stored and restored."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oskar.errors import InputError
from oskar.train import precision
from oskar.train.precision import PrecisionChoice, choose_precision

CPU = torch.device("cpu")
Step = Callable[[torch.dtype], tuple[Tensor, ...]]


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, seconds: float = 1.0, change: Callable[[Tensor], Tensor] = torch.clone
) -> None:
    """float32 takes a second and bfloat16 ``seconds``; bfloat16's results are float32's, changed."""

    def timed(step: Step, dtype: torch.dtype, device: torch.device) -> tuple[tuple[Tensor, ...], float]:
        results = step(torch.float32)
        if dtype == torch.float32:
            return results, 1.0
        return tuple(change(t.detach()) for t in results), seconds

    monkeypatch.setattr(precision, "_timed", timed)


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_is_asked_for_is_not_measured(name: str, dtype: torch.dtype) -> None:
    choice = choose_precision(name, CPU)  # type: ignore[arg-type]
    assert (choice.dtype, choice.speedup) == (dtype, None)
    assert choice.is_autocast == (name == "bfloat16")
    assert name in choice.reason


def test_auto_measures_and_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        choice = choose_precision("auto", CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert choice.speedup is not None
    assert 0 < choice.speedup < 100
    assert (choice.dtype == torch.bfloat16) == (choice.speedup >= 1.2)
    assert f"{choice.speedup:.2f} times" in choice.reason


def test_hopeless_bfloat16_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulated product takes seconds: it is not repeated for a better estimate."""
    pretend(monkeypatch, seconds=20.0)
    counted, n_timed = precision._timed, []

    def timed(step: Step, dtype: torch.dtype, device: torch.device) -> tuple[tuple[Tensor, ...], float]:
        n_timed.append(dtype)
        return counted(step, dtype, device)

    monkeypatch.setattr(precision, "_timed", timed)
    assert choose_precision("auto", CPU).dtype == torch.float32
    assert n_timed == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(("seconds", "dtype"), [(0.5, torch.bfloat16), (0.84, torch.float32), (3.0, torch.float32)])
def test_bfloat16_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch, seconds: float, dtype: torch.dtype) -> None:
    pretend(monkeypatch, seconds=seconds)
    choice = choose_precision("auto", CPU)
    assert choice.dtype == dtype
    assert choice.speedup == pytest.approx(1 / seconds)


@pytest.mark.parametrize("change", [lambda t: t * 1.05, lambda t: t * math.nan, torch.zeros_like, lambda t: t / 0])
def test_bfloat16_must_be_right(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    pretend(monkeypatch, seconds=0.1, change=change)
    choice = choose_precision("auto", CPU)
    assert choice.dtype == torch.float32
    assert "wrong by" in choice.reason


def test_one_wrong_gradient_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, seconds=0.1, change=lambda t: t * 2 if t.shape[0] == 384 else t)
    assert choose_precision("auto", CPU).dtype == torch.float32


def test_a_device_without_bfloat16_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(step: Step, dtype: torch.dtype, device: torch.device) -> tuple[tuple[Tensor, ...], float]:
        if dtype == torch.bfloat16:
            raise RuntimeError("no kernel")
        return step(dtype), 1.0

    monkeypatch.setattr(precision, "_timed", timed)
    choice = choose_precision("auto", CPU)
    assert choice.dtype == torch.float32
    assert "no kernel" in choice.reason


def test_real_rounding_is_that_of_bfloat16() -> None:
    step = precision._mlp_step(CPU)
    errors = [
        precision._relative_error(rounded, exact)
        for rounded, exact in zip(step(torch.bfloat16), step(torch.float32), strict=True)
    ]
    assert all(2**-11 < error < precision.MAX_RELATIVE_ERROR for error in errors)  # rounding is 2^-9 at most


@pytest.mark.parametrize("speedup", [None, 1.7])
def test_a_choice_survives_json(speedup: float | None) -> None:
    choice = PrecisionChoice(dtype=torch.bfloat16, reason="because", speedup=speedup)
    assert PrecisionChoice.from_json(json.loads(json.dumps(choice.to_json())), "environment.json") == choice


@pytest.mark.parametrize("values", [{}, {"dtype": "float16"}, {"dtype": "float32", "speedup": "fast"}])
def test_no_choice_is_named(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"environment\.json: precision = .*float32.*bfloat16"):
        PrecisionChoice.from_json(values, "environment.json")
