"""``oskar evaluate``: what it writes, and what it refuses."""

import json
from pathlib import Path

import pytest
from runs import TINY, CommandLine, packed_folder, video_folder


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def skeleton_run(oskar: CommandLine, tmp_path: Path) -> Path:
    data = packed_folder(tmp_path / "joints", 12)
    code, printed = oskar(
        "pretrain", "oskar-tiny", "--data", data, "--out", tmp_path / "run", *TINY, 'tokens.modalities=["skeleton"]'
    )
    assert code == 0, printed
    return tmp_path / "run"


def test_evaluations_that_cannot_be_done_are_refused(oskar: CommandLine, skeleton_run: Path, tmp_path: Path) -> None:
    joints = tmp_path / "joints"
    unlabelled = packed_folder(tmp_path / "unlabelled", 4)
    index = (unlabelled / "index.csv").read_text().replace("label", "x_label")
    (unlabelled / "index.csv").write_text(index)
    unsplit = video_folder(tmp_path / "unsplit", 2, label=lambda i: "ab"[i])
    videos = video_folder(tmp_path / "videos", 2, label=lambda i: "ab"[i], split=lambda i: ("train", "test")[i])
    run = str(skeleton_run)
    for words, named in (
        ([run, "--data", joints, "--modality", "video"], ("--modality video", "skeleton")),
        ([run, "--data", joints, "--modality", "text"], ("'text'", "video or skeleton")),
        ([run, "--data", joints, "--modality", "skeleton", "--task", "retrieval"], ("--task", "'retrieval'")),
        ([run, "--data", joints, "--modality", "skeleton", "--protocol", "x"], ("--protocol", "'x'")),
        ([run, "--data", joints, "--modality", "skeleton", "step=3"], ("unknown key 'step'", "steps")),
        ([run, "--data", joints, "--modality", "skeleton", "split=val"], ("joints", "'val'", "test")),
        ([run, "--data", joints, "--modality", "skeleton", "split=train"], ("'train'", "heads learn on")),
        ([run, "--data", unlabelled, "--modality", "skeleton"], ("unlabelled", "no classes")),
        ([run, "--data", unsplit, "--modality", "skeleton"], ("unsplit", "'train'")),
        ([run, "--data", videos, "--modality", "skeleton"], ("videos", "skeleton")),
        ([run, "--data", joints, "--data", unlabelled, "--modality", "skeleton"], ("no classes of its own",)),
        ([run, "--modality", "skeleton"], ("--data",)),
        ([tmp_path / "nowhere", "--data", joints], ("nowhere", "encoder")),
        ([joints, "--data", joints], ("joints", "encoder")),
    ):
        code, printed = oskar("evaluate", *words, "--out", tmp_path / "evaluation")
        assert code == 2, printed
        for part in (*named, "Fix: "):
            assert part in printed
        assert not (tmp_path / "evaluation" / "summary.json").exists()


def test_an_evaluation_is_written_and_not_overwritten(oskar: CommandLine, skeleton_run: Path, tmp_path: Path) -> None:
    words = [
        "evaluate",
        skeleton_run,
        "--data",
        tmp_path / "joints",
        "--modality",
        "skeleton",
        "steps=20",
        "precision=float32",
    ]
    code, printed = oskar(*words)
    assert code == 0, printed
    summary = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    for key in ("task", "modality", "protocol", "split", "n_expected", "n_found", "n_evaluated", "metrics", "controls"):
        assert key in summary
    for key in ("seed", "checkpoint_sha256", "data_sha256"):
        assert key in summary
    assert (summary["n_expected"], summary["n_evaluated"]) == (6, 6)
    assert {"chance", "random_weights"} <= summary["controls"].keys()
    assert oskar(*words)[0] == 2
    code, printed = oskar(*words, "--out", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["metrics"] == summary["metrics"]
