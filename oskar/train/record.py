"""The run folder's records: metrics.jsonl, environment.json and other JSON, and who may write there."""

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oskar.errors import InputError
from oskar.files import not_written, write_text_atomic
from oskar.train.precision import PrecisionChoice

METRICS = "metrics.jsonl"
_MARKS_OF_A_RUN = ("config.json", METRICS, "summary.json", "checkpoints", "encoder")


def prepare_run_folder(out: Path, resume: bool) -> None:
    """Make the run folder, or see that the one to resume is there.

    Raises:
        InputError: ``out`` holds a run and ``resume`` is not set, holds none and it is, or cannot
            be a folder that is written to.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file", fix="name a folder")
    found = [name for name in _MARKS_OF_A_RUN if (out / name).exists()]
    if resume and "config.json" not in found:
        raise InputError(
            f"--resume: {out} holds no run (no config.json)", fix="leave out --resume, or name a run in --out"
        )
    if found and not resume:
        raise InputError(
            f"--out {out} holds a run already ({', '.join(found)})",
            fix="go on with it by --resume, or name another --out",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error}", fix="name a folder that you may write to") from error
    if not os.access(out, os.W_OK):
        raise InputError(f"--out {out} cannot be written to", fix="name a folder that you may write to")


class MetricsFile:
    """``run/metrics.jsonl``: one JSON object per line, appended as it happens.

    A last line that a kill left unfinished is removed when the file is opened again.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / METRICS
        if self.path.exists():
            whole = self.path.read_bytes().rfind(b"\n") + 1
            if whole < self.path.stat().st_size:
                os.truncate(self.path, whole)

    def append(self, step: int, split: str, values: Mapping[str, object]) -> None:
        """Write one record; it is with the operating system, so safe from a kill, on return.

        NaN and infinities have no JSON: they are written as null, so that a loss that is not
        finite shows as null and one that does not exist by its absence.

        Raises:
            StoppedRunError: the disk is full.
        """
        line = json.dumps({"step": step, "split": split, **_finite(dict(values))}, allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise not_written(self.path, len(line), str(error)) from error

    def sync(self) -> None:
        """Flush to the disk; before a checkpoint is saved, so that no crash leaves it ahead of its records."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())

    def truncate_after(self, step: int) -> None:
        """Drop the records of later steps than the one a run resumes from: it will write them again."""
        if not self.path.exists():
            return
        lines = _lines(self.path)
        kept = [line for i, line in enumerate(lines) if _record(self.path, i, line)["step"] <= step]
        if len(kept) < len(lines):
            write_text_atomic(self.path, "".join(f"{line.decode()}\n" for line in kept))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run in order; a last line still being written is left out.

    Raises:
        InputError: the file does not exist, or a line is no record.
    """
    path = run / METRICS
    if not path.is_file():
        raise InputError(f"{path} does not exist", fix="name the folder of a pretraining run")
    return [_record(path, i, line) for i, line in enumerate(_lines(path))]


def write_json_atomic(path: Path, values: Mapping[str, object]) -> None:
    """Write an indented JSON object whole or not at all; NaN and infinities become null.

    Raises:
        StoppedRunError: the disk is full, or the folder cannot be written.
    """
    write_text_atomic(path, json.dumps(_finite(dict(values)), indent=2, allow_nan=False) + "\n")


def environment(device: torch.device, precision: PrecisionChoice) -> dict[str, Any]:
    """What a run ran on, for ``environment.json``: versions, machine, threads, device, precision."""
    return {
        "oskar": _version("oskar"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": {
            "model": _cpu_model(),
            "count": os.cpu_count(),
            "available": _available_cpus(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": {
            "within_operations": torch.get_num_threads(),
            "between_operations": torch.get_num_interop_threads(),
        },
        "device": _device(device),
        "precision": precision.to_json(),
        "flags": {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _lines(path: Path) -> list[bytes]:
    """The finished lines; what follows the last line break is still being written, or was when its writer died."""
    return path.read_bytes().split(b"\n")[:-1]


def _record(path: Path, index: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise InputError(f"{path}, line {index + 1}: {line[:80]!r} is no record with a step", fix="remove that line")
    return record


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _available_cpus() -> int | None:
    """The processors this process may use, which a container or scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"type": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
    }
