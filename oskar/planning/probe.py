"""A short measurement of the step on the device at hand, in a process of its own as a run would be."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from statistics import median

import torch

from oskar.config import Config
from oskar.errors import StoppedRunError
from oskar.masking.packing import Batch, build_batch
from oskar.planning.counting import LiveBytes, flop_counter, tensors_of
from oskar.planning.made import made_clips
from oskar.planning.memory import resident_bytes
from oskar.planning.step import TrainingStep, made_module

SECONDS = 12.0
_MOST_CLIPS = 64
_MOST_CLIPS_ON_GPU = 4096
_REPEATS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Median seconds of forward and backward of ``n_clips``, of the update after it, and of drawing their masks.

    ``process_bytes`` is the memory of the process above that of its tensors: Python, the libraries, what their
    kernels keep, and gaps between tensors. 0 on a GPU, and where the system does not say.
    """

    n_clips: int
    flops: int
    forward_backward_seconds: float
    update_seconds: float
    packing_seconds: float
    process_bytes: int

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.forward_backward_seconds


def probe(config: Config, device: torch.device, *, is_autocast: bool, most_clips: int, n_threads: int) -> Probe:
    """Time the step of a recipe on made clips: at most ``most_clips`` at once, in about 12 seconds.

    A first step of one clip says how many clips the time allows. It all happens in a new process, so
    that what this one holds changes nothing.

    Raises:
        StoppedRunError: the process was killed, as the system does where memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(_probe, config, device, is_autocast, most_clips, n_threads).result()
        except BrokenProcessPool as error:
            raise StoppedRunError(
                f"the probe of {most_clips} clips was killed, probably because memory ran out",
                fix="lower train.batch_size, raise train.accumulation, or free some memory",
            ) from error


def _probe(config: Config, device: torch.device, is_autocast: bool, most_clips: int, n_threads: int) -> Probe:
    import oskar.train.pretrain  # noqa: F401  what a run loads, so that its memory counts

    torch.set_num_threads(n_threads)
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
    del clips
    flops, process_bytes = _counted(step, batch)
    forward_backward, updates = [], []
    for _ in range(_REPEATS):
        forward_backward.append(_seconds(lambda: step.forward_backward(batch), device))
        updates.append(_seconds(step.update, device))
    return Probe(
        n_clips=n_clips,
        flops=flops,
        forward_backward_seconds=median(forward_backward),
        update_seconds=median(updates),
        packing_seconds=packing,
        process_bytes=process_bytes,
    )


def _counted(step: TrainingStep, batch: Batch) -> tuple[int, int]:
    """FLOPs of forward and backward, and the process's memory beside its tensors when the most are alive."""
    step(batch)
    with LiveBytes() as live, flop_counter() as counter:
        for tensor in tensors_of(step, batch):
            live.add(tensor)
        loss = step.loss(batch)
        resident = resident_bytes()
        beside = 0 if resident is None or step.device.type != "cpu" else resident - live.now
        loss.backward()  # type: ignore[no-untyped-call]
    step.update()
    return int(counter.get_total_flops()), max(0, beside)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
