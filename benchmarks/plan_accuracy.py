"""What ``oskar plan`` says beside what a run then takes: seconds of a step, and peak memory of its process.

    python benchmarks/plan_accuracy.py [--steps 8]

A run is ``oskar pretrain`` on made people; the step's seconds leave out the wait for data and the first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import describe, precision_for, print_table

from oskar.train.device import choose_device

RUNS = (
    ("oskar-small", "train.batch_size=16"),
    ("vjepa-tiny", "train.batch_size=16"),
    ("mae-tiny", "train.batch_size=32"),
    ("oskar-tiny", "train.batch_size=128"),
)
N_CLIPS = 256
# The run's own process says how much memory it took at most, and how long its steps were.
RUN = """
import json, resource, sys, time
from oskar.cli import main
from oskar.train.loop import Trainer
seconds, step = [], Trainer._step
def timed(self, loaded):
    started = time.perf_counter()
    step(self, loaded)
    seconds.append(time.perf_counter() - started)
Trainer._step = timed
try:
    main()
except SystemExit as stopped:
    if stopped.code:
        raise
print(json.dumps({"seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=[name for name, _ in RUNS])
    options = parser.parse_args()
    device = choose_device("auto")
    print(describe(device, precision_for("auto", device)) + "\n")
    rows = []
    for recipe, *settings in RUNS:
        if recipe not in options.only:
            continue
        precision = "float32" if device.type == "cpu" else "bfloat16"
        settings += [f"train.precision={precision}", f"train.steps={options.steps}", "train.log_every_steps=1000"]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            _run("-m", "oskar", "plan", recipe, *settings, "--out", str(out / "plan.json"))
            plan = json.loads((out / "plan.json").read_text())
            words = ["pretrain", recipe, "--data", f"people:{N_CLIPS}", "--out", str(out / "run"), *settings]
            taken = json.loads(_run("-c", RUN, *words).splitlines()[-1])
        seconds = sorted(taken["seconds"][1:])[len(taken["seconds"]) // 2 - 1]
        rows.append(
            (
                f"{recipe} {settings[0]}",
                f"{plan['rate']['step_seconds']:.2f}",
                f"{seconds:.2f}",
                f"{plan['rate']['step_seconds'] / seconds - 1:+.0%}",
                f"{plan['memory']['peak'] / 1e6:,.0f}",
                f"{taken['bytes'] / 1e6:,.0f}",
                f"{plan['memory']['peak'] / taken['bytes'] - 1:+.0%}",
            )
        )
    print_table(("run", "step planned, s", "taken", "error", "memory planned, MB", "taken", "error"), rows)


def _run(*words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:6])} failed\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
