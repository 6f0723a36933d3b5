"""What the benchmarks share: clocks, the matmul peak, and measurements in processes of their own."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from oskar.planning.counting import flop_counter
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import environment as run_environment

PEAK_SIZE = 2048  # 50 MB of float32: far above the caches of a core


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A step of ``n_clips``: seconds, FLOPs, tokens, the matmul peak beside it, and the process's peak memory.

    ``cpu_share`` is the CPU time that the process got of what its threads asked for: well below 1, other work
    had the cores, and the seconds say less.
    """

    name: str
    n_clips: int
    seconds: float
    flops: int
    n_tokens: int
    peak_flops_per_second: float
    peak_bytes: int
    cpu_share: float

    @property
    def clips_per_second(self) -> float:
        return self.n_clips / self.seconds


class Clock:
    """Seconds of a call: of the wall, or of this process's CPU, which other work disturbs less (one thread only)."""

    def __init__(self, kind: str, device: torch.device) -> None:
        self.now = time.process_time if kind == "cpu" else time.perf_counter
        self.device = device

    def seconds(self, run: Callable[[], object]) -> float:
        self._wait()
        started = self.now()
        run()
        self._wait()
        return self.now() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def matmul_peak(clock: Clock, dtype: torch.dtype, size: int = PEAK_SIZE, repeats: int = 3) -> float:
    """Best rate of a square product, FLOP per second."""
    left = torch.randn(size, size, device=clock.device).to(dtype)
    return 2.0 * size**3 / min(clock.seconds(lambda: left @ left) for _ in range(repeats))


def measure(
    name: str, step: Callable[[], object], n_clips: int, n_tokens: int, clock: Clock, dtype: torch.dtype, repeats: int
) -> Measured:
    """Time a step after one that warms up and is counted; the matmul peak is taken in between."""
    with flop_counter() as counter:
        step()
    wall, cpu = time.perf_counter(), time.process_time()
    seconds, peaks = [], []
    for _ in range(repeats):
        seconds.append(clock.seconds(step))
        peaks.append(matmul_peak(clock, dtype, repeats=1))
    asked = (time.perf_counter() - wall) * torch.get_num_threads()
    if clock.device.type == "cuda":
        peak_bytes = torch.cuda.max_memory_allocated(clock.device)
    else:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(
        name=name,
        n_clips=n_clips,
        seconds=median(seconds),
        flops=int(counter.get_total_flops()),
        n_tokens=n_tokens,
        peak_flops_per_second=max(peaks),
        peak_bytes=peak_bytes,
        cpu_share=(time.process_time() - cpu) / asked,
    )


def in_child(script: str, arguments: Sequence[str]) -> Measured | None:
    """Run ``script --child ...`` and read what it measured from its last line; None where it ran out of memory."""
    command = [sys.executable, script, "--child", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    is_out_of_memory = done.returncode == -9 or "out of memory" in done.stderr.lower()
    if done.returncode and not is_out_of_memory:
        raise RuntimeError(f"{' '.join(command)} failed\n{done.stderr}")
    return None if done.returncode else Measured(**json.loads(done.stdout.splitlines()[-1]))


def report(measured: Measured) -> None:
    """What a child prints for ``in_child``."""
    print(json.dumps(asdict(measured)))


def describe(device: torch.device, precision: PrecisionChoice) -> str:
    """One line that names the machine, torch, threads, precision and time."""
    facts: dict[str, Any] = run_environment(device, precision)
    where = facts["device"].get("name") or f"{facts['cpu']['count']} cores of {facts['cpu']['model']}"
    name = str(precision.dtype).removeprefix("torch.")
    return (
        f"{where}, {platform.system()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{name} ({precision.reason}), {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )


def precision_for(setting: str, device: torch.device) -> PrecisionChoice:
    """The measured choice for "auto", or the dtype asked for."""
    if setting == "bfloat16":
        return choose_precision("bfloat16", device)
    return choose_precision("float32" if setting == "float32" else "auto", device)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in Markdown."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
