"""A short measurement of the step on the device at hand."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from oskar.config import Config
from oskar.masking.packing import build_batch
from oskar.planning.counting import flop_counter
from oskar.planning.made import made_clips
from oskar.planning.step import TrainingStep, made_module

SECONDS = 12.0
_MOST_CLIPS = 64
_MOST_CLIPS_ON_GPU = 4096
_REPEATS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Median seconds of forward and backward of ``n_clips``, of the update after it, and of drawing their masks."""

    n_clips: int
    flops: int
    forward_backward_seconds: float
    update_seconds: float
    packing_seconds: float

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.forward_backward_seconds


def probe(config: Config, device: torch.device, *, is_autocast: bool, most_clips: int) -> Probe:
    """Time the step of a recipe on made clips: at most ``most_clips`` at once, in about 12 seconds.

    A first step of one clip says how many clips the time allows.
    """
    step = TrainingStep(made_module(config, device), config, device, is_autocast=is_autocast)
    first = build_batch(made_clips(config, 1), config, 0).to(device)
    step(first)  # what is allocated and chosen once
    one = _seconds(lambda: step.forward_backward(first), device)
    update = _seconds(step.update, device)
    allowed = int((SECONDS / (_REPEATS + 2) - update) / one)
    n_clips = max(1, min(most_clips, allowed, _MOST_CLIPS if device.type == "cpu" else _MOST_CLIPS_ON_GPU))
    clips = made_clips(config, n_clips)
    started = time.perf_counter()
    batch = build_batch(clips, config, 0)
    packing = time.perf_counter() - started
    batch = batch.to(device)
    with flop_counter() as counter:
        step.forward_backward(batch)
    step.update()
    forward_backward, updates = [], []
    for _ in range(_REPEATS):
        forward_backward.append(_seconds(lambda: step.forward_backward(batch), device))
        updates.append(_seconds(step.update, device))
    return Probe(
        n_clips=n_clips,
        flops=int(counter.get_total_flops()),
        forward_backward_seconds=median(forward_backward),
        update_seconds=median(updates),
        packing_seconds=packing,
    )


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
