"""Learning from few labels: the lists that are saved, the numbers over the subsets, and what is refused."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import CommandLine, packed_folder, shrunk

from oskar.errors import InputError
from oskar.pretraining import MaskedPrediction
from oskar.tasks import low_shot, recognition
from oskar.tasks.low_shot import (
    LowShotConfig,
    LowShotFinetuneConfig,
    draw_subsets,
    evaluate_low_shot,
    evaluate_low_shot_finetuned,
)
from oskar.train.pretrain import save_transfer

PROBE = LowShotConfig(steps=40, batch_size=8, precision="float32", device="cpu", shots=(0.1, 0.5))
TUNED = LowShotFinetuneConfig(
    steps=8, batch_size=4, precision="float32", device="cpu", shots=(0.5,), subset_seeds=(0, 1)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = shrunk("oskar-tiny")
    config = replace(config, tokens=replace(config.tokens, modalities=("video", "skeleton"), n_frames=4))
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_transfer(MaskedPrediction(config), config, None, folder / "encoder")
    return folder


def columns_of(out: Path) -> dict[str, list[str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def require_recomputable(out: Path, summary: dict[str, Any], heads: tuple[str, ...]) -> None:
    """Mean and deviation of every head, share and encoder from the predictions alone."""
    columns = columns_of(out)
    for encoder, values in (("pretrained", summary["metrics"]), ("random", summary["controls"]["random_weights"])):
        for share in {subset["share"] for subset in summary["subsets"]}:
            name = f"{100 * share:g}_percent"
            seeds = [subset["seed"] for subset in summary["subsets"] if subset["share"] == share]
            for head in heads:
                named = [columns[f"{encoder}_{name}_seed{seed}_{head}"] for seed in seeds]
                accuracies = 100.0 * np.mean([np.equal(columns["label"], column) for column in named], axis=1)
                assert values[f"{head}_{name}_top1"] == pytest.approx(accuracies.mean())
                assert values[f"{head}_{name}_top1_std"] == pytest.approx(accuracies.std(ddof=1))
                assert summary["accuracies_by_seed"][encoder][f"{head}_{name}_top1"] == pytest.approx(accuracies)


def test_frozen_heads_learn_from_shares_that_are_saved(run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 120)
    summary = evaluate_low_shot(run, [str(data)], "skeleton", tmp_path / "out", PROBE)
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["task"], summary["protocol"], summary["n_train"]) == ("low-shot", "frozen", 60)
    with (data / "index.csv").open() as file:
        label_of = {f"data/{row['clip_id']}": row["label"] for row in csv.DictReader(file) if row["split"] == "train"}
    ids: dict[tuple[float, int], set[str]] = {}
    for subset in summary["subsets"]:
        content = (tmp_path / "out" / subset["ids"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == subset["ids_sha256"]
        listed = json.loads(content)
        assert len(listed) == subset["n_clips"] == round(20 * subset["share"]) * 3
        labels = [label_of[name] for name in listed]  # KeyError for a clip of the test split
        assert {labels.count(label) for label in "abc"} == {round(20 * subset["share"])}
        ids[subset["share"], subset["seed"]] = set(listed)
    assert sorted(ids) == [(share, seed) for share in (0.1, 0.5) for seed in range(3)]
    for seed in range(3):
        assert ids[0.1, seed] < ids[0.5, seed]
    assert len({frozenset(ids[0.5, seed]) for seed in range(3)}) == 3
    require_recomputable(tmp_path / "out", summary, ("attentive", "linear", "knn"))
    assert summary["metrics"]["knn_50_percent_top1"] > 80
    again = evaluate_low_shot(run, [str(data)], "skeleton", tmp_path / "again", PROBE)
    assert again == summary


def test_an_encoder_is_fine_tuned_on_each_subset(run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 24)
    summary = evaluate_low_shot_finetuned(run, [str(data)], "skeleton", tmp_path / "out", TUNED)
    assert summary["protocol"] == "finetune"
    assert [subset["n_clips"] for subset in summary["subsets"]] == [6, 6]
    require_recomputable(tmp_path / "out", summary, ("finetuned",))


@pytest.mark.parametrize(("n_train", "steps", "expected"), [(120, 90, [6, 42]), (30, 18, [6, 6])])
def test_the_epochs_stay_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_train: int, steps: int, expected: list[int]
) -> None:
    """6 epochs: in batches of 8, 120 clips are 15 steps, 60 are 7, 12 are 1; 30 clips are 3, 15 and 3 are 1."""
    seen: list[int] = []
    original = recognition.fit_heads

    def noted(*arguments: Any, **settings: Any) -> Any:
        heads = original(*arguments, **settings)
        seen.append(int(next((arguments[3] / "checkpoints").iterdir()).name.removeprefix("step-")))
        return heads

    monkeypatch.setattr(low_shot, "fit_heads", noted)
    data = packed_folder(tmp_path / "data", 2 * n_train)
    config = replace(PROBE, steps=steps, subset_seeds=(0,))
    evaluate_low_shot(run, [str(data)], "skeleton", tmp_path / "out", config)
    assert seen == [n for n in expected for _ in ("pretrained", "random")]


def test_subsets_are_drawn_for_every_share_and_seed() -> None:
    subsets = draw_subsets({f"c{i}": i % 2 for i in range(40)}, (0.05, 0.125), (4, 7))
    assert [s.name for s in subsets] == [
        "5_percent_seed4", "5_percent_seed7", "12.5_percent_seed4", "12.5_percent_seed7",
    ]  # fmt: skip
    assert [len(s.ids) for s in subsets] == [2, 2, 4, 4]  # 1 and 2.5, halves to even, of each class


@pytest.mark.parametrize("settings", [{"shots": ()}, {"shots": (0.0,)}, {"shots": (1.5,)}, {"shots": (0.1, 0.1)}])
@pytest.mark.parametrize("config", [LowShotConfig, LowShotFinetuneConfig])
def test_shares_that_make_no_sense_are_named(config: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="shots = "):
        config(**settings)
    with pytest.raises(InputError, match="subset_seeds = "):
        config(subset_seeds=(1, 1))
    with pytest.raises(InputError, match="head = "):
        config(head="somewhere")


def test_the_command_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oskar = CommandLine(monkeypatch, capsys)
    data = packed_folder(tmp_path / "data", 24)
    words = ["evaluate", run, "--task", "low-shot", "--data", data, "--modality", "skeleton"]
    code, printed = oskar(*words, "steps=4", "shots=[0.5]", "subset_seeds=[0]", "precision=float32")
    assert code == 0, printed
    summary = json.loads((run / "evaluations/low-shot-skeleton-data-seed0/summary.json").read_text())
    assert summary["metrics"]["attentive_50_percent_top1_std"] is None  # one subset has no deviation
    code, printed = oskar(*words, "shots=[2]", "--out", tmp_path / "wrong")
    assert (code, "shots = (2.0,)" in printed) == (2, True)
