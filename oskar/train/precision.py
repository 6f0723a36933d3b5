"""float32 or bfloat16 autocast: asked for, or chosen by measuring both on the device at hand."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.errors import InputError

MIN_SPEEDUP = 1.2
HOPELESS_SPEEDUP = 0.4
MAX_RELATIVE_ERROR = 0.02  # bfloat16 rounds to 2^-9 of a value; a correct product of two is well below this
_BUDGET_SECONDS = 0.15
_MAX_REPEATS = 8
_WIDTH = 384
_ROWS = {"cpu": 256}
_ROWS_ELSEWHERE = 16384  # enough to fill a GPU
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionChoice:
    """The dtype of a run's matrix products, why, and how much faster bfloat16 measured (None: not measured).

    A timing is never twice the same: a resumed run takes the choice it stored, and the processes
    of a distributed run that of the first.
    """

    dtype: torch.dtype
    reason: str
    speedup: float | None = None

    @property
    def is_autocast(self) -> bool:
        return self.dtype != torch.float32

    def to_json(self) -> dict[str, Any]:
        return {"dtype": str(self.dtype).removeprefix("torch."), "reason": self.reason, "speedup": self.speedup}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Self:
        """Restore what ``to_json`` gave; ``source`` names the file in errors.

        Raises:
            InputError: no such choice.
        """
        name = values.get("dtype")
        speedup = values.get("speedup")
        if name not in _DTYPES or not isinstance(speedup, float | None):
            raise InputError(
                f"{source}: precision = {dict(values)!r} is no choice of precision",
                fix=f"use a dtype of {list(_DTYPES)}",
            )
        return cls(dtype=_DTYPES[name], reason=str(values.get("reason", "")), speedup=speedup)


def choose_precision(setting: Literal["auto", "float32", "bfloat16"], device: torch.device) -> PrecisionChoice:
    """The precision a setting asks for; "auto" times an MLP forward and backward, in about 0.3 s.

    bfloat16 must be at least 1.2 times as fast as float32, finite, and close to it. The global
    random state is left alone.
    """
    if setting != "auto":
        return PrecisionChoice(dtype=_DTYPES[setting], reason=f"train.precision={setting}")
    step = _mlp_step(device)
    exact, exact_seconds = _timed(step, torch.float32, device)
    try:
        rounded, rounded_seconds = _timed(step, torch.bfloat16, device)
    except RuntimeError as error:  # what torch raises where a device has no bfloat16 kernels
        return PrecisionChoice(dtype=torch.float32, reason=f"bfloat16 does not run on {device}: {error}")
    errors = [_relative_error(r, e) for r, e in zip(rounded, exact, strict=True)]
    first = exact_seconds / rounded_seconds
    # Where bfloat16 is emulated it is many times slower: once is enough to see that, and takes seconds.
    speedup = first if first < HOPELESS_SPEEDUP else _speedup(step, device)
    return _decide(speedup, math.inf if any(map(math.isnan, errors)) else max(errors))


def _decide(speedup: float, relative_error: float) -> PrecisionChoice:
    if relative_error > MAX_RELATIVE_ERROR:
        reason = f"bfloat16 is wrong by {relative_error:.1%}, more than {MAX_RELATIVE_ERROR:.0%}"
        return PrecisionChoice(dtype=torch.float32, reason=reason, speedup=speedup)
    is_faster = speedup >= MIN_SPEEDUP
    reason = f"bfloat16 measured {speedup:.2f} times as fast as float32; {MIN_SPEEDUP} is asked for"
    return PrecisionChoice(dtype=torch.bfloat16 if is_faster else torch.float32, reason=reason, speedup=speedup)


def _speedup(step: Callable[[torch.dtype], tuple[Tensor, ...]], device: torch.device) -> float:
    """Best time of float32 over best time of bfloat16, within the time budget."""
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    started = time.perf_counter()
    for repeat in range(1, _MAX_REPEATS + 1):
        for dtype in best:  # in turn, so that a busy machine slows both
            best[dtype] = min(best[dtype], _timed(step, dtype, device)[1])
        elapsed = time.perf_counter() - started
        if elapsed * (repeat + 1) / repeat > _BUDGET_SECONDS:
            break
    return best[torch.float32] / best[torch.bfloat16]


def _mlp_step(device: torch.device) -> Callable[[torch.dtype], tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    rows = _ROWS.get(device.type, _ROWS_ELSEWHERE)

    def draw(*shape: int) -> Tensor:
        values: Tensor = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        return values.to(device).requires_grad_()

    x, w_in, w_out = draw(rows, _WIDTH), draw(4 * _WIDTH, _WIDTH), draw(_WIDTH, 4 * _WIDTH)

    def step(dtype: torch.dtype) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                out = F.linear(F.gelu(F.linear(x, w_in)), w_out)
            loss = out.float().square().sum()
        return out, *torch.autograd.grad(loss, (x, w_in, w_out))

    return step


def _timed(
    step: Callable[[torch.dtype], tuple[Tensor, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Tensor, ...], float]:
    started = time.perf_counter()
    results = step(dtype)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return results, time.perf_counter() - started


def _relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach().double()).norm() / exact.detach().double().norm())
