"""The one training loop: pretraining and every task run through it.

A job is a module whose forward returns a dict with ``loss``, and a stream of batches that is a pure
function of the step. State that a kill must not lose is in the checkpoint; all else follows from
the step.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oskar.config import TrainConfig
from oskar.data.stream import LoadedStep
from oskar.errors import InterruptedRunError, StoppedRunError
from oskar.progress import Progress
from oskar.train.checkpoint import (
    generator_tensors,
    latest_checkpoint,
    load_checkpoint,
    load_generator_tensors,
    load_module_strict,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
    under,
)
from oskar.train.optim import build_optimizer, clip_gradients, set_rates
from oskar.train.precision import PrecisionChoice
from oskar.train.record import MetricsFile
from oskar.train.schedules import lr_at, warmup_steps, weight_decay_at

MAX_SKIPPED_IN_A_ROW = 10


class TrainBatch(Protocol):
    """One part of a step's batch; ``weight`` is its share of the mean (target tokens, or clips)."""

    @property
    def weight(self) -> float: ...

    def __len__(self) -> int: ...


class BatchStream(Protocol):
    """Batches as a function of the step."""

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        """The steps from ``first_step`` to the end of the run, each with its parts."""


class Trainable(Protocol):
    """What the loop needs of a module."""

    def __call__(self, batch: Any) -> dict[str, Tensor]: ...

    def after_step(self, share: float) -> None: ...

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]: ...


@dataclass(kw_only=True)
class Progressed:
    """What a run has done so far; saved with every checkpoint."""

    step: int = 0
    samples_seen: int = 0
    tokens_seen: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)


Observe = Callable[[Any], dict[str, float]]


class Trainer:
    """Runs a job to its last step, from its newest checkpoint if there is one.

    ``observe`` sees a part of the batch at every logged step and adds values to the record.
    ``precision`` is the dtype of matrix products; weights stay float32. ``bad_budget`` is the
    number of clips that may turn out unreadable before the run stops; ``lr_scale`` gives parameters a
    share of the learning rate by name.
    """

    def __init__(
        self,
        module: nn.Module,
        stream: BatchStream,
        config: TrainConfig,
        run: Path,
        *,
        precision: PrecisionChoice,
        device: torch.device,
        bad_budget: int,
        observe: Observe | None = None,
        lr_scale: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        self.module = module.to(device)
        self.stream, self.config, self.run, self.device = stream, config, run, device
        self.precision, self.bad_budget, self.observe = precision, bad_budget, observe
        self.optimizer = build_optimizer(module, config, lr_scale)
        self.done = Progressed()
        self.metrics = MetricsFile(run)
        self._stop_signal: int | None = None

    def resume(self) -> None:
        """Take up the newest checkpoint; without one the run starts at step 0."""
        path = latest_checkpoint(self.run)
        if path is not None:
            tensors, state = load_checkpoint(path)
            source = str(path)
            load_module_strict(self.module, under("module/", tensors), source)
            load_optimizer_tensors(self.optimizer, self._names(), tensors, source)
            load_generator_tensors({"torch": torch.default_generator}, tensors, source)
            self.done = Progressed(**state["progress"])
        self.metrics.truncate_after(self.done.step)

    def fit(self) -> Progressed:
        """Train to the end; raises InterruptedRunError after a signal, StoppedRunError where it cannot go on."""
        with self._signals(), Progress(self.config.steps, self.done.step) as progress:
            steps = iter(self.stream.batches(self.done.step))
            while self.done.step < self.config.steps:
                started = time.perf_counter()
                loaded = next(steps)
                waited = time.perf_counter() - started
                self._step(loaded)
                self.done.wait_seconds += waited
                self.done.seconds += time.perf_counter() - started
                progress.advance(self.done.wait_seconds / max(self.done.seconds, 1e-9))
                is_last = self.done.step == self.config.steps
                if is_last or self._stop_signal or self.done.step % self.config.checkpoint_every_steps == 0:
                    self.save()
                if self._stop_signal and not is_last:
                    name = signal.Signals(self._stop_signal).name
                    raise InterruptedRunError(
                        f"{name} after step {self.done.step}; the run is saved in {self.run}", fix="go on with --resume"
                    )
        return self.done

    def save(self) -> None:
        """Write a checkpoint: weights, optimiser, random state and progress."""
        self.metrics.sync()
        tensors = {f"module/{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, self._names())
        tensors |= generator_tensors({"torch": torch.default_generator})
        state = {"progress": {f: getattr(self.done, f) for f in self.done.__dataclass_fields__}}
        save_checkpoint(self.run, self.done.step, tensors, state)

    def _step(self, loaded: LoadedStep) -> None:
        """One optimiser step over the parts of a batch."""
        self._count_bad(loaded)
        step = self.done.step
        lr, weight_decay = lr_at(step, self.config), weight_decay_at(step, self.config)
        set_rates(self.optimizer, lr, weight_decay)
        weighed = [(part.weight, part) for part in loaded.parts]
        weights = [weight for weight, _ in weighed if weight > 0]  # a part without targets has no mean loss
        parts = [part.to(self.device) for weight, part in weighed if weight > 0]
        values = self._backward(parts, weights)
        norms = self._clip()
        is_finite = all(math.isfinite(v) for v in [values.get("loss", math.nan), *norms.values()])
        if is_finite:
            self.optimizer.step()
            trainable: Trainable = self.module  # type: ignore[assignment]
            trainable.after_step((step + 1) / (self.config.steps * self.config.schedule_stretch))
        self._count_skipped(is_finite, step, values, norms)
        self.optimizer.zero_grad(set_to_none=True)
        self.done.step = step + 1
        self.done.samples_seen += sum(len(part) for part in parts)
        self.done.tokens_seen += sum(getattr(part, "n_tokens", 0) for part in parts)
        if self.done.step % self.config.log_every_steps == 0 or self.done.step in (1, self.config.steps):
            self._log(parts, values, norms, lr)

    def _backward(self, parts: Sequence[TrainBatch], weights: Sequence[float]) -> dict[str, float]:
        """Gradients of the batch's mean loss, whatever the number of parts; the values to log."""
        outputs: list[tuple[float, dict[str, Tensor]]] = []
        for part, weight in zip(parts, weights, strict=True):
            share = weight / sum(weights)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision.is_autocast):
                output = self.module(part)
            (output["loss"] * share).backward()
            outputs.append((share, {name: value.detach() for name, value in output.items()}))
        return _weighted(outputs)

    def _clip(self) -> dict[str, float]:
        trainable: Trainable = self.module  # type: ignore[assignment]
        groups = trainable.parameter_groups_for_clipping()
        is_early = self.config.clip_after_warmup and self.done.step < warmup_steps(self.config)
        norms = clip_gradients(groups.values(), None if is_early else self.config.clip_norm)
        return dict(zip((f"grad_norm_{name}" for name in groups), torch.stack(norms).tolist(), strict=True))

    def _count_skipped(self, is_finite: bool, step: int, values: dict[str, float], norms: dict[str, float]) -> None:
        """A step that is not finite, or has nothing to learn from, is not applied; too many in a row end the run."""
        self.done.skipped_in_a_row = 0 if is_finite else self.done.skipped_in_a_row + 1
        self.done.skipped_steps += not is_finite
        if self.done.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW:
            return
        self.done.step = step + 1
        self._log([], values, norms, math.nan)
        if "loss" not in values:
            raise StoppedRunError(
                f"step {step}: {MAX_SKIPPED_IN_A_ROW} batches in a row had no clip that could be read and has targets",
                fix="use clips with more tokens, or a larger train.batch_size",
            )
        raise StoppedRunError(
            f"step {step}: loss {values['loss']} or a gradient was not finite {MAX_SKIPPED_IN_A_ROW} times in a row",
            fix="lower train.lr, or set train.precision=float32",
        )

    def _count_bad(self, loaded: LoadedStep) -> None:
        """Clips that could not be read are counted; above the error budget the run stops."""
        self.done.bad.update(loaded.bad)
        n_bad = len(self.done.bad)
        if n_bad > self.bad_budget:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(self.done.bad.items())[:5])
            raise StoppedRunError(
                f"{n_bad} clips could not be read, {self.bad_budget} are allowed ({listed})",
                fix="repair or remove them, or raise data.max_bad_share",
            )

    def _log(self, parts: Sequence[Any], values: dict[str, float], norms: dict[str, float], lr: float) -> None:
        skipped = {"n_skipped_steps": self.done.skipped_steps}
        record: dict[str, float] = {"loss": math.nan, **values, **norms, "lr": lr, **skipped}
        if self.observe is not None and parts:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.is_autocast):
                record |= self.observe(parts[0])
        self.metrics.append(self.done.step, "train", record)

    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C let the step finish; handlers are put back afterwards."""

        def remember(number: int, frame: FrameType | None) -> None:
            self._stop_signal = number

        before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _weighted(outputs: list[tuple[float, dict[str, Tensor]]]) -> dict[str, float]:
    """Means over the parts of a batch, weighted by share; a value that some parts lack is over the others."""
    names = outputs[0][1].keys() if outputs else ()
    values = {}
    for name in names:
        pairs = [(share, float(output[name])) for share, output in outputs]
        present = [(share, value) for share, value in pairs if not math.isnan(value) or name == "loss"]
        total = sum(share for share, _ in present)
        values[name] = sum(share * value for share, value in present) / total if total else math.nan
    return values
