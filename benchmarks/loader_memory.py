"""Memory of the loader over many clips: the slope of what a worker and the process it feeds hold.

    python benchmarks/loader_memory.py [--clips 20000] [--data people:2000]

Clips are stored at the size of ``oskar-tiny`` and read through one worker, then the same data without a store.
Resident memory is read after every 1,000 clips; the slope is a straight line through what follows the first 4,000.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing

from oskar.config import Config
from oskar.data.open import open_training
from oskar.data.store.settings import StoreConfig, TokenizeConfig
from oskar.data.store.write import tokenize
from oskar.data.stream import StepDataset, StepStream
from oskar.masking.packing import Batch, build_batch
from oskar.recipes import recipe

BATCH, EVERY, WARM = 40, 1000, 4000


class WithMemory:
    """A batch, and the resident memory of the worker that made it in MiB."""

    def __init__(self, batch: Batch) -> None:
        self.n, self.mib = len(batch), resident_mib()


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def build(config: Config, clips: Any, step: int) -> WithMemory:
    return WithMemory(build_batch(clips, config, step))


def measure(title: str, data: str, config: Config, n_clips: int) -> None:
    reader = open_training([data], config).reader
    dataset = StepDataset(
        reader, partial(build, config), n_steps=n_clips // BATCH, batch_size=BATCH, accumulation=1, seed=0
    )
    seen, points = 0, []
    for loaded in StepStream(dataset, 1).batches(0):
        seen += loaded.parts[0].n
        if seen % EVERY == 0:
            points.append((seen, loaded.parts[0].mib, resident_mib()))
    table = np.array([point for point in points if point[0] > WARM])
    for name, column in (("worker", 1), ("main process", 2)):
        slope = np.polyfit(table[:, 0] / 1000, table[:, column], 1)[0]
        (first, *_), (last, *_) = points[0], points[-1]
        low, high = points[0][column], points[-1][column]
        print(f"{title}, {name}: {low:.0f} MiB after {first:,} clips, {high:.0f} MiB after {last:,}")
        print(f"{title}, {name}: slope {slope:+.3f} MiB per 1,000 clips")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--data", default="people:2000")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = recipe("oskar-tiny")
    with tempfile.TemporaryDirectory() as folder:
        settings = TokenizeConfig(tokens=config.tokens, clip=config.clip, store=StoreConfig(shard_mib=64, workers=1))
        tokenize(settings, options.data, Path(folder) / "store")
        measure("store", str(Path(folder) / "store"), config, options.clips)
    measure("without a store", options.data, config, options.clips)


if __name__ == "__main__":
    main()
