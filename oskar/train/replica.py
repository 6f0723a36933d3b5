"""One module trained by all processes: DistributedDataParallel or FSDP2, and tensors in shards or whole.

Both engines want the same parameters to have a gradient in every process, but a batch without captions
leaves those of captions alone without one. So the parameters that a batch may leave out get a gradient of
zeros, and what is zero in all processes is taken away again: no batch anywhere had a use for it, and the
optimiser must pass over it as it does in a single process.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from oskar.errors import InputError
from oskar.pretraining import MaskedPrediction
from oskar.train.distributed import Processes

Parallel = Literal["ddp", "fsdp"]
Result = TypeVar("Result")


class Replica:
    """A module as this process trains it; its gradients are sums over all processes.

    A single process calls the module itself. With "fsdp" the module's parameters, gradients and optimiser
    state are spread over the processes: build the optimiser afterwards.
    """

    def __init__(self, module: nn.Module, processes: Processes, parallel: Parallel, device: torch.device) -> None:
        self._module, self._processes = module, processes
        self._optional: list[nn.Parameter] = []
        self._ddp: DistributedDataParallel | None = None
        self._root: nn.Module | None = None
        self.is_sharded = processes.n > 1 and parallel == "fsdp"
        if processes.n == 1:
            return
        if not isinstance(module, MaskedPrediction):
            raise InputError(
                f"{type(module).__name__} trains in one process, {processes.n} were started",
                fix="leave out torchrun; only pretraining takes several processes",
            )
        self._root = _Root(module)
        if parallel == "ddp":
            ids = [device.index] if device.type == "cuda" else None
            with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers, which 2.9 has alone
                warnings.simplefilter("ignore", FutureWarning)
                self._ddp = DistributedDataParallel(
                    self._root, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        else:
            from oskar.train.shards import shard

            shard(self._root, module, device, processes.n)
        self._optional = module.optional_parameters()

    def forward(self, batch: Any, latents: list[Tensor] | None) -> dict[str, Tensor]:
        """The module's outputs for a part and what ``prepare`` gave for it; ``backward`` makes the engine talk."""
        work = self._module if latents is None else partial(self._module, latents=latents)
        engine: nn.Module | None = self._ddp or self._root
        outputs: dict[str, Tensor] = work(batch) if engine is None else engine(work, batch)
        return outputs

    def prepare(self, parts: Sequence[Any]) -> list[list[Tensor] | None]:
        """The target latents of each part, where targets need to know the whole step first. Collective.

        A single part in a single process is the whole step and prepares itself.
        """
        module = self._module
        is_whole = self._processes.n == 1 and len(parts) == 1
        if is_whole or not parts or not isinstance(module, MaskedPrediction) or not module.target.has_statistics:
            return [None] * len(parts)
        prepared = [self.look(module.prepare, part) for part in parts]
        statistics = torch.stack([s for _, s in prepared if s is not None]).sum(0)
        module.target.record(self._processes.add_(statistics))
        return [latents for latents, _ in prepared]

    def part(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one part of a step: DDP talks after the last part alone."""
        return self._ddp.no_sync() if self._ddp is not None and not is_last else nullcontext()

    def look(self, work: Callable[[Any], Result], batch: Any) -> Result:
        """Call ``work``, which uses the module without gradient. Collective with "fsdp"."""
        if not self.is_sharded:
            return work(batch)
        root: Any = self._root
        with torch.no_grad():
            result: Result = root(work, batch)
        root.reshard()  # a root stays gathered after its forward, for a backward that is not to come
        return result

    @property
    def scale(self) -> int:
        """What a loss is multiplied by, since both engines average where a sum is meant."""
        return self._processes.n

    def forget_unused(self) -> None:
        """Take away gradients that are zero in all processes. Collective."""
        if not self._optional:
            return
        gradients = [local(p.grad) for p in self._optional if p.grad is not None]
        largest = torch._foreach_norm(gradients, float("inf")) if gradients else []
        sizes = torch.stack(list(largest)).nan_to_num(nan=1.0).tolist() if gradients else []
        totals = self._processes.sums([float(size != 0.0) for size in sizes])
        for parameter, total in zip([p for p in self._optional if p.grad is not None], totals, strict=True):
            if total == 0.0:
                parameter.grad = None


class _Root(nn.Module):
    """What the engines wrap: runs work with the module below it, under their hooks."""

    def __init__(self, module: MaskedPrediction) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[[Any], Any], batch: Any) -> Any:
        result = work(batch)
        if torch.is_grad_enabled():
            result["loss"] = result["loss"] + _Zeros.apply(*self.module.optional_parameters())  # type: ignore[no-untyped-call]
        return result


class _Zeros(torch.autograd.Function):
    """Zero, whose gradient is zeros for every parameter given; cheaper than a product with zero, and never NaN."""

    @staticmethod
    def forward(context: Any, *parameters: Tensor) -> Tensor:
        context.shapes = [(p.shape, p.dtype, p.device) for p in parameters]
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in context.shapes
        )


def whole(tensors: Mapping[str, Tensor], *, is_kept: bool) -> dict[str, Tensor]:
    """The tensors with shards put together, or nothing where not ``is_kept``. Collective if any is in shards."""
    result = {}
    for name, tensor in tensors.items():
        # One at a time, and to the CPU at once: no process holds more than one of them beside its shards.
        put_together = full(tensor).cpu() if _is_in_shards(tensor) else tensor
        if is_kept:
            result[name] = put_together
    return result


def full(tensor: Any) -> Tensor:
    """A tensor in shards put together, another as it is. Collective if it is in shards."""
    together: Tensor = tensor.full_tensor() if _is_in_shards(tensor) else tensor
    return together


def local(tensor: Any) -> Tensor:
    """This process's shard of a tensor in shards, another as it is."""
    shard: Tensor = tensor.to_local() if _is_in_shards(tensor) else tensor
    return shard


def shard_like(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's shard of a whole tensor, laid out as ``example``; the tensor itself if that is whole."""
    if not _is_in_shards(example) or tensor.dim() == 0:
        return tensor
    from oskar.train.shards import cut_like

    return cut_like(tensor, example)


def _is_in_shards(tensor: Any) -> bool:
    """Whether it is a DTensor, asked without importing what defines it, which takes as long as half of torch."""
    return hasattr(tensor, "full_tensor")
