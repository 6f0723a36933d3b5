"""``oskar evaluate --task all``: the table, what does not apply, failures, and what is not done twice."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, CommandLine, packed_folder

from oskar.data.people_reader import N_LABELLED
from oskar.errors import AbsentError, InputError, InterruptedRunError, StoppedRunError
from oskar.tasks import everything
from oskar.tasks.evaluate import NamedTask, named_task
from oskar.tasks.everything import PARTS, AllConfig, evaluate_all, rows_of
from oskar.tasks.task import HeadConfig
from oskar.tasks.transfer import load_transfer

SKELETON_PARTS = ("action-recognition-skeleton", "low-shot-skeleton")


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def skeletons(tmp_path: Path) -> Path:
    return packed_folder(tmp_path / "joints", 24)


@pytest.fixture
def run(oskar: CommandLine, skeletons: Path, tmp_path: Path) -> Path:
    code, printed = oskar(
        "pretrain",
        "oskar-tiny",
        "--data",
        skeletons,
        "--out",
        tmp_path / "run",
        *TINY,
        'tokens.modalities=["skeleton"]',
    )
    assert code == 0, printed
    return tmp_path / "run"


def status_of(table: dict[str, Any]) -> dict[str, str]:
    return {f"{part['task']}-{part['modality']}": part["status"] for part in table["parts"]}


def test_what_applies_is_done_once_and_the_rest_says_why(
    oskar: CommandLine, run: Path, skeletons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", run, "--task", "all", "--data", skeletons, "steps=5", "precision=float32")
    code, printed = oskar(*words)
    assert code == 0, printed
    path = run / "evaluations" / "all-joints-seed0.json"
    table = json.loads(path.read_text())
    assert table["format_version"] == 1
    assert table["settings"]["steps"] == 5
    assert {name for name, status in status_of(table).items() if status == "finished"} == set(SKELETON_PARTS)
    for part in table["parts"]:
        name = f"{part['task']}-{part['modality']}"
        assert part["task"] in printed
        if name in SKELETON_PARTS:
            summary = json.loads((run / "evaluations" / part["folder"] / "summary.json").read_text())
            assert part["rows"]
            for row in part["rows"]:
                assert row["value"] == summary["metrics"][row["metric"]]
                assert row["controls"]["random_weights"] == summary["controls"]["random_weights"][row["metric"]]
                assert row["controls"]["chance"] == summary["controls"]["chance"]
        else:
            assert part["status"] == "not applicable"
            assert "Fix: " in part["reason"]
            assert not (run / "evaluations" / part["folder"]).exists()
    monkeypatch.setattr(NamedTask, "run", _never)
    code, printed = oskar(*words)
    assert code == 0, printed
    assert [p["rows"] for p in json.loads(path.read_text())["parts"]] == [p["rows"] for p in table["parts"]]
    code, printed = oskar(*words[:-2], "steps=6", "precision=float32")
    assert code == 2
    for part in ("2 of 8 parts failed", "action-recognition (skeleton)"):
        assert part in printed
    (reason, *_) = [p["reason"] for p in json.loads(path.read_text())["parts"] if p["status"] == "failed"]
    assert "other values of steps" in reason


def _never(task: object, run: Path, data: list[str], modality: str, out: Path) -> dict[str, Any]:
    assert not out.name.startswith(SKELETON_PARTS), "a finished part was done again"
    raise AbsentError("it is not there", fix="none")


def summary_of(task: HeadConfig) -> dict[str, Any]:
    return {"metrics": {"linear_top1": 5.0}, "controls": {"chance": 1.0}, "settings": asdict(task)}


def test_unfinished_parts_begin_again_and_failures_are_listed(
    run: Path, skeletons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done: list[str] = []
    errors: dict[str, Exception] = {}

    def pretend(self: NamedTask, run: Path, data: list[str], modality: str, folder: Path) -> dict[str, Any]:
        assert not folder.exists()
        folder.mkdir()
        (folder / "heads").mkdir()
        name = folder.name
        done.append(name)
        if name in errors:
            raise errors[name]
        summary = {**summary_of(self.settings), "checkpoint_sha256": load_transfer(run).sha256}
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr(NamedTask, "run", pretend)
    names = [f"{part.task}-{part.modality}-joints-seed0" for part in PARTS]
    errors[names[1]] = StoppedRunError("the disk is full", fix="make room")
    errors[names[3]] = InterruptedRunError("SIGINT", fix="go on")
    with pytest.raises(InterruptedRunError):
        evaluate_all(run, [str(skeletons)], AllConfig(), out=out)
    assert done == names[:4]
    table = json.loads((out / "all-joints-seed0.json").read_text())
    assert [part["status"] for part in table["parts"]] == ["finished", "failed", "finished"]
    assert "the disk is full" in table["parts"][1]["reason"]
    errors.clear()
    errors[names[4]] = StoppedRunError("not finite", fix="lower lr")
    done.clear()
    with pytest.raises(StoppedRunError, match="1 of 8 parts failed: action-localization") as stopped:
        evaluate_all(run, [str(skeletons)], AllConfig(), out=out)
    assert stopped.value.exit_code == 3
    assert done == [names[1], *names[3:]]
    printed = capsys.readouterr().out
    assert "linear_top1" in printed
    assert "not finite" in printed
    errors.clear()
    assert set(status_of(evaluate_all(run, [str(skeletons)], AllConfig(), out=out)).values()) == {"finished"}


def test_other_data_and_other_weights_do_not_pass_for_finished(
    run: Path, skeletons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, parts = AllConfig(steps=2, precision="float32"), PARTS[1:2]
    evaluate_all(run, [str(skeletons)], config, out=tmp_path / "out", parts=parts)
    other = packed_folder(tmp_path / "other" / "joints", 12)
    with pytest.raises(InputError, match="is of data"):
        evaluate_all(run, [str(other)], config, out=tmp_path / "out", parts=parts)
    path = tmp_path / "out" / "action-recognition-skeleton-joints-seed0" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "checkpoint_sha256": "0"}))
    with pytest.raises(InputError, match="1 of 1 parts failed"):
        evaluate_all(run, [str(skeletons)], config, out=tmp_path / "out", parts=parts)
    path.write_text("{")
    with pytest.raises(InputError, match="1 of 1 parts failed"):
        evaluate_all(run, [str(skeletons)], config, out=tmp_path / "out", parts=parts)
    (tmp_path / "out" / "all-joints-seed0.json").write_text("[]")
    with pytest.raises(InputError, match="is not a table"):
        evaluate_all(run, [str(skeletons)], config, out=tmp_path / "out", parts=parts)


def test_all_refuses_what_it_cannot_mean(oskar: CommandLine, run: Path, skeletons: Path, tmp_path: Path) -> None:
    unsplit = packed_folder(tmp_path / "unsplit", 4)
    index = (unsplit / "index.csv").read_text().replace("split", "x_split")
    (unsplit / "index.csv").write_text(index)
    for words, named in (
        (("--data", skeletons, "--data", unsplit), ("2 data",)),
        ((), ("0 data",)),
        (("--data", skeletons, "--protocol", "finetune"), ("finetune", "frozen")),
        (("--data", skeletons, "--modality", "skeleton"), ("skeleton", "video")),
        (("--data", skeletons, "lr=1"), ("unknown key 'lr'",)),
        (("--data", unsplit), ("no task applies",)),
    ):
        code, printed = oskar("evaluate", run, "--task", "all", *words, "--out", tmp_path / "out")
        assert code == 2, printed
        for part in (*named, "Fix: "):
            assert part in printed


def test_rows_stand_beside_the_controls_that_measured_the_same() -> None:
    summary = {
        "metrics": {"map": 5.0, "linear_top1": 9.0},
        "controls": {"chance": 3.5, "random_weights": {"map": 4.0, "other": 1.0}, "whole_frame": {"other": 1.0}},
    }
    assert rows_of(summary, ("linear_top1", "map", "absent")) == (
        {"metric": "linear_top1", "value": 9.0, "controls": {"chance": 3.5}},
        {"metric": "map", "value": 5.0, "controls": {"random_weights": 4.0}},
    )


def test_settings_reach_every_part() -> None:
    config = AllConfig(steps=7, seed=3, split="val", precision="float32", device="cpu")
    for part in PARTS:
        settings = everything._configured(part, config).settings
        assert settings == replace(
            named_task(part.task, "frozen").settings,
            steps=7, seed=3, split="val", precision="float32", device="cpu",
        )  # fmt: skip
    with pytest.raises(InputError, match="steps"):
        AllConfig(steps=0)


@pytest.mark.slow
def test_the_people_have_something_for_every_part(
    oskar: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [word for word in TINY if not word.startswith(("data.captions", "tokens.vocabulary", "tokens.n_words"))]
    code, printed = oskar("pretrain", "oskar-tiny", "--data", "people:8", "--out", tmp_path / "run", *settings)
    assert code == 0, printed
    monkeypatch.setitem(N_LABELLED, "train", 56)
    monkeypatch.setitem(N_LABELLED, "test", 28)
    code, printed = oskar("evaluate", tmp_path / "run", "--task", "all", "--data", "people", "steps=2")
    assert code == 0, printed
    table = json.loads((tmp_path / "run" / "evaluations" / "all-people-seed0.json").read_text())
    assert set(status_of(table).values()) == {"finished"}
    for part, planned in zip(table["parts"], PARTS, strict=True):
        assert [row["metric"] for row in part["rows"]] == list(planned.metrics)
        assert all(isinstance(row["value"], float) for row in part["rows"]), part
        assert all("random_weights" in row["controls"] for row in part["rows"]), part
    code, printed = oskar("report", tmp_path / "run")
    assert code == 0, printed
    report = (tmp_path / "run" / "report.html").read_text()
    for part in PARTS:
        assert f"{part.modality}, {part.task} on people" in report
    assert "not finished" not in report
