"""Clips per second and core of the synthetic people: ``python benchmarks/people_speed.py [resolution] [device]``.

Rates are per second of this process's own CPU time on one thread (wall time on a GPU), so that
other work on the machine counts less; the wall-clock rate is printed beside it.
"""

import sys
import time

import torch

from oskar.data.people import PeopleWorld, generate

_BATCH, _ROUNDS = 64, 8


def main() -> None:
    resolution = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    torch.set_num_threads(1)
    world = PeopleWorld(resolution=resolution)
    generate(world, torch.arange(_BATCH, device=device), seed=0)
    cpu_rates, wall_rates = [], []
    for i in range(_ROUNDS):
        cpu, wall = time.process_time(), time.perf_counter()
        generate(world, torch.arange(i * _BATCH, (i + 1) * _BATCH, device=device), seed=1)
        if device != "cpu":
            torch.cuda.synchronize()
        cpu_rates.append(_BATCH / (time.process_time() - cpu))
        wall_rates.append(_BATCH / (time.perf_counter() - wall))
    print(f"{world.n_frames} frames of {resolution} x {resolution} on {device}, one thread, batches of {_BATCH}")
    for name, rates in (("cpu time", cpu_rates), ("wall time", wall_rates)):
        rates.sort()
        print(f"{name}: median {rates[len(rates) // 2]:.0f}, best {rates[-1]:.0f} clips/s")


if __name__ == "__main__":
    main()
