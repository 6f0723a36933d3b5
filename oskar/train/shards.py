"""FSDP2: a model whose parameters, gradients and optimiser state are spread over the processes.

Imported only where shards are used: PyTorch's own modules for them are slow to import.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from oskar.model.layers import Block
from oskar.model.momentum import MomentumEncoders
from oskar.pretraining import MaskedPrediction


def shard(root: nn.Module, module: MaskedPrediction, device: torch.device, n: int) -> None:
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


def cut_like(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's shard of a whole tensor that every process has, laid out as ``example``."""
    assert isinstance(example, DTensor)
    on_device = tensor.to(example.device, example.dtype)
    return distribute_tensor(on_device, example.device_mesh, example.placements, src_data_rank=None)
