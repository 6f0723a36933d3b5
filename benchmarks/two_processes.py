"""Two processes of one thread against one process of one thread: clips per second of whole training steps.

The two take half of each batch and sum gradients over gloo; the batch, the loop and the step are those of
``oskar pretrain``, without the reading of clips. Rounds are interleaved and the best of each kind counts,
because other programs only ever make a step slower. On a busy machine two processes get two turns where one
gets one, which flatters them; the CPU time of a process leaves that out, and the waiting for each other too.

    python benchmarks/two_processes.py [--recipe oskar-small] [--batch 16] [--steps 4] [--repeats 3] [--parallel ddp]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from oskar.config import Config
from oskar.data.stream import LoadedStep
from oskar.masking.packing import build_batch, idle_batch
from oskar.planning.made import made_clips
from oskar.pretraining import MaskedPrediction
from oskar.recipes import recipe
from oskar.train.distributed import Processes
from oskar.train.loop import Trainer
from oskar.train.precision import PrecisionChoice

N_WARM_UP = 2
FLOAT32 = PrecisionChoice(dtype=torch.float32, reason="benchmark")


class Timed:
    """The same batch at every step, and the moments at which one is asked for."""

    def __init__(self, config: Config, n_clips: int) -> None:
        self.batch = build_batch(made_clips(config, n_clips), config, 0)
        self.n_steps, self.moments = config.train.steps, list[tuple[float, float]]()

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        for _ in range(first_step, self.n_steps):
            self.moments.append((time.perf_counter(), time.process_time()))
            yield LoadedStep([self.batch])


def train(options: argparse.Namespace) -> None:
    """What each process runs; the first writes the median seconds of a step, by the clock and of CPU time."""
    config = recipe(options.recipe)
    config = replace(
        config,
        train=replace(
            config.train,
            steps=N_WARM_UP + options.steps + 1,
            batch_size=options.batch,
            parallel=options.parallel,
            log_every_steps=10**6,
            checkpoint_every_steps=10**6,
        ),
    )
    with Processes.join(600.0, with_cuda=False) as processes, tempfile.TemporaryDirectory() as folder:
        stream = Timed(config, options.batch // processes.n)
        module = MaskedPrediction(config)
        Trainer(
            module, stream, config.train, Path(folder), precision=FLOAT32, device=torch.device("cpu"), bad_budget=0,
            processes=processes, idle=idle_batch(config),
        ).fit()  # fmt: skip
        moments = stream.moments[N_WARM_UP:]
        if processes.is_first:
            clocks = [[after - before for before, after in pairwise(clock)] for clock in zip(*moments, strict=True)]
            options.result.write_text(json.dumps([median(seconds) for seconds in clocks]))


def measure(n_processes: int, result: Path) -> tuple[float, float]:
    """Median seconds of a step with ``n_processes``, in processes of their own: by the clock, and CPU time of one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
    command = [*launch, "--master-port", str(port), __file__, "--result", str(result), *sys.argv[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, cpu = json.loads(result.read_text())
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="oskar-small")
    parser.add_argument("--batch", type=int, default=16, help="clips of a step, over all processes")
    parser.add_argument("--steps", type=int, default=4, help="steps that are timed in each round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.result is not None:
        train(options)
        return
    print(f"torch {torch.__version__}, {options.recipe}, batch {options.batch}, float32, {options.parallel}, gloo")
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for n, measured in found.items():
                measured.append(measure(n, Path(folder) / "seconds.json"))
            one, two = found[1][-1], found[2][-1]
            print(f"  one {one[0]:.3f} s, two {two[0]:.3f} s a step: {one[0] / two[0]:.2f} times", flush=True)
    (wall_one, cpu_one), (wall_two, cpu_two) = ([min(clock) for clock in zip(*m, strict=True)] for m in found.values())
    rates = f"one {options.batch / wall_one:.2f} clips/s, two {options.batch / wall_two:.2f} clips/s"
    print(f"best: {rates}: {wall_one / wall_two:.2f} times; by CPU time of a process {cpu_one / cpu_two:.2f} times")


if __name__ == "__main__":
    main()
