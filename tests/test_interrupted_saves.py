"""Saving under kills at every moment and on full disks: what was saved is never lost."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_checkpoint import is_whole, save, tensors_of

from oskar.errors import StoppedRunError
from oskar.train.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_encoder,
)
from oskar.train.record import MetricsFile, read_metrics

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and limits are POSIX")


def run_here(function: Callable[[Path], None], run: Path) -> None:
    """Call a function of this module in a fresh, single-threaded process, which may fork and be limited."""
    name = function.__name__
    code = f"import sys, pathlib, test_interrupted_saves; test_interrupted_saves.{name}(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """A child process that does ``work`` and exits 0; gone when the block ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    yield pid
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


# Kills


def kill_at_every_system_call(run: Path) -> None:
    """Kill a process before each file operation of saving in turn: what was saved is always there."""
    torch.set_num_threads(1)
    pytest.MonkeyPatch().setattr(os, "fsync", lambda _: None)  # slow, and a killed process's writes outlive it
    start = run.with_name("start")
    save(start, 1)
    save(start, 2)
    save_encoder(start / "encoder", tensors_of(1), "1")

    def save_encoder_again() -> None:
        save_encoder(run / "encoder", tensors_of(2), "2")

    for work in (lambda: save(run, 3), lambda: save(run, 2), save_encoder_again):
        for call in range(1, 200):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(start, run)
            with forked(lambda work=work, call=call: killed_before(call, work)) as pid:  # type: ignore[misc]
                _, status = os.waitpid(pid, 0)
            step = is_whole(latest_checkpoint(run) or run)
            encoder, texts = load_encoder(run / "encoder")
            assert torch.equal(encoder["model/a"], tensors_of(int(texts["config.json"]))["model/a"])
            save(run, 4)  # the run goes on, and what the kill left is cleared
            save_encoder_again()
            names = sorted(p.name for p in run.glob("**/*") if p.is_dir())
            assert names == ["checkpoints", "encoder", f"step-0000000{step}", "step-00000004"]
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                assert call > 10, "hardly any operation was seen"
                break
        else:
            raise AssertionError("saving never ended")


def killed_before(call: int, work: Callable[[], object]) -> None:
    events = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"}
    n_seen = 0

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal n_seen
        if event not in events:
            return
        n_seen += 1
        if n_seen == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def kill_at_random(run: Path) -> None:
    """Kill a training loop at random times, resume it, and kill it again."""
    torch.set_num_threads(1)
    delays = random.Random(0)
    (run / "checkpoints").mkdir(parents=True)
    n_killed_on_the_way = 0
    for _ in range(15):
        reader, writer = os.pipe()
        with forked(lambda writer=writer: train_on(run, writer)) as pid:  # type: ignore[misc]
            os.close(writer)
            told = os.read(reader, 4096)  # waits for the first save, so that every round gets on
            time.sleep(delays.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        with open(reader, "rb") as stream:
            told += stream.read()
        n_killed_on_the_way += any(path.name.startswith(".") for path in run.glob("**/*"))
        step = is_whole(latest_checkpoint(run) or run)
        assert step >= int(told.split()[-1]), "a checkpoint that was reported saved is gone"
        MetricsFile(run).truncate_after(step)
        assert [record["step"] for record in read_metrics(run)] == list(range(1, step + 1))
        tensors, texts = load_encoder(run / "encoder")
        assert int(texts["config.json"]) in (step, step + 1)
        assert torch.equal(tensors["model/a"], tensors_of(int(texts["config.json"]))["model/a"])
    assert n_killed_on_the_way > 0, "the kills missed the saves"


def train_on(run: Path, writer: int) -> None:
    latest = latest_checkpoint(run)
    step = load_checkpoint(latest)[1]["step"] if latest else 0
    metrics = MetricsFile(run)
    metrics.truncate_after(step)
    while True:
        step += 1
        metrics.append(step, "train", {"loss": 1.0 / step})
        save_encoder(run / "encoder", tensors_of(step), str(step))
        save(run, step)
        os.write(writer, b"%d\n" % step)


def test_a_kill_before_any_file_operation_loses_nothing(tmp_path: Path) -> None:
    run_here(kill_at_every_system_call, tmp_path / "run")


def test_kills_at_random_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    run_here(kill_at_random, tmp_path / "run")


# Full disks


def check_failed_save(run: Path) -> None:
    with pytest.raises(StoppedRunError) as error:
        save_checkpoint(run, 3, {"w": torch.zeros(500_000)}, {})
    assert "step-00000003" in str(error.value)
    assert "needs 2,0" in str(error.value)
    assert "free" in str(error.value)
    assert "--resume" in str(error.value)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
    assert is_whole(latest_checkpoint(run) or run) == 2
    with pytest.raises(StoppedRunError, match="encoder could not be written"):
        save_encoder(run / "encoder", {"w": torch.zeros(500_000)}, "{}")
    assert load_encoder(run / "encoder")[1] == {"config.json": "{}"}


def save_under_a_size_limit(run: Path) -> None:
    import resource  # POSIX only

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save(run, 1)
    save(run, 2)
    save_encoder(run / "encoder", tensors_of(0), "{}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    check_failed_save(run)
    save(run, 3)
    assert is_whole(latest_checkpoint(run) or run) == 3


def test_a_write_that_the_system_refuses_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    run_here(save_under_a_size_limit, tmp_path)


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        save(disk, 1)
        save(disk, 2)
        save_encoder(disk / "encoder", tensors_of(0), "{}")
        check_failed_save(disk)
    finally:
        subprocess.run(["umount", disk], check=True)
