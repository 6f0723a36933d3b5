"""A token store against decoding: bytes read per clip, clips per second of one worker, and the wait for data.

    python benchmarks/token_store.py DATA [--clips 64] [--recipe oskar-small] [--steps 6] [setting=value ...]

Clips are read, masked and packed as a worker of the loader does it. Rates are per second of this process's own CPU
time, so that other work on the machine counts less; the wall-clock rate stands beside them. Without DATA the
built-in people are stored, which are drawn, not decoded.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from oskar.config import Config
from oskar.data.open import open_training
from oskar.data.reader import ClipReader, TrainingDraw
from oskar.data.store.arrays_file import PAGE_BYTES
from oskar.data.store.settings import StoreConfig, TokenizeConfig
from oskar.data.store.shards import Shards
from oskar.data.store.write import tokenize
from oskar.data.stream import StepDataset, StepStream
from oskar.masking.packing import Batch, build_batch
from oskar.pretraining import MaskedPrediction
from oskar.recipes import recipe
from oskar.settings import apply_overrides
from oskar.train.optim import build_optimizer, clip_gradients

BATCH = 16


class CountedRows:
    """Counts the rows and the pages of the video that ``Shards.tokens`` reads while it is entered."""

    def __init__(self) -> None:
        self.n_rows, self.pages = 0, set[tuple[int, int]]()
        self._original: Callable[..., object] = Shards.tokens

    def __enter__(self) -> "CountedRows":
        original = Shards.tokens

        def counting(shards: Shards, shard: int, rows: NDArray[np.int64]) -> NDArray[Any]:
            width = shards.width * (1 if shards.type == "U8" else 4 if shards.type == "F32" else 2)
            self.n_rows += len(rows)
            first, last = rows * width // PAGE_BYTES, (rows * width + width - 1) // PAGE_BYTES
            for low, high in zip(first.tolist(), last.tolist(), strict=True):
                self.pages |= {(shard, page) for page in range(low, high + 1)}
            return original(shards, shard, rows)

        Shards.tokens = counting  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *error: object) -> None:
        Shards.tokens = self._original  # type: ignore[method-assign,assignment]


def rate(reader: ClipReader, config: Config, n_clips: int, first_step: int) -> tuple[float, float]:
    """Clips per second of CPU time and of wall time, over ``n_clips``."""
    order = torch.randperm(len(reader), generator=torch.Generator().manual_seed(first_step)).tolist()
    cpu, wall = time.process_time(), time.perf_counter()
    n_read = 0
    while n_read < n_clips:
        chosen = [order[(n_read + i) % len(order)] for i in range(min(BATCH, n_clips - n_read))]
        step = first_step + n_read
        clips = reader.read(chosen, TrainingDraw(0, step)).clips
        assert clips is not None
        build_batch(clips, config, step)
        n_read += len(chosen)
    return n_read / (time.process_time() - cpu), n_read / (time.perf_counter() - wall)


def disk_bytes() -> int:
    """Bytes this process has had read from the disk, where the system counts them."""
    path = Path("/proc/self/io")
    lines = path.read_text().splitlines() if path.exists() else ["read_bytes: 0"]
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def forget(store: Path) -> None:
    """Drop the store's files from the system's cache."""
    for path in store.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def print_bytes(store: Path, reader: ClipReader, config: Config, n_clips: int, full: float) -> None:
    forget(store)
    before = disk_bytes()
    with CountedRows() as counted:
        rate(reader, config, n_clips, 10_000)
    read = disk_bytes() - before
    rows = counted.n_rows / n_clips
    side = config.tokens.resolution // config.tokens.patch_size
    n_tokens = side * side * config.tokens.n_frames // config.tokens.tubelet_frames
    print(f"video tokens taken: {rows:.0f} of {n_tokens} a clip, {100 * rows / n_tokens:.1f} %")
    print(f"video pages touched: {len(counted.pages) * PAGE_BYTES / n_clips / full:.1%} of a clip's bytes in the store")
    print(f"read from the disk with a cold cache: {read / n_clips / full:.1%} ({read / n_clips / 1024:.0f} KiB a clip)")


def print_wait(reader: ClipReader, config: Config, n_steps: int) -> None:
    """Steps of the model fed by one worker; the first two are not counted."""
    module = MaskedPrediction(config)
    optimizer = build_optimizer(module, config.train)

    def build(clips: object, step: int) -> Batch:
        return build_batch(clips, config, step)  # type: ignore[arg-type]

    data = StepDataset(reader, build, n_steps=n_steps + 2, batch_size=BATCH, accumulation=1, seed=0)
    steps = iter(StepStream(data, 1).batches(0))
    waits, whole = [], []
    for _ in range(n_steps + 2):
        started = time.perf_counter()
        loaded = next(steps)
        waits.append(time.perf_counter() - started)
        module(loaded.parts[0])["loss"].backward()
        clip_gradients(module.parameter_groups_for_clipping().values(), 10.0)
        optimizer.step()
        module.after_step(0.5)
        optimizer.zero_grad(set_to_none=True)
        whole.append(time.perf_counter() - started)
    share = sum(waits[2:]) / sum(whole[2:])
    print(f"step of {BATCH} clips in float32, one thread, one worker: {median(whole[2:]):.2f} s, waiting {share:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="people:64")
    parser.add_argument("settings", nargs="*", default=[])
    parser.add_argument("--recipe", default="oskar-small")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--store", type=Path, help="where to keep the store; one that is there is used")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = apply_overrides(recipe(options.recipe), ["data.captions=all", "data.cache_gib=0", *options.settings])
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder) / "store"
        settings = TokenizeConfig(tokens=config.tokens, clip=config.clip, store=StoreConfig(workers=1))
        started = time.perf_counter()
        index = tokenize(settings, options.data, store)
        size = sum(shard.bytes for shard in index.shards)
        seconds = time.perf_counter() - started
        print(f"{index.n_clips} clips in {seconds:.0f} s, {size / index.n_clips / 1024:.0f} KiB each")
        decoding = open_training([options.data], config).reader
        reading = open_training([str(store)], config).reader
        print_bytes(store, reading, config, options.clips, size / index.n_clips)
        rates: dict[str, list[tuple[float, float]]] = {"decoding": [], "store": []}
        for repeat in range(3):  # interleaved, so that a busy moment hits both
            rates["decoding"].append(rate(decoding, config, options.clips // 2, 100 * repeat))
            rates["store"].append(rate(reading, config, 4 * options.clips, 100 * repeat))
        best = {name: [max(values) for values in zip(*pairs, strict=True)] for name, pairs in rates.items()}
        for name, (cpu, wall) in best.items():
            print(f"{name}: {cpu:.1f} clips/s of CPU time, {wall:.1f} of wall time (best of 3)")
        print(f"ratio: {best['store'][0] / best['decoding'][0]:.1f} in CPU time")
        print_wait(reading, replace(config, train=replace(config.train, batch_size=BATCH)), options.steps)


if __name__ == "__main__":
    main()
