"""Records of a run: metrics that never repeat or drop a step, JSON that is JSON, run folders."""

import errno
import json
import math
import random
from pathlib import Path

import pytest
import torch

from oskar.errors import InputError, StoppedRunError
from oskar.train.precision import PrecisionChoice
from oskar.train.record import MetricsFile, environment, prepare_run_folder, read_metrics, write_json_atomic


def strict_json(text: str) -> object:
    """Parse as other languages do: NaN and Infinity are no JSON."""

    def refuse(name: str) -> object:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_one_object_per_line_in_order(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.append(10, "train", {"loss": 0.5, "loss_text": 1 / 3})
    metrics.append(20, "train", {"loss": 0.25})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 10, "split": "train", "loss": 0.5, "loss_text": 0.3333333333333333}\n'
        '{"step": 20, "split": "train", "loss": 0.25}\n'
    )
    assert read_metrics(tmp_path)[0] == {"step": 10, "split": "train", "loss": 0.5, "loss_text": 1 / 3}


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    values = {"loss": math.nan, "norms": [1.0, math.inf], "by_modality": {"video": -math.inf}, "name": "nan"}
    MetricsFile(tmp_path).append(1, "train", values)
    write_json_atomic(tmp_path / "summary.json", values)
    wanted = {"loss": None, "norms": [1.0, None], "by_modality": {"video": None}, "name": "nan"}
    assert strict_json((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "split": "train", **wanted}
    assert strict_json((tmp_path / "summary.json").read_text()) == wanted


def test_a_file_cut_anywhere_resumes_to_exactly_the_wanted_steps(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    for step in range(1, 21):
        metrics.append(step, "train", {"loss": 1.0 / step})
    whole = metrics.path.read_bytes()
    draws = random.Random(0)
    for _ in range(60):
        n_bytes = draws.randrange(len(whole) + 1)
        metrics.path.write_bytes(whole[:n_bytes])
        n_whole = whole[:n_bytes].count(b"\n")
        assert [r["step"] for r in read_metrics(tmp_path)] == list(range(1, n_whole + 1))
        resumed_from = draws.randrange(n_whole + 1)
        again = MetricsFile(tmp_path)
        again.truncate_after(resumed_from)
        for step in range(resumed_from + 1, 21):
            again.append(step, "train", {"loss": 1.0 / step})
        assert metrics.path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncation_keeps_every_split_and_needs_no_file(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.truncate_after(0)
    metrics.sync()
    for step, split in ((5, "train"), (5, "probe"), (10, "train"), (10, "probe")):
        metrics.append(step, split, {})
    metrics.sync()
    metrics.truncate_after(5)
    assert [(r["step"], r["split"]) for r in read_metrics(tmp_path)] == [(5, "train"), (5, "probe")]


@pytest.mark.parametrize("line", [b"{broken", b"[1]", b'{"loss": 1}', b"\xff\xfe\x00", b""])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        MetricsFile(tmp_path).truncate_after(1)


def test_no_metrics_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl does not exist"):
        read_metrics(tmp_path)


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_json_atomic(path, {"steps": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        StoppedRunError, match=r"summary\.json could not be written: .*No space left.* needs 17 bytes, .* free"
    ):
        write_json_atomic(path, {"steps": 2})
    assert json.loads(path.read_text()) == {"steps": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_full_disk_stops_the_metrics() -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full here")
    metrics = MetricsFile(Path("/nowhere"))
    metrics.path = device
    with pytest.raises(StoppedRunError, match="No space left"):
        metrics.append(1, "train", {})


def test_a_run_folder_is_made_or_refused(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    with pytest.raises(InputError, match="holds no run"):
        prepare_run_folder(out, resume=True)
    prepare_run_folder(out, resume=False)
    prepare_run_folder(out, resume=False)  # still empty
    (out / "config.json").write_text("{}")
    prepare_run_folder(out, resume=True)
    with pytest.raises(InputError, match=r"holds a run already \(config\.json\).*--resume.*another --out"):
        prepare_run_folder(out, resume=False)
    with pytest.raises(InputError, match=r"config\.json is a file"):
        prepare_run_folder(out / "config.json", resume=False)
    with pytest.raises(InputError, match="cannot be made"):
        prepare_run_folder(out / "config.json" / "deeper", resume=False)


def test_the_environment_is_json_and_says_what_ran() -> None:
    choice = PrecisionChoice(dtype=torch.bfloat16, reason="measured", speedup=2.5)
    found = environment(torch.device("cpu"), choice)
    assert strict_json(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["device"] == {"type": "cpu"}
    assert found["threads"]["within_operations"] == torch.get_num_threads()
    assert found["cpu"]["count"] >= found["cpu"]["available"] >= 1
    assert found["cpu"]["model"]
    assert PrecisionChoice.from_json(found["precision"], "environment.json") == choice
