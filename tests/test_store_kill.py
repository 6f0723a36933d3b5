"""Stores that were begun: killed and taken up again they equal the whole one; other plans are refused."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from runs import TINY, CommandLine, forked_command, records, video_folder

N_CLIPS = 12
GEOMETRY = [word for word in TINY if word.startswith("tokens.")]
ONE_CLIP = (32 * (384 + 5) + 4 * 2 * 4 * 55 + 4) / 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_folder(tmp_path_factory.mktemp("data") / "v", N_CLIPS, caption=lambda i: f"number {i}")


def words(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "tokenize", str(folder), "--out", str(out), "--recipe", "oskar-tiny", *GEOMETRY, "store.workers=0",
        f"store.shard_mib={ONE_CLIP * 1.5}", *more,
    ]  # fmt: skip


def files_of(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def finish(log: Path, *command: str) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(forked_command(log, *command), 0)[1])


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "store"
    log = out.with_suffix(".log")
    assert finish(log, *words(folder, out)) == 0, log.read_text()
    return out


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_store_that_is_gone_on_with_equals_the_whole_one(
    workers: int, folder: Path, whole: Path, tmp_path: Path
) -> None:
    out, log, rng = tmp_path / "store", tmp_path / "log", random.Random(workers)
    n_killed = 0
    for _ in range(20):
        before = len(list(out.glob("shards/*.json")))
        child = forked_command(log, *words(folder, out, f"store.workers={workers}"))
        until = time.monotonic() + 120
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            assert time.monotonic() < until, log.read_text()
            if len(list(out.glob("shards/*.json"))) >= before + 3:
                time.sleep(rng.uniform(0.0, 0.02))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                n_killed += 1
                break
            time.sleep(0.001)
        else:
            break
    assert n_killed >= 2
    assert not (out / "plan.json").exists(), log.read_text()
    ours, theirs = files_of(out), files_of(whole)
    kept = {name: data for name, data in ours.items() if ".tmp-" not in name}
    assert kept == theirs


def test_a_shard_that_was_changed_before_the_end_is_made_anew(folder: Path, whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "store", tmp_path / "log"
    child = forked_command(log, *words(folder, out))
    while len(list(out.glob("shards/*.json"))) < 4:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for damaged, data in (("000001", b""), ("000002", b"x" * 100)):
        (out / "shards" / f"shard-{damaged}.safetensors").write_bytes(data)
    (out / "shards" / "shard-000000.json").write_text("{")
    assert finish(log, *words(folder, out)) == 0, log.read_text()
    assert files_of(out) == files_of(whole)


def test_a_finished_store_is_left_alone(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = CommandLine(monkeypatch, capsys)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    code, printed = run(*words(folder, whole))
    assert (code, f"{N_CLIPS} clips" in printed) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["store.seed=5"], "seed"),
        (["tokens.n_frames=8"], "tokens"),
        (["clip.crop_scale=[0.1,1.0]"], "clip"),
        (["--views", "2"], "views"),
    ],
)
def test_another_plan_is_refused(
    more: list[str],
    named: str,
    folder: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = CommandLine(monkeypatch, capsys)
    code, printed = run(*words(folder, whole, *more))
    assert code == 2
    assert f"begun with other {named}" in printed
    begun = tmp_path / "begun"
    (begun / "shards").mkdir(parents=True)
    (begun / "plan.json").write_text(json.dumps({"version": 1, "settings": {}}))
    code, printed = run(*words(folder, begun))
    assert (code, "begun with other settings" in printed) == (2, True)


def test_an_unfinished_store_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "plan.json").write_text("{}")
    code, printed = CommandLine(monkeypatch, capsys)(
        "pretrain", "oskar-tiny", "--data", tmp_path / "s", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "an unfinished token store" in printed


def test_a_run_reads_a_store_stops_on_damage_and_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error budget decides about shards that are missing; a repaired store is gone on with."""
    run, out = CommandLine(monkeypatch, capsys), tmp_path / "run"
    for path in whole.rglob("*.*"):
        target = tmp_path / "s" / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    shard = tmp_path / "s" / "shards" / "shard-000003.safetensors"
    shard.rename(tmp_path / "aside")
    command = ["pretrain", "oskar-tiny", "--data", tmp_path / "s", "--out", out, *TINY, "data.captions=written"]
    code, printed = run(*command)
    assert code == 3
    assert "1 clips could not be read, 0 are allowed" in printed
    assert "shard-000003.safetensors" in printed
    code, printed = run(*command, "--out", tmp_path / "lenient", "data.max_bad_share=0.1")
    assert code == 0, printed
    summary = json.loads((tmp_path / "lenient" / "summary.json").read_text())
    assert list(summary["bad_clips"]) == ["v/v3"]
    (tmp_path / "aside").rename(shard)
    code, printed = run(*command, "--resume")
    assert code == 0, printed
    assert [record["step"] for record in records(out)] == [1, 2, 3]
