"""AdamW with weight decay only where it belongs, and clipping by group."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from oskar.config import TrainConfig
from oskar.train.replica import full


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to biases, norms, 1-D parameters and tables (A32)."""
    is_table = name.endswith(("table", "query")) or "content.text.projection" in name
    return parameter.ndim > 1 and not is_table


def build_optimizer(
    module: nn.Module, config: TrainConfig, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters; rates and decay are set at every step.

    ``lr_scale`` is the share of the learning rate that the parameter of a name has.
    """
    parameters: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameters[decays(name, parameter), lr_scale(name)].append(parameter)
    order = sorted(parameters, key=lambda key: (not key[0], key[1]))
    groups = [{"params": parameters[key], "decays": key[0], "lr_scale": key[1]} for key in order]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def clip_gradients(groups: Iterable[list[nn.Parameter]], max_norm: float | None) -> list[Tensor]:
    """Clip every group by its own global norm (A33); returns the norms before clipping."""
    norms = []
    for parameters in groups:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        norms.append(full(norm))
    return norms
