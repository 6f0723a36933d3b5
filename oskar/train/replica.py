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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from oskar.errors import InputError
from oskar.model.layers import Block
from oskar.model.momentum import MomentumEncoders
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
            _shard(self._root, module, device, processes.n)
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
    def is_sharded(self) -> bool:
        return isinstance(self._root, FSDPModule)

    @property
    def scale(self) -> int:
        """What a loss is multiplied by, since both engines average where a sum is meant."""
        return self._processes.n

    def forget_unused(self) -> None:
        """Take away gradients that are zero in all processes. Collective."""
        if not self._optional:
            return
        gradients = [_local(p.grad) for p in self._optional if p.grad is not None]
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


def _shard(root: nn.Module, module: MaskedPrediction, device: torch.device, n: int) -> None:
    """FSDP2 over blocks, over each momentum encoder, and over what remains."""
    mesh = init_device_mesh(device.type, (n,))
    momentum = module.momentum
    for block in [m for m in module.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=mesh)
    _fix_the_order(module)
    if momentum is not None:
        for encoder in momentum.encoders.values():
            fully_shard(encoder, mesh=mesh)
        if not momentum.is_shared:
            # Which of them a process runs depends on its clips, so all are gathered and put back together.
            momentum.register_forward_pre_hook(_gather_encoders)
            momentum.register_forward_hook(_put_encoders_back)
    fully_shard(root, mesh=mesh)


def _fix_the_order(module: MaskedPrediction) -> None:
    """Let backward gather and reduce blocks in one order, whatever a process's clips made its forward run.

    Left alone, FSDP2 fetches ahead what ran before, a momentum encoder among it, and reduces a block late if
    nothing that entered it has a gradient.
    """
    blocks = [*module.fusion.blocks, *module.predictor.blocks]
    for before, block in zip([blocks[0], *blocks], blocks, strict=False):
        assert isinstance(block, FSDPModule)
        assert isinstance(before, FSDPModule)
        block.set_modules_to_backward_prefetch([before])
    module.fusion.embedding.register_forward_hook(_with_gradient)


def _with_gradient(embedding: nn.Module, inputs: object, embedded: Tensor) -> Tensor:
    is_without = torch.is_grad_enabled() and not embedded.requires_grad
    return embedded.requires_grad_() if is_without else embedded


def _gather_encoders(momentum: nn.Module, inputs: object) -> None:
    for part in _parts_of(momentum):
        part.unshard()


def _put_encoders_back(momentum: nn.Module, inputs: object, output: object) -> None:
    for part in _parts_of(momentum):
        part.reshard()


def _parts_of(momentum: nn.Module) -> list[FSDPModule]:
    assert isinstance(momentum, MomentumEncoders)
    return [part for part in momentum.modules() if isinstance(part, FSDPModule)]


def whole(tensors: Mapping[str, Tensor], *, is_kept: bool) -> dict[str, Tensor]:
    """The tensors with shards put together, or nothing where not ``is_kept``. Collective if any is in shards."""
    result = {}
    for name, tensor in tensors.items():
        # One at a time, and to the CPU at once: no process holds more than one of them beside its shards.
        put_together = full(tensor).cpu() if isinstance(tensor, DTensor) else tensor
        if is_kept:
            result[name] = put_together
    return result


def full(tensor: Tensor) -> Tensor:
    """A tensor in shards put together, another as it is. Collective if it is in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's shard of a whole tensor, laid out as ``example``; the tensor itself if that is whole."""
    if not isinstance(example, DTensor) or tensor.dim() == 0:
        return tensor
    on_device = tensor.to(example.device, example.dtype)
    return distribute_tensor(on_device, example.device_mesh, example.placements, src_data_rank=None)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
