"""A process that dies, stalls or fails ends the run in all of them, by name; the last checkpoint stays whole."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import PATIENCE_SECONDS, codes_of, commands, free_port, n_lines, printed, together, wait_for_lines
from runs import TINY, CommandLine, packed_folder, records, shrunk
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from oskar.config import TrainConfig
from oskar.data.stream import LoadedStep
from oskar.errors import InputError, StoppedRunError
from oskar.pretraining import MaskedPrediction
from oskar.train import distributed, meeting
from oskar.train.checkpoint import latest_checkpoint, load_checkpoint
from oskar.train.distributed import Processes
from oskar.train.loop import BatchStream, Trainer
from oskar.train.precision import PrecisionChoice

N_STEPS = 4000
FLOAT32 = PrecisionChoice(dtype=torch.float32, reason="test")
SETTINGS = (
    *TINY, f"train.steps={N_STEPS}", "train.checkpoint_every_steps=3", "tokens.modalities=[\"skeleton\"]",
    "train.collective_timeout_seconds=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = packed_folder(tmp_path_factory.mktemp("data") / "skeletons", 12)
    return ["pretrain", "oskar-tiny", "--data", str(data), *SETTINGS]


def require_whole_checkpoint(run: Path) -> int:
    path = latest_checkpoint(run)
    assert path is not None
    step = load_checkpoint(path)[1]["progress"]["step"]
    assert step >= 3
    return int(step)


def test_a_killed_process_is_named_by_the_other(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with commands(2, tmp_path / "logs", [*words, "--out", run]) as children:
        wait_for_lines(run, 4)
        os.kill(children[1], signal.SIGKILL)
        assert codes_of(children) == [3, -signal.SIGKILL], printed(tmp_path / "logs", 2)
    told = printed(tmp_path / "logs", 2)[0]
    named = rf"rank 1 of 2 on \S+ \(process {children[1]}\) has died; .* in phase: step \d+, \w+"
    assert re.search(named, told), told
    assert re.search(r"oskar: rank 0 of 2 on \S+, step \d+, ", told), told
    assert "--resume" in told
    require_whole_checkpoint(run)


def test_a_stalled_process_is_named_within_the_timeout(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with commands(2, tmp_path / "logs", [*words, "--out", run]) as children:
        wait_for_lines(run, 4)
        os.kill(children[1], signal.SIGSTOP)
        stopped = time.monotonic()
        assert codes_of(children[:1]) == [3]
        assert 4 < time.monotonic() - stopped < 90
    told = printed(tmp_path / "logs", 2)[0]
    assert re.search(rf"rank 1 of 2 on \S+ \(process {children[1]}\) does not answer; .* step \d+", told), told
    require_whole_checkpoint(run)


def fit_nothing(rank: int, run: Path, stream: BatchStream, bad_budget: int = 0) -> None:
    """Train on a stream without a part."""
    with Processes.join(30, with_cuda=False) as processes:
        Trainer(
            MaskedPrediction(shrunk("oskar-tiny")), stream, TrainConfig(steps=9), run, precision=FLOAT32,
            device=torch.device("cpu"), bad_budget=bad_budget, processes=processes,
        ).fit()  # fmt: skip


class Broken:
    """A stream whose third step cannot be read by one of the processes."""

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        for step in range(first_step, 9):
            if step == 2:
                raise InputError("shard 7 is damaged", fix="copy it again")
            yield LoadedStep([])


class Endless:
    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        while True:
            yield LoadedStep([])


def test_an_error_of_one_process_is_told_by_all(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        fit_nothing(rank, tmp_path, Broken() if rank else Endless())

    assert together(2, tmp_path / "logs", work) == [1, 1]
    other, own = printed(tmp_path / "logs", 2)
    assert re.search(r"InputError: rank 1 of 2 on \S+, step 2, waiting for data: shard 7 is damaged", own), own
    assert re.search(r"StoppedRunError: rank 0 of 2 .* lost another process: rank 1 of 2 .* shard 7 is damaged", other)


class Bad:
    """A stream in which each process meets a bad clip of its own."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        for step in range(first_step, 9):
            bad = (f"clip-{self.rank}", f"/x/{self.rank}.mp4 is empty")
            yield LoadedStep([], (bad,) if step == self.rank else ())


def test_clips_that_any_process_cannot_read_count_for_all(tmp_path: Path) -> None:
    """Each has one bad clip: two are one more than allowed, which both agree on and one tells."""

    def work(rank: int) -> None:
        with pytest.raises(StoppedRunError) as stopped:
            fit_nothing(rank, tmp_path, Bad(rank), bad_budget=1)
        assert "2 clips could not be read, 1 are allowed" in str(stopped.value)
        assert "clip-0: /x/0.mp4 is empty; clip-1: /x/1.mp4 is empty" in str(stopped.value)
        assert stopped.value.is_silent == (rank == 1)

    assert together(2, tmp_path / "logs", work) == [0, 0], printed(tmp_path / "logs", 2)


def test_processes_say_the_same_things_to_each_other(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with Processes.join(30, with_cuda=False) as processes:
            assert (processes.rank, processes.n, processes.is_first) == (rank, 2, rank == 0)
            assert processes.gather({"rank": rank, "text": "é" * rank}) == [
                {"rank": 0, "text": ""}, {"rank": 1, "text": "é"},
            ]  # fmt: skip
            assert processes.first([rank, "x"]) == [0, "x"]
            assert processes.sums([1.0 + rank, 0.1]) == [3.0, 0.2]
            assert processes.add_(torch.tensor([1.0, float(rank)])).tolist() == [2.0, 1.0]
            processes.require_same({"data": "abc"}, fix="name the same data")
            with pytest.raises(InputError, match=r"data is .*name the same data"):
                processes.require_same({"data": rank}, fix="name the same data")

    assert together(2, tmp_path, work) == [0, 0], printed(tmp_path, 2)


def test_one_process_needs_nobody() -> None:
    with Processes.join(1, with_cuda=False) as alone:
        assert (alone.n, alone.is_first, alone.is_restart) == (1, True, False)
        assert alone.gather(3) == [3]
        assert alone.sums([1.5, 2.0]) == [1.5, 2.0]
        assert alone.gather_numbers([1.0, 2.0]).tolist() == [[1.0, 2.0]]


def test_the_remains_of_a_process_do_not_run() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not asked for its code
    assert not distributed.is_running(child)
    os.waitpid(child, 0)
    assert not distributed.is_running(child)
    assert distributed.is_running(os.getpid())


def test_a_world_without_a_meeting_point_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"WORLD_SIZE = 2, but RANK, MASTER_ADDR, MASTER_PORT .* torchrun"):
        Processes.join(1, with_cuda=False)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match=r"WORLD_SIZE = 'two' .* no number"):
        Processes.join(1, with_cuda=False)


def test_a_process_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meeting, "START_SECONDS", 2.0)

    def comes_alone(rank: int) -> None:
        if rank == 0:
            with pytest.raises(StoppedRunError, match=r"rank 0 of 2: the processes did not meet at 127.0.0.1:\d+"):
                Processes.join(30, with_cuda=False)

    def comes_late(rank: int) -> None:
        if rank == 0:
            with pytest.raises(StoppedRunError, match=r"rank 0 of 2: ranks \[1\] have not started within 2 s"):
                Processes.join(30, with_cuda=False)
        else:
            store = next(rendezvous("env://"))  # as far as this, and no further
            time.sleep(4)
            del store

    assert together(2, tmp_path / "alone", comes_alone) == [0, 0], printed(tmp_path / "alone", 2)
    assert together(2, tmp_path / "late", comes_late) == [0, 0], printed(tmp_path / "late", 2)


def test_what_the_processes_before_a_restart_said_is_not_heard(tmp_path: Path) -> None:
    """They met over the same store, said who they were, and died: the next agree on another name all the same."""
    path = str(tmp_path / "store")

    def agreed(folder: Path) -> list[str]:
        def work(rank: int) -> None:
            time.sleep((0.3, 0.0, 0.6)[rank])  # in any order
            print(meeting.agree_on_an_attempt(FileStore(path, -1), rank, 3), flush=True)

        assert together(3, folder, work) == [0, 0, 0], printed(folder, 3)
        return printed(folder, 3)

    store = FileStore(path, -1)
    store.set("here/1", "stale")  # one more attempt, which ended before all had come
    store.set("list", "stale stale stale")
    first, second = agreed(tmp_path / "first"), agreed(tmp_path / "second")
    assert len(set(first)) == len(set(second)) == 1
    assert first != second


def test_only_pretraining_takes_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, told = CommandLine(monkeypatch, capsys)("evaluate", tmp_path)
    assert code == 2
    assert "oskar evaluate runs in one process" in told


def test_a_batch_that_cannot_be_shared_out_is_an_error(words: list[str], tmp_path: Path) -> None:
    more = ["--out", tmp_path / "run", "train.batch_size=6", "train.accumulation=2"]
    with commands(2, tmp_path, [*words, *more]) as children:
        assert codes_of(children) == [2, 2]
    for told in printed(tmp_path, 2):
        assert "train.batch_size = 6 for 2 processes with train.accumulation = 2" in told
        assert "use a multiple of 4" in told


@pytest.mark.slow
def test_torchrun_starts_the_others_anew_from_the_last_checkpoint(words: list[str], tmp_path: Path) -> None:
    """One of two is killed with -9: each step is in the record once, and the curve is that of one process."""
    steps = ["train.steps=40", "train.collective_timeout_seconds=60"]
    plain, run = tmp_path / "plain", tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    oskar = ["-m", "oskar", *words, *steps]
    subprocess.run([sys.executable, *oskar, "--out", str(plain)], check=True, env=environment, capture_output=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    launch += ["--master-port", str(free_port())]
    words = [*launch, *oskar, "--out", str(run)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, env=environment, stdout=log, stderr=log) as job:
        try:
            wait_for_lines(run, 8)
            os.kill(worker_of(job.pid), signal.SIGKILL)
            assert job.wait(PATIENCE_SECONDS) == 0, (tmp_path / "log").read_text()
        finally:
            job.terminate()
    assert n_lines(run) == 40
    found, wanted = records(run), records(plain)
    assert [r["step"] for r in found] == [r["step"] for r in wanted]
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in wanted], rel=1e-3)
    assert "has died" in (tmp_path / "log").read_text()
    assert (run / "summary.json").exists()


def worker_of(launcher: int) -> int:
    """The process of rank 1 among the children of torchrun."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError("torchrun has no child of rank 1")
