"""FLOPs and peak memory of a step, counted on tensors without values: nothing is computed and nothing allocated."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from oskar.config import Config
from oskar.masking.packing import Batch, ModalityTokens, PackedTokens, PackedView
from oskar.planning.made import made_batch
from oskar.planning.step import TrainingStep
from oskar.pretraining import MaskedPrediction

Shape = tuple[int, ...]


def _cpu_attention(query: Shape, key: Shape, value: Shape, *rest: object, **names: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _cpu_attention_backward(grad_out: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(grad_out, query, key, value))  # type: ignore[no-untyped-call]


def flop_counter() -> FlopCounterMode:
    """Torch's counter of the FLOPs of matrix products, which by itself leaves out fused attention on a CPU."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
        },
    )


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive, and the most there were since ``reset``.

    A storage counts once however many tensors share it, until the last of them is gone. What an
    operator takes and returns inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def reset(self) -> int:
        """Forget the peak; returns the bytes alive."""
        self.peak = self.now
        return self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was made elsewhere."""
        storage = tensor.untyped_storage()
        address, n_bytes = storage._cdata, storage.nbytes()
        if address in self._alive:
            return

        def gone(_: object) -> None:
            self.now -= n_bytes
            del self._alive[address]

        self._alive[address] = weakref.ref(storage, gone)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedStep:
    """What one step of ``n_clips`` in a part costs: FLOPs, and bytes by what holds them.

    ``peak_bytes`` is the most alive at once in forward and backward, ``update_bytes`` the most in the update;
    both hold ``held_bytes`` too: weights, optimiser, momentum and, where parts are accumulated, gradients.
    """

    n_clips: int
    n_parameters: int
    n_encoder_parameters: int
    n_state_values: int
    flops: int
    weight_bytes: int
    momentum_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    batch_bytes: int
    held_bytes: int
    peak_bytes: int
    update_bytes: int


def count_step(
    config: Config, n_clips: int, device: torch.device, *, is_autocast: bool, is_accumulating: bool
) -> CountedStep:
    """Run a step on tensors that have shapes and no values; ``is_accumulating``: gradients of earlier parts exist."""
    batch = made_batch(config, n_clips)
    with torch.device("meta"):
        module = MaskedPrediction(config)
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        step = TrainingStep(module.to_empty(device=device), config, device, is_autocast=is_autocast)
        batch = _without_values(batch, device)
        _fill_gradients(module)
        step.update()  # the optimiser makes its state at the first step
        if is_accumulating:
            _fill_gradients(module)
        held = live.reset() - _n_bytes(_batch_tensors(batch))
        with flop_counter() as counter:
            step.forward_backward(batch)
        peak = live.peak
        live.reset()
        step.update()
        update = live.peak
    trained = [p for p in module.parameters() if p.requires_grad]
    momentum = [] if module.momentum is None else [*module.momentum.parameters(), *module.momentum.buffers()]
    gradient_bytes = _n_bytes(trained)
    return CountedStep(
        n_clips=n_clips,
        n_parameters=sum(p.numel() for p in trained),
        n_encoder_parameters=sum(p.numel() for p in module.fusion.parameters()),
        n_state_values=sum(t.numel() for t in module.state_dict().values()),
        flops=int(counter.get_total_flops()),
        weight_bytes=_n_bytes([*module.parameters(), *module.buffers()]) - _n_bytes(momentum),
        momentum_bytes=_n_bytes(momentum),
        optimizer_bytes=_n_bytes(_state(step)),
        gradient_bytes=gradient_bytes,
        held_bytes=held,
        batch_bytes=_n_bytes(_batch_tensors(batch)),
        peak_bytes=peak,
        update_bytes=update,
    )


def tensors_of(step: TrainingStep, batch: Batch) -> list[Tensor]:
    """What is alive between two steps: weights, buffers, gradients, the optimiser's state and the batch."""
    module = step.module
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return [*module.parameters(), *module.buffers(), *gradients, *_state(step), *_batch_tensors(batch)]


def _state(step: TrainingStep) -> list[Tensor]:
    return [v for s in step.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]


def _fill_gradients(module: MaskedPrediction) -> None:
    """Gradients as a part of the batch leaves them."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)


def _n_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _batch_tensors(batch: Batch) -> list[Tensor]:
    packed = [p for view in batch.views for p in (view.visible, view.target)]
    packed += [] if batch.everything is None else [batch.everything]
    tensors = [batch.clip_ids, *batch.target_slots]
    for p in packed:
        tensors.append(p.segments)
        for tokens in p.tokens.values():
            tensors += [t for t in (tokens.values, tokens.slots, tokens.token_idx, tokens.boxes) if t is not None]
    return tensors


def _without_values(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; a mode without values is on."""

    def tensor(real: Tensor) -> Tensor:
        return torch.empty(real.shape, dtype=real.dtype, device=device)

    def packed(real: PackedTokens) -> PackedTokens:
        tokens = {
            name: ModalityTokens(
                tensor(t.values),
                tensor(t.slots),
                tensor(t.token_idx),
                None if t.boxes is None else tensor(t.boxes),
                t.n_largest,
            )
            for name, t in real.tokens.items()
        }
        return PackedTokens(tensor(real.segments), tokens, real.is_full)

    return Batch(
        tensor(batch.clip_ids),
        tuple(PackedView(packed(v.visible), packed(v.target)) for v in batch.views),
        None if batch.everything is None else packed(batch.everything),
        tuple(tensor(t) for t in batch.target_slots),
    )
