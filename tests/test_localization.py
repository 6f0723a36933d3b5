"""Localization end to end: people told apart by their boxes, files that add up, movies that cannot be read."""

import csv
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from key_frames import BOXES, COLOURS, ava_folder, write_rows
from runs import CommandLine, shrunk
from safetensors.torch import load_file

from oskar.data.key_frame_reader import KeyFrameClips, KeyFrameReader
from oskar.data.open_key_frames import open_key_frames
from oskar.data.people import ACTIONS
from oskar.data.people_reader import N_LABELLED
from oskar.data.reader import EvaluationWindow
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.pretraining import MaskedPrediction
from oskar.tasks.features import tokens_of
from oskar.tasks.localization import LocalizationConfig, evaluate_localization
from oskar.tasks.localization_features import score_people
from oskar.tasks.localization_head import ActionLocalization
from oskar.tasks.localization_results import people_to_test
from oskar.tasks.task import Backbone, Protocol
from oskar.tasks.transfer import load_transfer
from oskar.train.precision import PrecisionChoice
from oskar.train.pretrain import save_transfer

FLOAT32 = PrecisionChoice(dtype=torch.float32, reason="test")
QUICK = LocalizationConfig(steps=100, batch_size=8, split="val", stride_frames=1, precision="float32", device="cpu")


def saved_run(folder: Path, names: tuple[Modality, ...] = ("video", "skeleton")) -> Path:
    """The encoder of a run of no steps."""
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, modalities=names, n_frames=4)
    config = replace(config, tokens=tokens)
    torch.manual_seed(0)
    save_transfer(MaskedPrediction(config), config, None, folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def ava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ava_folder(tmp_path_factory.mktemp("data") / "ava")


def evaluate(
    run: Path, data: Path | str, out: Path, config: LocalizationConfig = QUICK, protocol: Protocol = "frozen"
) -> dict[str, Any]:
    summary = evaluate_localization(run, [str(data)], "video", out, config, protocol)
    assert summary == json.loads((out / "summary.json").read_text())
    return summary


@pytest.fixture(scope="module")
def evaluated(run: Path, ava: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return evaluate(run, ava, out), out


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def iou(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def map_of_files(predictions: Path, truth: Path, class_ids: list[str], excluded: set[tuple[str, str]]) -> float:
    """Mean AP in percent, written anew from the words of the protocol "exclusion"."""
    boxes: dict[str, list[tuple[tuple[str, str], list[float]]]] = defaultdict(list)
    for video, second, *corners, class_id, _ in rows_of(truth):
        if (video, second) not in excluded:
            boxes[class_id].append(((video, second), [float(c) for c in corners]))
    found: dict[str, list[tuple[float, tuple[str, str], list[float]]]] = defaultdict(list)
    for video, second, *corners, class_id, score in rows_of(predictions):
        if (video, second) not in excluded:
            found[class_id].append((float(score), (video, second), [float(c) for c in corners]))
    precisions = []
    for class_id in class_ids:
        taken: set[int] = set()
        is_right = []
        for _, image, box in sorted(found[class_id], key=lambda entry: -entry[0]):
            overlaps = [(iou(box, b), -i) for i, (key, b) in enumerate(boxes[class_id]) if key == image]
            best, place = max(overlaps, default=(0.0, 1))
            is_right.append(best >= 0.5 and -place not in taken)
            if best >= 0.5:
                taken.add(-place)
        curve = [sum(is_right[: k + 1]) / (k + 1) for k in range(len(is_right))]
        heights = [max(curve[k:]) for k, right in enumerate(is_right) if right]
        if boxes[class_id]:
            precisions.append(sum(heights) / len(boxes[class_id]))
    return 100.0 * sum(precisions) / len(precisions)


def test_the_box_says_who_does_what(evaluated: tuple[dict[str, Any], Path]) -> None:
    """Two people of different colours in every image: without a box nobody can know whose colour is asked for."""
    summary, _ = evaluated
    controls = summary["controls"]
    assert summary["metrics"]["map"] > 90
    assert controls["random_weights"]["map"] > 80  # colours lie open
    assert controls["whole_frame"]["map"] < 75
    for name in ("chance", "class_prior"):  # a third of the people have a class, and few of them flatter a ranking
        assert 20 < controls[name]["map"] < 75
    assert [(c["id"], c["name"]) for c in summary["metrics"]["by_class"]] == [(i, f"class {i}") for i in COLOURS]
    assert sum(c["n_labels"] for c in summary["metrics"]["by_class"]) == 22
    counts = [summary[name] for name in ("n_expected", "n_found", "n_evaluated", "n_boxes", "n_train_images")]
    assert counts == [11, 11, 11, 22, 24]
    assert (summary["n_excluded_images"], summary["n_truth_images"], summary["n_truth_boxes"]) == (1, 12, 22)


def test_the_metric_is_that_of_the_files(evaluated: tuple[dict[str, Any], Path]) -> None:
    summary, out = evaluated
    ids, excluded = [str(i) for i in COLOURS], {("movieC", "0003")}
    files = {"pretrained": "predictions.csv"} | {n: f"controls/{n}.csv" for n in ("random_weights", "whole_frame")}
    for name, file in files.items():
        expected = summary["metrics"] if name == "pretrained" else summary["controls"][name]
        again = map_of_files(out / file, out / "ground_truth.csv", ids, excluded)
        assert again == pytest.approx(expected["map"], abs=1e-9)
    rows = rows_of(out / "predictions.csv")
    assert len(rows) == 22 * 80  # every class of the head
    assert ("movieC", "0003") not in {(row[0], row[1]) for row in rows}
    assert {tuple(map(float, row[2:6])) for row in rows} == set(BOXES)  # as given: only features see larger ones
    assert summary["metrics"]["map_activitynet"] < summary["metrics"]["map"]  # the excluded image counts there


def test_same_seed_same_numbers(evaluated: tuple[dict[str, Any], Path], run: Path, ava: Path, tmp_path: Path) -> None:
    summary, out = evaluated
    assert evaluate(run, ava, tmp_path / "again") == summary
    assert (tmp_path / "again/predictions.csv").read_text() == (out / "predictions.csv").read_text()
    other = evaluate(run, ava, tmp_path / "other", replace(QUICK, seed=1, steps=2))
    assert other["controls"]["chance"] != summary["controls"]["chance"]


def test_scores_do_not_depend_on_the_batch(run: Path, ava: Path) -> None:
    transfer = load_transfer(run)
    data = open_key_frames([str(ava)], transfer.config, "val", n_windows=1, stride_frames=1, movie_start_seconds=0.0)
    tested = people_to_test(data, "truth", None, 0.8)
    torch.manual_seed(0)
    module = ActionLocalization(Backbone(transfer, ("video",), is_trained=False), 80)
    torch.nn.init.normal_(module.head.weight)
    reader = KeyFrameReader(data, tested.images, tested.people, transfer.config)
    scores = []
    for batch_size in (1, 3, 11):
        scored = score_people(
            {"m": module}, reader, transfer.config, batch_size=batch_size, precision=FLOAT32, device=torch.device("cpu")
        )
        assert scored.is_scored.sum() == 22
        scores.append(scored.by_name["m"])
    np.testing.assert_allclose(scores[1], scores[0], atol=2e-5)
    np.testing.assert_allclose(scores[2], scores[0], atol=2e-5)
    assert scores[0][scored.is_scored].std() > 0.1
    # The first image by hand, in boxes 10 % wider and 5 % higher
    clips = reader.read([0], EvaluationWindow()).clips
    assert isinstance(clips, KeyFrameClips)
    x1, y1, x2, y2 = torch.tensor(BOXES).T
    by_x, by_y = 0.05 * (x2 - x1), 0.025 * (y2 - y1)
    boxes = torch.stack([x1 - by_x, y1 - by_y, x2 + by_x, y2 + by_y], 1)
    with torch.no_grad():
        grids = module.grids(tokens_of(clips, transfer.config, "video"))
        by_hand = module.classify(grids, boxes, torch.tensor([0, 0])).sigmoid()
    np.testing.assert_allclose(scores[0][:2], by_hand.numpy(), atol=2e-5)


def test_fine_tuning_and_frozen_without_cache_learn_too(run: Path, tmp_path: Path) -> None:
    data = ava_folder(tmp_path / "ava", n_seconds=5, excluded=())
    short = replace(QUICK, steps=30, batch_size=10, flip_probability=0.5)
    tuned = evaluate(run, data, tmp_path / "tuned", short, "finetune")
    assert tuned["protocol"] == "finetune"
    assert tuned["metrics"]["map"] > 85 > tuned["controls"]["whole_frame"]["map"]
    heads = sorted(folder.name for folder in (tmp_path / "tuned/heads").iterdir())
    assert heads == ["pretrained", "random_weights", "whole_frame"]
    streamed = evaluate(run, data, tmp_path / "streamed", replace(short, max_feature_gib=0.0))
    assert streamed["metrics"]["map"] > 85 > streamed["controls"]["whole_frame"]["map"]


def test_fine_tuning_moves_the_encoder_and_frozen_does_not(run: Path, tmp_path: Path) -> None:
    """The saved modules tell: whether an encoder's weights are those of the run."""
    data = ava_folder(tmp_path / "ava", n_seconds=2, excluded=())
    before = load_transfer(run).encoder("video").state_dict()
    protocols: dict[Protocol, bool] = {"frozen": False, "finetune": True}
    for protocol, is_moved in protocols.items():
        learning = replace(QUICK, steps=99, epochs=1.0, batch_size=2, hue_degrees=20.0, drop_path=0.1)
        evaluate(run, data, tmp_path / protocol, learning, protocol)
        (saved,) = (tmp_path / protocol / "heads/pretrained").rglob("*.safetensors")
        assert saved.parent.name == "step-00000002"  # four key frames to learn from
        after = load_file(saved)
        names = [n for n in before if n.startswith("blocks.0") and n.endswith("weight")]
        assert names
        if is_moved:
            assert all(not torch.equal(before[n], after[f"module/backbone.encoders.video.{n}"]) for n in names)
        else:  # a frozen encoder is in the run, and in no head's checkpoint
            assert [key for key in after if key.startswith("module/")] == ["module/head.bias", "module/head.weight"]


def test_a_movie_that_cannot_be_read_has_no_detections_and_is_listed(run: Path, tmp_path: Path) -> None:
    data = ava_folder(tmp_path / "ava", n_seconds=6, excluded=())
    labels = rows_of(data / "ava_val_v2.2.csv")
    copies = [["gone", *row[1:]] for row in labels] + [["broken", *row[1:]] for row in labels]
    write_rows(data / "ava_val_v2.2.csv", [tuple(row) for row in labels + copies])
    (data / "movies/broken.mkv").write_bytes(b"nothing")
    (data / "movies/movieB.mkv").unlink()
    summary = evaluate(run, data, tmp_path / "out", replace(QUICK, steps=60))
    assert (summary["n_expected"], summary["n_evaluated"], summary["n_truth_boxes"]) == (18, 6, 36)
    assert summary["metrics"]["map"] <= 100 / 3 + 1e-9  # the people of lost movies are there to be found
    assert set(summary["bad_clips"]) == {f"{v},000{s}" for v in ("gone", "broken") for s in range(1, 7)}
    assert "add gone.mp4" in summary["bad_clips"]["gone,0001"]
    assert set(summary["bad_train_clips"]) == {f"movieB,000{s}" for s in range(1, 7)}
    assert {row[0] for row in rows_of(tmp_path / "out/predictions.csv")} == {"movieC"}
    assert len(rows_of(tmp_path / "out/ground_truth.csv")) == 72


def test_detected_people_weigh_the_scores(
    evaluated: tuple[dict[str, Any], Path], run: Path, ava: Path, tmp_path: Path
) -> None:
    """The same boxes with scores of 0.8 and more give the same probabilities times that score."""
    _, out = evaluated
    share = {BOXES[0]: 0.8, BOXES[1]: 0.95}
    rows: list[tuple[object, ...]] = [
        ("movieC", second, *box, "", share[box]) for second in range(1, 10) for box in BOXES
    ]
    rows += [("movieC", 11, *BOXES[0], "", 0.79), ("movieA", 2, *BOXES[0], "", 0.99)]
    found = write_rows(tmp_path / "people.csv", rows)
    summary = evaluate(run, ava, tmp_path / "out", replace(QUICK, boxes=str(found)))
    assert (summary["n_boxes"], summary["n_boxes_below_score"], summary["n_boxes_elsewhere"]) == (16, 1, 3)
    assert (summary["n_expected"], summary["n_truth_boxes"]) == (8, 22)
    before = {tuple(row[:7]): float(row[7]) for row in rows_of(out / "predictions.csv")}
    rows_now = rows_of(tmp_path / "out/predictions.csv")
    assert len(rows_now) == 16 * 80
    for *key, score in rows_now:
        box = tuple(float(c) for c in key[2:6])
        assert float(score) == pytest.approx(before[tuple(key)] * share[box], rel=1e-4)  # type: ignore[index]


def test_people_end_to_end(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(N_LABELLED, "train", 56)
    monkeypatch.setitem(N_LABELLED, "test", 28)
    summary = evaluate(run, "people", tmp_path / "out", replace(QUICK, split="test", steps=5))
    assert summary["data"] == ["people"]
    assert [c["name"] for c in summary["metrics"]["by_class"]] == list(ACTIONS)
    assert (summary["n_expected"], summary["n_evaluated"]) == (28, 28)
    assert all(row[0].startswith("people/0/test/") for row in rows_of(tmp_path / "out/predictions.csv"))
    with pytest.raises(InputError, match="'val'"):
        evaluate(run, "people", tmp_path / "val")


def test_what_cannot_be_done_is_refused_before_anything_is_decoded(
    run: Path, ava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("oskar.data.ava_folder.read_frames", refuse)
    monkeypatch.setattr("oskar.data.ava_folder.probe", refuse)
    low = write_rows(tmp_path / "low.csv", [("movieC", 1, *BOXES[0], "", 0.5)])
    elsewhere = write_rows(tmp_path / "elsewhere.csv", [("movieX", 1, *BOXES[0], "", 0.9)])
    skeletons = saved_run(tmp_path / "skeletons", ("skeleton",))
    cases: list[tuple[Path, list[str], Modality, LocalizationConfig, tuple[str, ...]]] = [
        (skeletons, [str(ava)], "video", QUICK, ("--modality video", "skeleton")),
        (run, [str(ava)], "skeleton", QUICK, ("--modality skeleton", "video")),
        (run, [str(ava)], "video", replace(QUICK, split="train"), ("'train'", "learns on")),
        (run, [str(ava)], "video", replace(QUICK, split="test"), ("ava_test_v2.2.csv", "ava_val_v2.2.csv")),
        (run, [str(ava), "people"], "video", QUICK, ("2 data sets", "name one")),
        (run, [], "video", QUICK, ("0 data sets",)),
        (run, [str(ava)], "video", replace(QUICK, boxes=str(low)), ("low.csv", "0.8", "min_box_score")),
        (run, [str(ava)], "video", replace(QUICK, boxes=str(elsewhere)), ("elsewhere.csv", "movieC,0001")),
        (run, [str(ava)], "video", replace(QUICK, boxes=str(tmp_path / "no.csv")), ("no.csv",)),
    ]
    for folder, data, modality, config, named in cases:
        with pytest.raises(InputError) as refused:
            evaluate_localization(folder, data, modality, tmp_path / "out", config, "frozen")
        for part in (*named, "Fix: "):
            assert part in str(refused.value)
        assert not (tmp_path / "out").exists()
    for wrong in ({"n_windows": 0}, {"stride_frames": 0}, {"flip_probability": 1.5}, {"max_feature_gib": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            replace(QUICK, **wrong)


def test_one_command(
    run: Path, ava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oskar = CommandLine(monkeypatch, capsys)
    words = ("evaluate", run, "--task", "action-localization", "--data", ava, "--out")
    settings = ("split=val", "stride_frames=1", "steps=2", "precision=float32", "device=cpu")
    for protocol in get_args(Protocol):
        code, printed = oskar(*words, tmp_path / protocol, "--protocol", protocol, *settings)
        assert code == 0, printed
        printed_summary = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
        assert printed_summary == json.loads((tmp_path / protocol / "summary.json").read_text())
    code, printed = oskar(*words, tmp_path / "wrong", "box=truth")
    assert code == 2
    assert "boxes" in printed


def test_the_random_control_does_not_know_the_run(
    evaluated: tuple[dict[str, Any], Path], run: Path, ava: Path, tmp_path: Path
) -> None:
    """A run with other weights has another result and the same control."""
    other = tmp_path / "other"
    transfer = load_transfer(run)
    with torch.no_grad():
        for weight in transfer.module.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    save_transfer(transfer.module, transfer.config, None, other / "encoder")
    evaluate(other, ava, tmp_path / "out")
    for file, is_same in (("controls/random_weights.csv", True), ("predictions.csv", False)):
        assert ((tmp_path / "out" / file).read_text() == (evaluated[1] / file).read_text()) == is_same
