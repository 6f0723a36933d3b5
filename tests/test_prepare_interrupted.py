"""A preparation that is killed, stopped, out of space or without a worker: nothing is lost, and it goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from pose_files import coco_of, make_video, moving_person, write_json
from runs import forked

from oskar.errors import InterruptedRunError, StoppedRunError
from oskar.files import not_written, write_bytes_atomic
from oskar.preparation import one_video
from oskar.preparation.prepare import prepare


def many_videos(folder: Path, n: int) -> Path:
    for i in range(n):
        make_video(folder / f"v{i:02d}.mkv", i)
        write_json(folder / f"v{i:02d}.json", coco_of(moving_person(i)))
    return folder


def test_a_killed_preparation_goes_on(tmp_path: Path) -> None:
    folder, out = many_videos(tmp_path / "clips", 12), tmp_path / "data"

    def slowly() -> None:
        def wait(path: Path, data: bytes) -> None:
            time.sleep(0.05)
            write_bytes_atomic(path, data)

        setattr(one_video, "write_bytes_atomic", wait)  # noqa: B010, in the child alone
        prepare(folder, out, workers=1)

    child = forked(slowly, tmp_path / "log")
    records = out / ".prepare" / "records.jsonl"
    for _ in range(600):
        if records.exists() and records.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    n_done = records.read_bytes().count(b"\n")
    assert 4 <= n_done < 12
    assert not (out / "index.csv").exists()
    done = {path: path.stat().st_mtime_ns for path in sorted((out / "joints").glob("v*.npz"))[:n_done]}
    with records.open("ab") as stream:
        stream.write(b'{"clip_id": "v0')  # as if killed while it wrote
    prepare(folder, out, workers=1, resume=True)
    prepare(folder, tmp_path / "whole", workers=1)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for name in ("index.csv", *(f"joints/v{i:02d}.npz" for i in range(12))):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list(out.rglob(".tmp-*"))
    assert {json.loads(line)["clip_id"] for line in records.read_text().splitlines()} == {
        f"v{i:02d}" for i in range(12)
    }


def test_a_worker_that_dies_stops_the_run_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many_videos(tmp_path / "clips", 3)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(one_video, "choose", die)
    with pytest.raises(StoppedRunError, match=r"a worker died .*Fix: go on with --resume, with fewer --workers"):
        prepare(folder, tmp_path / "data", workers=2)
    monkeypatch.undo()
    assert prepare(folder, tmp_path / "data", workers=1, resume=True)["n_with_poses"] == 3


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many_videos(tmp_path / "clips", 2)

    def full(path: Path, data: bytes) -> None:
        raise not_written(path, len(data), "No space left on device")

    monkeypatch.setattr(one_video, "write_bytes_atomic", full)
    for workers in (1, 2):
        with pytest.raises(StoppedRunError, match=r"v00.npz could not be written: No space left .*Fix: free some"):
            prepare(folder, tmp_path / f"data{workers}", workers=workers)


def test_an_unfinished_run_can_be_stopped_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many_videos(tmp_path / "clips", 3)

    def stop(path: Path, data: bytes) -> None:
        if path.name == "v01.npz":
            raise KeyboardInterrupt
        write_bytes_atomic(path, data)

    monkeypatch.setattr(one_video, "write_bytes_atomic", stop)
    with pytest.raises(InterruptedRunError, match=r"data: stopped after 1 of 3 videos. Fix: go on with --resume"):
        prepare(folder, tmp_path / "data", workers=1)


def test_a_bug_is_not_taken_for_a_bad_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many_videos(tmp_path / "clips", 1)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(one_video, "choose", fail)
    with pytest.raises(ZeroDivisionError):
        prepare(folder, tmp_path / "data", workers=1)
