"""``train.compile``: the transformer blocks by ``torch.compile``, where nearly all of a step's time is.

A block sees ``[B, V, D]`` or ``[B, K, D]``, which fixed budgets keep the same from step to step, so it
is compiled once for each of its roles. The embeddings, whose number of tokens of a modality changes
with every draw, stay as they are.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from oskar.errors import InputError
from oskar.model.layers import Block

P = ParamSpec("P")
R = TypeVar("R")
Backend = str | Callable[..., object]


def compile_blocks(module: nn.Module, device: torch.device, backend: Backend = "inductor") -> None:
    """Compile every block below ``module`` in place, at its first call; parameters keep their names.

    Raises:
        InputError: torch cannot compile for this device here.
    """
    _try(device, backend)
    for child in module.modules():
        if isinstance(child, Block):
            child.compile(backend=backend)


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """A function in which nothing runs compiled: what is called now and then would be compiled apart, for its modes."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.compiler.set_stance("force_eager"):
            return function(*args, **kwargs)

    return run


def _try(device: torch.device, backend: Backend) -> None:
    """Compile something small now, so that what is missing is said before anything is read."""
    probe = torch.compile(_square, backend=backend)
    try:
        probe(torch.ones(4, device=device))
    except RuntimeError as error:  # what torch's compiler raises derives from it
        reason = " ".join(str(error).split()[:40]) or type(error).__name__
        raise InputError(
            f"train.compile = True, but torch cannot compile for {device}: {reason}",
            fix="use train.compile=false, or install a C++ compiler (CPU) or Triton (GPU)",
        ) from error


def _square(x: torch.Tensor) -> torch.Tensor:
    return x * x
