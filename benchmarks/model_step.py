"""The model step of ``oskar-small``: share of the machine's bf16 matmul peak, and what its cost depends on.

Prints ratios within one run. A step is forward, backward, clipping, AdamW and momentum at batch 32
with 128 + 128 tokens; drawing masks and taking tokens happens in the loader and is timed apart.

    python benchmarks/model_step.py [--threads 2] [--batch 32] [--repeats 7]
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.masking.packing import Batch, build_batch
from oskar.pretraining import MaskedPrediction
from oskar.recipes import recipe
from oskar.train.optim import build_optimizer, clip_gradients

PEAK_SIZE = 4096


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of ``run`` after two calls to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds[2:])


def matmul_peak(repeats: int) -> float:
    """Measured bf16 matmul rate, FLOP per second."""
    left = torch.randn(PEAK_SIZE, PEAK_SIZE).bfloat16()
    return 2.0 * PEAK_SIZE**3 / timed(lambda: left @ left, repeats)


def made_clips(config: Config, n_clips: int) -> ClipBatch:
    """Random clips with every modality, all joints available and full captions."""
    tokens = config.tokens
    generator = torch.Generator().manual_seed(0)
    shape = (n_clips, tokens.n_people, tokens.n_frames)
    frames = (n_clips, tokens.n_frames, 3, tokens.resolution, tokens.resolution)
    joints = torch.rand(*shape, 17, 3, generator=generator)
    joints[..., 2] = 1.0
    is_present = torch.ones(n_clips, dtype=torch.bool)
    has = {name: name in tokens.modalities for name in ("video", "skeleton", "text")}
    return ClipBatch(
        clip_ids=torch.arange(n_clips),
        labels=torch.zeros(n_clips, dtype=torch.int64),
        frames=torch.randint(0, 256, frames, dtype=torch.uint8, generator=generator) if has["video"] else None,
        has_video=is_present if has["video"] else None,
        joints=joints if has["skeleton"] else None,
        boxes=torch.rand(*shape, 4, generator=generator) if has["skeleton"] else None,
        has_skeleton=is_present if has["skeleton"] else None,
        word_ids=torch.randint(0, 1000, (n_clips, tokens.n_words), generator=generator) if has["text"] else None,
    )


class Step:
    """One training step of a configuration on a fixed batch."""

    def __init__(self, config: Config, n_clips: int) -> None:
        torch.manual_seed(0)
        self.module = MaskedPrediction(config)
        self.optimizer = build_optimizer(self.module, config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-4
        clips = made_clips(config, n_clips)
        started = time.perf_counter()
        self.batch: Batch = build_batch(clips, config, 0)
        self.build_seconds = time.perf_counter() - started

    def forward_backward(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.module(self.batch)["loss"]
        loss.backward()

    def __call__(self) -> None:
        self.forward_backward()
        clip_gradients(self.module.parameter_groups_for_clipping().values(), 10.0)
        self.optimizer.step()
        self.module.after_step(0.5)
        self.optimizer.zero_grad(set_to_none=True)

    def flops(self) -> float:
        """Matrix-product FLOPs of forward and backward, by torch's counter."""
        counter = FlopCounterMode(display=False)
        with counter:
            self.forward_backward()
        self.optimizer.zero_grad(set_to_none=True)
        return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print where the first variant's time goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.processor() or platform.machine()}")
    small = recipe("oskar-small")
    variants = {
        "three modalities, 224^2": small,
        "video alone, 224^2": replace(small, tokens=replace(small.tokens, modalities=("video",))),
        "three modalities, 320^2": replace(small, tokens=replace(small.tokens, resolution=320)),
    }
    steps = {name: Step(config, options.batch) for name, config in variants.items()}
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    peaks: list[float] = []
    for _ in range(options.repeats):  # interleaved, so that a busy moment hits all alike
        peaks.append(matmul_peak(1))
        for name, step in steps.items():
            rounds[name].append(timed(step, 1))
    peak = max(peaks)
    base = median(rounds["three modalities, 224^2"])
    print(f"bf16 matmul peak {peak / 1e9:.0f} GFLOP/s (best of {options.repeats})")
    for name, step in steps.items():
        seconds, flops = median(rounds[name]), step.flops()
        print(
            f"{name}: {1e3 * seconds:.0f} ms/step (best {1e3 * min(rounds[name]):.0f}), "
            f"{options.batch / seconds:.1f} clips/s, {flops / options.batch / 1e9:.1f} GFLOP/clip, "
            f"{100 * flops / seconds / peak:.0f} % of peak, {seconds / base:.2f} of the first; "
            f"masks and tokens {1e3 * step.build_seconds / options.batch:.2f} ms/clip"
        )
    if options.profile:
        print_profile(steps["three modalities, 224^2"])


def print_profile(step: Step, n_rows: int = 14) -> None:
    """Self time of the operators of one step, largest first, as shares."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    rows = sorted(profile.key_averages(), key=lambda row: row.self_cpu_time_total, reverse=True)
    total = sum(row.self_cpu_time_total for row in rows)
    for row in rows[:n_rows]:
        print(f"  {100 * row.self_cpu_time_total / total:5.1f} %  {row.key} x {row.count}")


if __name__ == "__main__":
    main()
