"""OSKAR's step beside those of its peers: clips and tokens per second, FLOPs, share of the matmul peak, peak memory.

Each line is measured in a process of its own, at several batch sizes, and the fastest batch counts; then
the ratios that matter. One run on one machine; nothing else should run meanwhile.

    python benchmarks/peers.py [--sizes small base] [--threads 2] [--clock cpu] [--repeats 3]

``--clock cpu`` (with ``--threads 1``) counts CPU seconds, which other work on the machine disturbs less.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from _measure import Clock, Measured, describe, in_child, matmul_peak, measure, precision_for, print_table, report
from _peers import PeerStep, VideoMAEStep, VJEPAStep
from _recipes import SIZES, mae, oskar, videomae, vjepa

from oskar.config import Config
from oskar.planning.made import made_batch
from oskar.planning.step import TrainingStep, made_module
from oskar.train.compiling import compile_blocks
from oskar.train.device import choose_device

OWN: dict[str, Callable[[str], Config]] = {"oskar": oskar, "vjepa": vjepa, "mae": mae, "videomae": videomae}
PEERS: dict[str, type[VJEPAStep] | type[VideoMAEStep]] = {
    "V-JEPA on transformers": VJEPAStep,
    "VideoMAE on transformers": VideoMAEStep,
}
# Batch sizes to try on a CPU: more clips at once leave its caches and are slower.
BATCHES = {
    "oskar": (8, 32),
    "mae": (8, 32),
    "vjepa": (1, 2, 4),
    "videomae": (2, 8),
    "V-JEPA on transformers": (1, 2, 4),
    "VideoMAE on transformers": (2, 8),
}
ON_GPU = 64  # times as many
RATIOS = (
    ("oskar", "V-JEPA on transformers", 50.0),
    ("oskar", "VideoMAE on transformers", 4.0),
    ("vjepa", "V-JEPA on transformers", 1.0),
    ("mae", "VideoMAE on transformers", 1.0),
    ("videomae", "VideoMAE on transformers", 1.0),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "base"])
    parser.add_argument("--only", nargs="+", choices=[*OWN, *PEERS], default=[*OWN, *PEERS])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="compile our blocks, as train.compile does")
    parser.add_argument("--child", nargs=3, metavar=("NAME", "SIZE", "BATCH"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measured_here(options: argparse.Namespace) -> Measured:
    """One line of the table, in this process."""
    name, size, batch = options.child[0], options.child[1], int(options.child[2])
    device, is_autocast = choose_device(options.device), options.precision == "bfloat16"
    dtype = torch.bfloat16 if is_autocast else torch.float32
    step: Callable[[], object]
    if name in PEERS:
        peer: PeerStep = PEERS[name](size, batch, device, is_autocast)
        step, n_tokens = peer, peer.n_tokens
    else:
        config = OWN[name](size)
        module, made = made_module(config, device), made_batch(config, batch).to(device)
        if options.compile:
            compile_blocks(module, device)
        own = TrainingStep(module, config, device, is_autocast=is_autocast)
        step, n_tokens = lambda: own(made), made.n_tokens
    step()
    return measure(name, step, batch, n_tokens, Clock(options.clock, device), dtype, options.repeats)


def child_arguments(options: argparse.Namespace, name: str, size: str, batch: int, precision: str) -> list[str]:
    words = [name, size, str(batch), "--threads", str(options.threads), "--clock", options.clock]
    words += ["--repeats", str(options.repeats), "--precision", precision, "--device", options.device]
    return [*words, *(["--compile"] if options.compile else [])]


def print_size(size: str, best: dict[str, Measured], tried: dict[str, list[int]], peak: float) -> None:
    print(f"\n### {size}\n")
    header = (
        "step",
        "batch",
        "clips/s",
        "ms/clip",
        "tokens/s",
        "GFLOP/clip",
        "share of peak",
        "peak memory",
        "CPU got",
    )
    rows = [
        (
            name,
            f"{m.n_clips} of {tried[name]}",
            f"{m.clips_per_second:.3g}",
            f"{1e3 / m.clips_per_second:.0f}",
            f"{m.n_tokens / m.seconds:,.0f}",
            f"{m.flops / m.n_clips / 1e9:.1f}",
            f"{m.flops / m.seconds / peak:.0%}",
            f"{m.peak_bytes / 1e9:.2f} GB",
            f"{m.cpu_share:.0%}",
        )
        for name, m in best.items()
    ]
    print_table(header, rows)
    print()
    pairs = [(left, right, goal) for left, right, goal in RATIOS if left in best and right in best]
    compared = [
        (
            f"{left} over {right}",
            f"{best[left].clips_per_second / best[right].clips_per_second:.2f}",
            f"{best[right].flops / best[right].n_clips / (best[left].flops / best[left].n_clips):.2f}",
            f"{goal:g}",
        )
        for left, right, goal in pairs
    ]
    print_table(("clips per second", "ratio", "of which FLOPs", "aim"), compared)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        report(measured_here(options))
        return
    device = choose_device(options.device)
    precision = precision_for(options.precision, device)
    name = "bfloat16" if precision.is_autocast else "float32"
    clock = Clock(options.clock, device)
    print(describe(device, precision) + f", {options.clock} clock")
    peaks = {"float32": matmul_peak(clock, torch.float32), "bfloat16": matmul_peak(clock, torch.bfloat16, size=1024)}
    print("matmul peak: " + ", ".join(f"{key} {rate / 1e9:,.0f} GFLOP/s" for key, rate in peaks.items()))
    for size in options.sizes:
        best: dict[str, Measured] = {}
        tried: dict[str, list[int]] = {}
        for line in options.only:
            batches = [b * (ON_GPU if device.type == "cuda" else 1) for b in BATCHES[line]]
            found = [in_child(__file__, child_arguments(options, line, size, b, name)) for b in batches]
            print(f"{size} {line}: {[m and round(m.clips_per_second, 2) for m in found]} clips/s", file=sys.stderr)
            fitting = [m for m in found if m is not None]
            if fitting:
                best[line], tried[line] = max(fitting, key=lambda m: m.clips_per_second), batches
        print_size(size, best, tried, max(peaks[name], *(m.peak_flops_per_second for m in best.values())))


if __name__ == "__main__":
    main()
