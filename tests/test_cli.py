"""The command line: whole runs in miniature, and wrong input of every kind with its exit code and message."""

import json
import os
import pickle
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runs import TINY, CommandLine, forked, noise_video, records, video_folder, write_index

from oskar.cli import main
from oskar.config import Config
from oskar.recipes import RECIPES
from oskar.train import pretrain as pretrain_module
from oskar.train.checkpoint import latest_checkpoint, load_checkpoint
from oskar.train.loop import Trainer
from oskar.train.verdict import Verdict


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six videos with labels in two splits."""
    return video_folder(tmp_path / "clips", 6, label=lambda i: "ab"[i % 2], split=lambda i: ("train", "test")[i // 3])


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def pretrain(oskar: CommandLine, tmp_path: Path) -> Run:
    def run(data: object, *more: object, out: str = "run") -> tuple[int, str]:
        return oskar("pretrain", "oskar-tiny", "--data", data, "--out", tmp_path / out, *TINY, *more)

    return run


def test_recipes_are_listed(oskar: CommandLine) -> None:
    code, printed = oskar("recipes")
    assert code == 0
    for name, make in RECIPES.items():
        assert name in printed
        assert (make.__doc__ or "").splitlines()[0][:30] in printed


def test_a_run_folder_holds_what_is_promised(pretrain: Run, folder: Path, oskar: CommandLine, tmp_path: Path) -> None:
    code, printed = pretrain(folder, "data.max_bad_share=0.2")
    assert code == 0, printed
    run = tmp_path / "run"
    names = {"config.json", "environment.json", "metrics.jsonl", "checkpoints", "encoder", "summary.json"}
    assert names <= {p.name for p in run.iterdir()}
    for record in records(run):
        assert {"step", "split", "loss", "loss_video", "loss_skeleton", "loss_text"} <= record.keys()
        assert record["split"] == "train"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["recipe"], summary["steps"], summary["samples_seen"]) == ("oskar-tiny", 3, 12)
    assert summary["tokens_seen"] == 3 * 4 * 24
    assert {"verdict", "by_modality", "reasons"} <= summary["health"].keys()
    for key in ("wall_seconds", "samples_per_second", "data_wait_share"):
        assert summary[key] >= 0
    assert summary["n_clips"] == 3  # the training split
    assert summary["bad_clips"] == {}
    again, printed = oskar("pretrain", "--config", run / "config.json", "--data", folder, "--out", tmp_path / "again")
    assert again == 0, printed
    for name in ("config.json", "metrics.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    assert "pickle" not in " ".join(p.suffix for p in run.rglob("*"))


def test_a_broken_clip_is_skipped_counted_and_listed(pretrain: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "v1.mkv").write_bytes((folder / "v1.mkv").read_bytes()[:200])
    code, printed = pretrain(folder, "data.max_bad_share=0.4")
    assert code == 0, printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["bad_clips"]) == ["clips/v1"]
    assert "v1.mkv" in summary["bad_clips"]["clips/v1"]
    assert summary["samples_seen"] == 12 - 4  # it came four times
    code, printed = pretrain(folder, "data.max_bad_share=0.3", out="strict")
    assert code == 3
    for part in ("v1.mkv", "1 clips could not be read", "0 are allowed", "data.max_bad_share"):
        assert part in printed


def test_an_empty_video_is_skipped_in_training_and_wrong_in_evaluation(
    pretrain: Run, folder: Path, oskar: CommandLine, tmp_path: Path
) -> None:
    for name in ("v0", "v4"):  # one of each split
        (folder / f"{name}.mkv").write_bytes(b"")
    code, printed = pretrain(folder, "data.max_bad_share=0.5")
    assert code == 0, printed
    assert list(json.loads((tmp_path / "run" / "summary.json").read_text())["bad_clips"]) == ["clips/v0"]
    code, printed = oskar(
        "evaluate", tmp_path / "run", "--data", folder, "--modality", "video", "steps=4", "precision=float32"
    )
    assert code == 0, printed
    summary = json.loads((tmp_path / "run/evaluations/action-recognition-video-clips-seed0/summary.json").read_text())
    assert (summary["n_expected"], summary["n_evaluated"]) == (3, 2)
    assert list(summary["bad_clips"]) == ["clips/v4"]
    assert all(value <= 200 / 3 + 1e-9 for value in summary["metrics"].values())


def bad_column(folder: Path) -> Path:
    (folder / "index.csv").write_text("clip_id,path,lable\nv0,v0.mkv,a\n")
    return folder


def outside(folder: Path) -> Path:
    noise_video(folder.parent / "secret.mkv")
    return write_index(folder, [{"clip_id": "v0", "path": "../secret.mkv"}])


def missing_file(folder: Path) -> Path:
    return write_index(folder, [{"clip_id": "v0", "path": "v0.mkv"}, {"clip_id": "w", "path": "w.mkv"}])


def empty(folder: Path) -> Path:
    (folder.parent / "empty").mkdir()
    return folder.parent / "empty"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: folder.parent / "absent", ("absent", "does not exist")),
        (empty, ("empty", "no index.csv and no video")),
        (bad_column, ("index.csv", "'lable'", "did you mean label")),
        (outside, ("index.csv", "../secret.mkv", "move the file into the folder")),
        (missing_file, ("index.csv line 3", "w.mkv", "does not exist")),
        (lambda folder: folder / "v0.mkv", ("v0.mkv", ".csv manifest")),
        (lambda folder: "people:many", ("people:many", "people:CLIPS")),
    ],
)  # fmt: skip
def test_wrong_data_are_refused(
    spoil: Callable[[Path], object], named: tuple[str, ...], pretrain: Run, folder: Path, tmp_path: Path
) -> None:
    code, printed = pretrain(spoil(folder))
    assert code == 2, printed
    for part in (*named, "Fix: "):
        assert part in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "config.json").exists()  # the same --out serves for the next try


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["oskar-tinny"], ("unknown recipe 'oskar-tinny'", "oskar-tiny")),
        ([], ("0 recipes",)),
        (["oskar-tiny", "mae-tiny"], ("2 recipes",)),
        (["oskar-tiny", "train.step=3"], ("unknown key 'train.step'", "train.steps")),
        (["oskar-tiny", "train.lr=quick"], ("train.lr", "'quick'")),
        (["oskar-tiny", "train.device=toaster"], ("train.device", "'toaster'", "cpu")),
        (["oskar-tiny", "data.split=val"], ("clips", "'val'", "train")),
        (["oskar-tiny", "data.tokenizer=nowhere.json"], ("nowhere.json",)),
        (["oskar-tiny", 'tokens.modalities=["skeleton"]', "data.captions=none"], ("clips", "skeleton")),
        (["oskar-tiny", "--config", "nowhere.json"], ("nowhere.json",)),
        (["--config", "nowhere.json"], ("nowhere.json", "does not exist")),
        (["oskar-tiny", "--resume"], ("--resume", "holds no run")),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(
    words: list[str], named: tuple[str, ...], oskar: CommandLine, folder: Path, tmp_path: Path
) -> None:
    code, printed = oskar("pretrain", *words, "--data", folder, "--out", tmp_path / "run")
    assert code == 2, printed
    for part in (*named, "Fix: "):
        assert part in printed


def test_options_that_do_not_exist_are_refused(oskar: CommandLine, tmp_path: Path) -> None:
    for words in (["pretrain", "oskar-tiny", "--dat", "people"], ["pretrain", "oskar-tiny"], ["train"]):
        assert oskar(*words)[0] == 2
    code, printed = oskar("pretrain", "oskar-tiny", "--out", tmp_path / "run")
    assert code == 2
    assert "--data" in printed


def test_an_existing_run_is_neither_overwritten_nor_resumed_as_another(
    pretrain: Run, folder: Path, oskar: CommandLine, tmp_path: Path
) -> None:
    assert pretrain(folder)[0] == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    for more, named in (
        ((), "holds a run already"),
        (("--resume", "train.lr=0.5"), "train.lr = 0.5"),
        (("--resume", "model.width=64"), "model.width = 64"),
    ):
        code, printed = pretrain(folder, *more)
        assert code == 2, printed
        assert named in printed
        assert str(tmp_path / "run") in printed
    other = video_folder(tmp_path / "other", 3)
    code, printed = pretrain(other, "--resume")
    assert code == 2
    assert "was started with other data (clips)" in printed
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert pretrain(folder, "--resume")[0] == 0
    (tmp_path / "file").write_text("")
    assert "is a file" in pretrain(folder, out="file")[1]


def test_words_of_a_start_that_was_cut_short_are_not_used(pretrain: Run, tmp_path: Path) -> None:
    """A kill before config.json leaves words and precision behind; the next start makes its own."""
    clips = video_folder(tmp_path / "clips", 3, caption=lambda i: f"somebody walks {i}")
    code, printed = pretrain(clips, "data.captions=written")
    assert code == 0, printed
    (tmp_path / "cut").mkdir()
    wrong = json.loads((tmp_path / "run" / "words.json").read_text())
    wrong["model"]["vocab"] = {"[UNK]": 0, "zebra": 1}
    (tmp_path / "cut" / "words.json").write_text(json.dumps(wrong))
    (tmp_path / "cut" / "environment.json").write_text("{}")
    assert pretrain(clips, "data.captions=written", out="cut")[0] == 0
    for name in ("words.json", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def interrupted(pretrain: Run, folder: Path, tmp_path: Path) -> Path:
    """A run of six steps of which the last was not reached, with two checkpoints."""
    assert pretrain(folder, "train.steps=6", "train.checkpoint_every_steps=2")[0] == 0
    return tmp_path / "run"


def test_damaged_checkpoints_are_named(pretrain: Run, folder: Path, tmp_path: Path) -> None:
    run = interrupted(pretrain, folder, tmp_path)
    newest = latest_checkpoint(run)
    assert newest is not None
    whole = (newest / "tensors.safetensors").read_bytes()
    pickled = pickle.dumps({"weights": [1.0]})
    older = "--resume goes on from step-00000004"
    for damage, part in ((whole[:-100], older), (pickled, "is a pickle"), (whole[:-1] + b"\x01", older)):
        (newest / "tensors.safetensors").write_bytes(damage)
        code, printed = pretrain(folder, "train.steps=6", "train.checkpoint_every_steps=2", "--resume")
        assert code == 2, printed
        assert part in printed
        assert f"{newest.name}/tensors.safetensors" in printed
    (newest / "tensors.safetensors").write_bytes(whole)
    (newest / "extra.pt").write_bytes(pickled)
    assert pretrain(folder, "train.steps=6", "train.checkpoint_every_steps=2", "--resume")[0] == 2


def test_a_checkpoint_of_another_size_is_refused(pretrain: Run, folder: Path, tmp_path: Path) -> None:
    run = interrupted(pretrain, folder, tmp_path)
    assert pretrain(folder, "model.width=64", "train.steps=6", out="wide")[0] == 0
    wide = latest_checkpoint(tmp_path / "wide")
    newest = latest_checkpoint(run)
    assert wide is not None
    assert newest is not None
    for path in newest.iterdir():
        path.write_bytes((wide / path.name).read_bytes())
    code, printed = pretrain(folder, "train.steps=6", "train.checkpoint_every_steps=2", "--resume")
    assert code == 2, printed
    assert "does not fit" in printed
    assert "found float32 [64" in printed


def test_a_full_disk_stops_the_run_and_keeps_the_earlier_checkpoint(folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files, lowered after the first checkpoint, stands for a disk that fills up."""
    run, log = tmp_path / "run", tmp_path / "log"
    words = ["oskar", "pretrain", "oskar-tiny", "--data", str(folder), "--out", str(run), *TINY]
    settings = ["train.steps=6", "train.checkpoint_every_steps=2"]

    def program() -> None:
        save = Trainer.save

        def save_and_fill(self: Trainer) -> None:
            save(self)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        Trainer.save = save_and_fill  # type: ignore[method-assign]
        sys.argv = [*words, *settings]
        main()

    _, status = os.waitpid(forked(program, log), 0)
    printed = log.read_text()
    assert os.waitstatus_to_exitcode(status) == 3, printed
    assert "step-00000004" in printed
    assert "Fix: " in printed
    path = latest_checkpoint(run)
    assert path is not None
    assert path.name == "step-00000002"
    assert load_checkpoint(path)[1]["progress"]["step"] == 2
    assert not list((run / "checkpoints").glob("*4*"))


@pytest.mark.parametrize(
    ("joints", "units", "named"),
    [
        (np.zeros((8, 17, 2)), "share", "no usable joint"),
        (np.full((8, 17, 2), np.nan), "share", "no usable joint"),
        (np.ones((8, 16, 2)), "share", "16 joints"),
        (np.ones((8, 17, 4)), "share", "4 values"),
        (np.ones((8, 17, 2), dtype=object), "share", "without objects"),
        (np.ones((8, 17, 2)), "feet", "'feet'"),
        (np.ones((50, 17, 2)), "share", "50 frames of joints for 8 frames"),
        (np.ones((8, 17, 3)), "metres", "clip.projection"),
    ],
)
def test_joints_that_do_not_fit_are_named(
    joints: NDArray[Any], units: str, named: str, pretrain: Run, tmp_path: Path
) -> None:
    clips = video_folder(tmp_path / "clips", 2, joints_path=lambda i: "v0.npz")
    np.savez(clips / "v0.npz", joints=joints, layout=np.array("COCO-17"), units=np.array(units))
    code, printed = pretrain(clips)
    assert code == 3, printed
    assert named in printed
    assert "v0" in printed


def test_odd_clips_train(pretrain: Run, tmp_path: Path) -> None:
    """A single frame, no caption beside long ones, a caption of 10,000 letters."""
    clips = tmp_path / "odd"
    for i, n_frames in enumerate((1, 2, 9, 8)):
        noise_video(clips / f"v{i}.mkv", n_frames)
    captions = ("x" * 10_000, "", "a man runs " * 900, "so")
    write_index(clips, [{"clip_id": f"v{i}", "path": f"v{i}.mkv", "caption": c} for i, c in enumerate(captions)])
    code, printed = pretrain(clips, "data.captions=written", "tokens.n_frames=16")
    assert code == 0, printed
    assert all(record["loss"] is not None for record in records(tmp_path / "run"))


def test_a_collapsed_run_ends_with_code_3_after_everything_is_saved(
    pretrain: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = Verdict(verdict="collapsed", by_modality={"video": "collapsed"}, reasons=("video: all alike",))
    monkeypatch.setattr(pretrain_module, "judge", lambda records: verdict)
    code, printed = pretrain(folder)
    assert code == 3
    assert "video: all alike" in printed
    assert "collapsed" in printed
    assert (tmp_path / "run" / "encoder").is_dir()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["health"]["verdict"] == "collapsed"


def test_a_config_of_an_older_version_is_refused_not_guessed(oskar: CommandLine, folder: Path, tmp_path: Path) -> None:
    values = json.loads(Config(recipe="mine").to_json())
    values["train"]["momentum"] = 0.9
    (tmp_path / "old.json").write_text(json.dumps(values))
    code, printed = oskar("pretrain", "--config", tmp_path / "old.json", "--data", folder, "--out", tmp_path / "run")
    assert code == 2
    assert "old.json" in printed
    assert "unknown key 'train.momentum'" in printed
