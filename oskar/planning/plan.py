"""What a run will cost, before it starts: parameters, FLOPs, memory, time and disk."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from oskar.config import Config, TrainConfig
from oskar.errors import InputError
from oskar.planning.counting import CountedStep, count_step
from oskar.planning.memory import available_bytes, resident_bytes
from oskar.planning.probe import Probe, probe
from oskar.train.checkpoint import N_KEPT
from oskar.train.device import choose_device, cpu_threads
from oskar.train.precision import choose_precision
from oskar.train.record import write_json_atomic

VERSION = 1
_MOST_COUNTED = 64
_RECORD_BYTES = 600  # of one line of metrics.jsonl
_REPORT_BYTES = 5_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one device, by what holds them; ``peak`` is the most of a step, the process included.

    ``activations`` is all that a part's forward and backward add to the rest. ``process`` is what Python and
    the libraries take on a CPU beside the tensors. ``available`` is None where the system does not say.
    """

    weights: int
    momentum: int
    optimizer: int
    gradients: int
    activations: int
    batch: int
    process: int
    peak: int
    available: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What the probe promises of the model's step; reading clips is not in it.

    ``flops_per_second`` is what forward and backward reached on one device; ``mask_seconds_per_clip`` is a
    worker's time to draw a clip's masks and take its tokens.
    """

    flops_per_second: float
    step_seconds: float
    clips_per_second: float
    hours: float
    mask_seconds_per_clip: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The cost of a run; ``rate`` is None where not even one clip fits, so that nothing could be measured."""

    recipe: str
    device: str
    precision: str
    threads: int
    n_devices: int
    clips_per_part: int
    largest_part: int | None
    n_parameters: int
    n_encoder_parameters: int
    flops_per_clip: float
    memory: Memory
    rate: Rate | None
    steps: int
    checkpoint_bytes: int
    disk_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"format": "oskar-plan", "version": VERSION, **asdict(self)}


def plan(config: Config, *, n_devices: int = 1, out: Path | None = None) -> Plan:
    """Count a recipe's step and time a short one on the device at hand; ``out`` gets it as JSON.

    The step is the model's alone: reading clips is the workers' part and depends on the data. With
    ``n_devices`` each gets an equal share of the batch; what they send each other is not in the time.

    Raises:
        InputError: the batch cannot be shared by that many devices, or there is no such device.
        StoppedRunError: the probe ran out of memory.
    """
    train, clips_per_part = config.train, _clips_per_part(config.train, n_devices)
    device = choose_device(train.device)
    with cpu_threads(config.data.workers) as threads:
        precision = choose_precision(train.precision, device)
        counted = count_step(
            config,
            min(clips_per_part, _MOST_COUNTED),
            device,
            is_autocast=precision.is_autocast,
            is_accumulating=train.accumulation > 1,
        )
        available = available_bytes(device)
        fitting = largest_part(counted, available, 0)
        most = clips_per_part if fitting is None else min(clips_per_part, fitting)
        probed = None
        if most > 0:
            probed = probe(config, device, is_autocast=precision.is_autocast, most_clips=most, n_threads=threads)
    process = (resident_bytes() or 0) if probed is None else probed.process_bytes
    checkpoint_bytes = 4 * counted.n_state_values + counted.optimizer_bytes
    encoder_bytes = counted.momentum_bytes or 4 * counted.n_encoder_parameters
    result = Plan(
        recipe=config.recipe,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        precision=str(precision.dtype).removeprefix("torch."),
        threads=threads,
        n_devices=n_devices,
        clips_per_part=clips_per_part,
        largest_part=largest_part(counted, available, process),
        n_parameters=counted.n_parameters,
        n_encoder_parameters=counted.n_encoder_parameters,
        flops_per_clip=counted.flops / counted.n_clips,
        memory=predict_memory(counted, clips_per_part, available, process),
        rate=None if probed is None else predict_rate(counted, probed, clips_per_part, train),
        steps=train.steps,
        checkpoint_bytes=checkpoint_bytes,
        # One more checkpoint than are kept is there while it is written.
        disk_bytes=(N_KEPT + 1) * checkpoint_bytes
        + encoder_bytes
        + train.steps // train.log_every_steps * _RECORD_BYTES
        + _REPORT_BYTES,
    )
    if out is not None:
        write_json_atomic(out, result.to_json())
    return result


def predict_memory(counted: CountedStep, clips_per_part: int, available: int | None, process: int) -> Memory:
    """The memory of a step with that many clips in a part, from one that was counted.

    Activations and the batch grow with the clips; all else does not.
    """
    share = clips_per_part / counted.n_clips
    batch = int(counted.batch_bytes * share)
    activations = int((counted.peak_bytes - counted.held_bytes - counted.batch_bytes) * share)
    return Memory(
        weights=counted.weight_bytes,
        momentum=counted.momentum_bytes,
        optimizer=counted.optimizer_bytes,
        gradients=counted.gradient_bytes,
        activations=activations,
        batch=batch,
        process=process,
        peak=process + max(counted.held_bytes + activations + batch, counted.update_bytes),
        available=available,
    )


def predict_rate(counted: CountedStep, probed: Probe, clips_per_part: int, train: TrainConfig) -> Rate:
    """A step's time: its parts at the probe's FLOP rate, and one update."""
    part_seconds = counted.flops / counted.n_clips * clips_per_part / probed.flops_per_second
    step_seconds = train.accumulation * part_seconds + probed.update_seconds
    return Rate(
        flops_per_second=probed.flops_per_second,
        step_seconds=step_seconds,
        clips_per_second=train.batch_size / step_seconds,
        hours=train.steps * step_seconds / 3600,
        mask_seconds_per_clip=probed.packing_seconds / probed.n_clips,
    )


def largest_part(counted: CountedStep, available: int | None, process: int) -> int | None:
    """The most clips of a part that fit into what is free, 0 where none does; None where that is not known."""
    if available is None:
        return None
    per_clip = (counted.peak_bytes - counted.held_bytes) / counted.n_clips
    is_update_possible = process + counted.update_bytes <= available
    return max(0, int((available - process - counted.held_bytes) / per_clip)) if is_update_possible else 0


def _clips_per_part(train: TrainConfig, n_devices: int) -> int:
    if n_devices < 1 or train.batch_size % (train.accumulation * n_devices):
        raise InputError(
            f"--devices {n_devices}: train.batch_size={train.batch_size} in train.accumulation={train.accumulation} "
            "parts is not a whole number of clips for each",
            fix="use a number of devices that divides the part",
        )
    return train.batch_size // (train.accumulation * n_devices)
