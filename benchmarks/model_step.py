"""The model step of OSKAR: share of the matmul peak, what its cost depends on, and where its time goes.

Prints ratios within one run: the variants take turns, so that a busy moment hits all alike. A step is forward,
backward, clipping, AdamW and momentum at 128 + 128 tokens; drawing masks and taking tokens happens in
the loader and is timed apart.

    python benchmarks/model_step.py [--size small] [--batch 32] [--repeats 5] [--threads 2] [--clock cpu] [--profile]
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from _measure import Clock, describe, matmul_peak, precision_for, print_table
from _recipes import SIZES, many_tokens, oskar, video_alone

from oskar.config import Config
from oskar.masking.packing import build_batch
from oskar.modalities import modality_specs
from oskar.planning.counting import flop_counter
from oskar.planning.made import made_clips
from oskar.planning.step import TrainingStep, made_module
from oskar.train.compiling import compile_blocks
from oskar.train.device import choose_device

N_ROWS = 16
FIRST = "three modalities, 224^2"
VARIANTS: dict[str, Callable[[str], Config]] = {
    FIRST: oskar,
    "video alone, 224^2": video_alone,
    "three modalities, 544^2": many_tokens,
}


class Variant:
    """A configuration's step on one made batch."""

    def __init__(self, config: Config, n_clips: int, clock: Clock, *, is_autocast: bool, compiles: bool) -> None:
        device = clock.device
        clips = made_clips(config, n_clips)
        batch = build_batch(clips, config, 0)
        packs = [clock.seconds(lambda: build_batch(clips, config, 0)) for _ in range(3)]
        self.pack_seconds = min(packs) / n_clips
        self.n_raw = sum(spec.n_tokens for spec in modality_specs(config.tokens).values())
        module = made_module(config, device)
        if compiles:
            compile_blocks(module, device)
        self.step = TrainingStep(module, config, device, is_autocast=is_autocast)
        self.batch = batch.to(device)
        self.seconds: list[float] = []

    def __call__(self) -> None:
        self.step(self.batch)

    def encode(self) -> None:
        """The fusion encoder's forward and backward alone."""
        with torch.autocast(self.step.device.type, torch.bfloat16, enabled=self.step.is_autocast):
            latents = self.step.module.fusion(self.batch.views[0].visible, self.step.module.routing)
        latents.float().square().mean().backward()
        self.step.optimizer.zero_grad(set_to_none=True)


def flops_of(run: Callable[[], object]) -> int:
    with flop_counter() as counter:
        run()
    return int(counter.get_total_flops())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the blocks, as train.compile does")
    parser.add_argument("--profile", action="store_true", help="only print where the first variant's time goes")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    precision = precision_for(options.precision, device)
    clock = Clock(options.clock, device)
    dtype = torch.bfloat16 if precision.is_autocast else torch.float32
    print(describe(device, precision) + f", {options.clock} clock, oskar-{options.size}, batch {options.batch}\n")
    variants = {
        name: Variant(
            make(options.size), options.batch, clock, is_autocast=precision.is_autocast, compiles=options.compile
        )
        for name, make in VARIANTS.items()
        if name == FIRST or not options.profile
    }
    first = variants[FIRST]
    if options.profile:
        print_profile(first, device)
        return
    encode_flops = flops_of(first.encode)
    flops = {name: flops_of(variant) for name, variant in variants.items()}
    peaks, encodes = [], []
    for _ in range(options.repeats):
        peaks.append(matmul_peak(clock, dtype, repeats=1))
        encodes.append(clock.seconds(first.encode))
        for variant in variants.values():
            variant.seconds.append(clock.seconds(variant))
    peak, base = max(peaks), median(first.seconds)
    print(f"matmul peak {peak / 1e9:,.0f} GFLOP/s (best of {options.repeats})\n")
    rows = [
        (
            f"{name}, {variant.n_raw:,} raw tokens",
            f"{1e3 * median(variant.seconds):,.0f}, {1e3 * min(variant.seconds):,.0f}",
            f"{options.batch / median(variant.seconds):.2f}",
            f"{flops[name] / options.batch / 1e9:.1f}",
            f"{flops[name] / median(variant.seconds) / peak:.0%}",
            f"{median(variant.seconds) / base:.3f}",
            f"{1e3 * variant.pack_seconds:.2f}",
        )
        for name, variant in variants.items()
    ]
    seconds = median(encodes)
    encoder = f"{1e3 * seconds:,.0f}, {1e3 * min(encodes):,.0f}", f"{options.batch / seconds:.2f}"
    rate = f"{encode_flops / options.batch / 1e9:.1f}", f"{encode_flops / seconds / peak:.0%}"
    rows.append(("fusion encoder alone, forward and backward", *encoder, *rate, f"{seconds / base:.3f}", ""))
    header = ("variant", "ms per step (median, best)", "clips/s", "GFLOP/clip", "share of peak", "against the first")
    print_table((*header, "masks and tokens, ms/clip"), rows)


def print_profile(variant: Variant, device: torch.device) -> None:
    """Self time of the operators of one step, largest first, as shares."""
    variant()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        variant()
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profile.key_averages(), key=lambda row: float(getattr(row, attribute)), reverse=True)
    total = sum(float(getattr(row, attribute)) for row in rows)
    shown = [(row.key, row.count, f"{float(getattr(row, attribute)) / total:.1%}") for row in rows[:N_ROWS]]
    print_table(("operator", "calls", "share of the step"), shown)


if __name__ == "__main__":
    main()
