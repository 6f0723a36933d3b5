"""Runs that are killed and resumed equal runs that were not, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import TINY, forked_command, records

from oskar.train.checkpoint import latest_checkpoint, load_checkpoint

N_STEPS = 20
SETTINGS = (
    *TINY, f"train.steps={N_STEPS}", "train.checkpoint_every_steps=3", "target.centre=true", "momentum.skeleton=0.99",
    "train.lr=1e-3",
)  # fmt: skip


def pretrain(run: Path, *more: str) -> list[str]:
    return ["pretrain", "oskar-tiny", "--data", "people:40", "--out", str(run), *SETTINGS, *more]


def n_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(run: Path, n: int, child: int) -> bool:
    """Whether the run still goes on when its file has ``n`` lines."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        if n_lines(run) >= n:
            return True
        time.sleep(0.002)
    raise AssertionError(f"{run}: no {n} lines in time")


def finish(run: Path, *words: str) -> int:
    _, status = os.waitpid(forked_command(run.with_suffix(".log"), *words), 0)
    return os.waitstatus_to_exitcode(status)


def kill_until_done(run: Path, words: list[str], number: int, next_stop: Callable[[int], int]) -> list[int]:
    """Signal the run whenever it has written ``next_stop(lines so far)`` lines, and resume it until it ends."""
    codes: list[int] = []
    resume: list[str] = []
    for _ in range(40):
        child = forked_command(run.with_suffix(".log"), *words, *resume)
        goes_on = wait_for_lines(run, next_stop(n_lines(run)), child)
        if not goes_on:
            return codes
        os.kill(child, number)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        resume = ["--resume"] if (run / "config.json").exists() else []
    raise AssertionError(run.with_suffix(".log").read_text())


def require_equal(run: Path, whole: Path) -> None:
    """All records, and the last checkpoint with weights, momenta, means, optimiser and random state."""
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [r["step"] for r in records(run)] == list(range(1, N_STEPS + 1))
    paths = [latest_checkpoint(r) for r in (run, whole)]
    assert paths[0] is not None
    assert paths[1] is not None
    (ours, our_state), (theirs, their_state) = load_checkpoint(paths[0]), load_checkpoint(paths[1])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for timing in ("seconds", "wait_seconds"):
        del our_state["progress"][timing], their_state["progress"][timing]
    assert our_state == their_state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert finish(run, *pretrain(run)) == 0, run.with_suffix(".log").read_text()
    values = [r["loss"] for r in records(run)]
    assert len(set(values)) == N_STEPS
    return run


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_and_resumed_runs_equal_the_whole_one(workers: int, whole: Path, tmp_path: Path) -> None:
    rng = random.Random(workers)
    run = tmp_path / "run"
    words = pretrain(run, f"data.workers={workers}")
    codes = kill_until_done(run, words, signal.SIGKILL, lambda n: n + rng.randint(3, 8))
    assert codes
    assert set(codes) == {-signal.SIGKILL}
    require_equal(run, whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_and_the_run_goes_on(workers: int, whole: Path, tmp_path: Path) -> None:
    """As schedulers send it: to every process of the group, the workers among them."""
    run = tmp_path / "run"
    words = pretrain(run, f"data.workers={workers}", "train.checkpoint_every_steps=1000")
    child = forked_command(tmp_path / "log", *words)
    assert wait_for_lines(run, 5, child), (tmp_path / "log").read_text()
    os.killpg(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = (tmp_path / "log").read_text()
    assert code == 4, printed
    step = len(records(run))
    assert 5 <= step < N_STEPS
    assert f"SIGTERM after step {step}" in printed
    assert "--resume" in printed
    assert not (run / "summary.json").exists()
    assert finish(run, *words, "--resume") == 0, run.with_suffix(".log").read_text()
    require_equal(run, whole)
    assert (run / "summary.json").exists()


def test_resuming_a_finished_run_changes_nothing(whole: Path) -> None:
    before = {p: p.read_bytes() for p in sorted(whole.rglob("*")) if p.is_file() and p.name != "summary.json"}
    assert finish(whole, *pretrain(whole), "--resume") == 0
    after = {p: p.read_bytes() for p in sorted(whole.rglob("*")) if p.is_file() and p.name != "summary.json"}
    assert before == after


@pytest.mark.slow
def test_programs_killed_at_random_moments_equal_the_whole_one(whole: Path, tmp_path: Path) -> None:
    """``python -m oskar`` with captions, killed anywhere from its start on."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = {name: tmp_path / name for name in ("killed", "plain")}
    rng = random.Random(0)

    def program(run: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "oskar", *pretrain(run, "data.captions=written", *more)]

    subprocess.run(program(runs["plain"]), check=True, env=environment, capture_output=True)
    run, codes = runs["killed"], []
    for n_lines_before in (0, 0, 2, 7, 12, 17):
        more = ["--resume"] if (run / "config.json").exists() else []
        with subprocess.Popen(program(run, *more), env=environment, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and n_lines(run) < n_lines_before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.05) if n_lines_before else rng.uniform(0.0, 8.0))
            process.kill()
        codes.append(process.returncode)
    assert codes.count(-signal.SIGKILL) >= 3
    subprocess.run(program(run, "--resume"), check=True, env=environment, capture_output=True)
    require_equal(runs["killed"], runs["plain"])
    assert (runs["killed"] / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes()  # captions count
