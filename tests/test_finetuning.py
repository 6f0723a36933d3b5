"""Fine-tuned recognition: the head by hand, learnable problems, views, controls, and saved models met again."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import joints_of, packed_folder, shrunk, write_index, write_video
from torch import Tensor

from oskar.config import Config
from oskar.data.open import open_split
from oskar.data.reader import ClipReader, Draw, EvaluationWindow, ReadClips, TrainingDraw
from oskar.errors import InputError
from oskar.model.encoder import TokenEncoder
from oskar.pretraining import MaskedPrediction
from oskar.tasks import finetuning
from oskar.tasks.features import tokens_of
from oskar.tasks.finetuning import (
    FinetuneConfig,
    Recogniser,
    TargetedBatches,
    evaluate_finetuned,
    mean_over_people,
    new_recogniser,
    people_of_slots,
)
from oskar.tasks.labelled import open_labelled
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.tasks.task import Backbone
from oskar.tasks.transfer import load_transfer, random_encoder
from oskar.train.precision import PrecisionChoice
from oskar.train.pretrain import save_transfer

QUICK = FinetuneConfig(steps=40, batch_size=8, precision="float32", device="cpu", drop_path=0.2, dropout=0.1)
ONE_STEP = replace(QUICK, steps=1)


@pytest.fixture(scope="module")
def config() -> Config:
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, modalities=("video", "skeleton"), n_frames=4)
    return replace(config, tokens=tokens)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of a run of no steps."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_transfer(MaskedPrediction(config), config, None, folder / "encoder")
    return folder


def wide_videos(folder: Path, n_clips: int, n_classes: int = 3) -> Path:
    """Videos wider than high whose class is the colour of their noise; every other one is in the test split."""
    rows: list[dict[str, object]] = []
    for i in range(n_clips):
        label = i // 2 % n_classes
        pictures = np.random.default_rng(i).integers(0, 90, (6, 32, 48, 3))
        pictures[..., label % 3] += 120
        write_video(folder / f"v{i}.mkv", pictures.astype(np.uint8))
        split = ("train", "test")[i % 2]
        rows.append({"clip_id": f"v{i}", "path": f"v{i}.mkv", "label": "abcdef"[label], "split": split})
    return write_index(folder, rows)


def evaluate(
    run: Path, data: Path, out: Path, modality: Any = "skeleton", config: FinetuneConfig = QUICK
) -> dict[str, Any]:
    summary = evaluate_finetuned(run, [str(data)], modality, out, config)
    assert summary == json.loads((out / "summary.json").read_text())
    return summary


def require_recomputable(out: Path, summary: dict[str, Any]) -> list[dict[str, str]]:
    """Every accuracy of the summary, exactly, from the file of predictions."""
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["n_expected"]
    for name, metrics in (("pretrained", summary["metrics"]), ("random", summary["controls"]["random_weights"])):
        n_first = sum(row["label"] == row[f"{name}_finetuned"] for row in rows)
        n_five = sum(row["label"] in json.loads(row[f"{name}_finetuned_top5"] or "[]") for row in rows)
        assert metrics == {"finetuned_top1": 100.0 * n_first / len(rows), "finetuned_top5": 100.0 * n_five / len(rows)}
    return rows


def test_mean_over_people_with_loops() -> None:
    rng = torch.Generator().manual_seed(0)
    people = torch.randint(-1, 3, (5, 9), generator=rng)
    people[0], people[1] = -1, 2
    latents = torch.randn(5, 9, 4, generator=rng)
    pooled = mean_over_people(latents, people, 3)
    for i in range(5):
        present = [p for p in range(3) if bool((people[i] == p).any())]
        means = [latents[i][people[i] == p].mean(0) for p in present]
        expected = torch.stack(means).mean(0) if means else torch.zeros(4)
        torch.testing.assert_close(pooled[i], expected)


def model_of(config: Config, run: Path, modality: Any, settings: FinetuneConfig = QUICK) -> Recogniser:
    return Recogniser(Backbone(load_transfer(run), (modality,), is_trained=True), modality, 3, settings)


def test_slots_know_their_person(config: Config, run: Path, make_clips: Any) -> None:
    clips = make_clips(4, config.tokens, share_confident=0.6)
    packed = tokens_of(clips, config, "skeleton")
    people = people_of_slots(packed, "skeleton", 4 // config.tokens.segment_frames * 17)
    confidence, (x, y) = clips.joints[..., 2], clips.joints[..., :2].unbind(-1)
    is_there = (confidence >= config.tokens.min_confidence) & (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    for person in range(2):
        segments = is_there[:, person].view(4, -1, config.tokens.segment_frames, 17).any(2)
        assert (people == person).sum(1).tolist() == segments.flatten(1).sum(1).tolist()
    frames = tokens_of(clips, config, "video")
    assert bool((people_of_slots(frames, "video", frames.segments.shape[1]) == 0).all())


def test_a_model_starts_without_opinion_and_a_second_person_counts_as_much(
    config: Config, run: Path, make_clips: Any
) -> None:
    model = model_of(config, run, "skeleton").eval()
    assert float(model.classifier.weight.detach().std()) == pytest.approx(0.02 * 0.001, rel=0.3)
    clips = make_clips(6, config.tokens)
    packed = tokens_of(clips, config, "skeleton")
    latents = model.backbone("skeleton", packed)
    people = people_of_slots(packed, "skeleton", 4 // config.tokens.segment_frames * 17)
    by_hand = torch.stack(
        [torch.stack([latents[i][people[i] == p].mean(0) for p in range(2)]).mean(0) for i in range(6)]
    )
    torch.testing.assert_close(model.scores(packed), model.classifier(model.norm(by_hand)), rtol=1e-4, atol=1e-6)


def test_batches_are_mixed_videos_and_plain_skeletons(config: Config, make_clips: Any) -> None:
    clips = replace(make_clips(4, config.tokens), labels=torch.tensor([0, 1, 2, 0]))
    plain = TargetedBatches(config, "skeleton", 3, QUICK)(clips, 3)
    torch.testing.assert_close(plain.targets.amax(1), torch.full((4,), 0.9 + 0.1 / 3))
    mixed = TargetedBatches(config, "video", 3, replace(QUICK, label_smoothing=0.0))(clips, 3)
    assert bool((mixed.targets.amax(1) < 1.0).any())
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))
    original = tokens_of(clips, config, "video").tokens["video"].values
    assert not torch.equal(mixed.packed.tokens["video"].values, original)
    off = replace(QUICK, mixup=0.0, cutmix=0.0)
    assert torch.equal(TargetedBatches(config, "video", 3, off)(clips, 3).packed.tokens["video"].values, original)


def test_clips_without_tokens_teach_nothing(config: Config, run: Path, make_clips: Any) -> None:
    clips = replace(make_clips(3, config.tokens), labels=torch.tensor([0, 1, 2]))
    batches = TargetedBatches(config, "skeleton", 3, QUICK)
    model = model_of(config, run, "skeleton").eval()
    with_empty = replace(clips, joints=torch.cat([clips.joints[:2], torch.zeros_like(clips.joints[:1])]))
    batch = batches(with_empty, 0)
    assert batch.weight == 2.0
    assert len(batch) == 3
    scores = model.scores(batch.packed)[:2].log_softmax(1)
    torch.testing.assert_close(model(batch)["loss"], -(batch.targets[:2] * scores).sum(1).mean())


def test_rates_decay_with_depth_and_paths_drop(config: Config, run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 12)
    opened = open_labelled(run, [str(data)], "skeleton", tmp_path / "out", "test")
    model = new_recogniser(opened, "pretrained", QUICK, 0)
    encoder = model.backbone.encoders["skeleton"]
    assert isinstance(encoder, TokenEncoder)
    assert [getattr(block, "drop_path").rate for block in encoder.blocks] == pytest.approx([0.0, 0.2])  # noqa: B009
    untouched = opened.transfer.encoder("skeleton").blocks
    assert [getattr(block, "drop_path").rate for block in untouched] == [0.0, 0.0]  # noqa: B009
    scales = {name: model.backbone.lr_scale(name, QUICK) for name, _ in model.backbone.named_parameters()}
    first = next(v for k, v in scales.items() if ".blocks.0." in k)
    second = next(v for k, v in scales.items() if ".blocks.1." in k)
    embedding = next(v for k, v in scales.items() if ".embedding." in k)
    assert (second, first, embedding) == pytest.approx((0.75, 0.75**2, 0.75**3))


@pytest.mark.parametrize("modality", ["skeleton", "video"])
def test_a_learnable_problem_is_learned_and_repeats(run: Path, tmp_path: Path, modality: Any) -> None:
    data = packed_folder(tmp_path / "d", 36) if modality == "skeleton" else wide_videos(tmp_path / "d", 36)
    before = load_transfer(run).sha256
    config = replace(QUICK, steps=80) if modality == "skeleton" else QUICK
    summary = evaluate(run, data, tmp_path / "out", modality, config)
    assert summary["metrics"]["finetuned_top1"] > 80
    assert (summary["n_expected"], summary["n_train"], summary["protocol"]) == (18, 18, "finetune")
    assert summary["controls"]["chance"] == pytest.approx(100 / 3)
    require_recomputable(tmp_path / "out", summary)
    again = evaluate(run, data, tmp_path / "again", modality, config)
    assert again == summary
    assert (tmp_path / "again/predictions.csv").read_bytes() == (tmp_path / "out/predictions.csv").read_bytes()
    assert load_transfer(run).sha256 == before  # the run itself is not trained
    assert not (tmp_path / "out/heads/pretrained/checkpoints").exists()


def views_by_hand(model: Recogniser, reader: ClipReader, config: Config, n_windows: int, n_crops: int) -> list[Tensor]:
    """Probabilities of each clip, one clip and one view at a time."""
    results = []
    for i in range(len(reader)):
        views = []
        for crop in range(n_crops):
            for window in range(n_windows):
                clips = reader.read([i], EvaluationWindow(window, n_windows, crop, n_crops)).clips
                assert clips is not None
                scores = model.scores(tokens_of(clips, config, "video"))[0].double()
                views.append(scores.exp() / scores.exp().sum())
        results.append(torch.stack(views).mean(0))
    return results


def test_views_are_merged_as_the_mean_of_their_probabilities(
    config: Config, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wide_videos(tmp_path / "data", 10)
    settings = replace(ONE_STEP, n_windows=2, n_crops=3, temporal="segments")
    opened = open_labelled(run, [str(data)], "video", tmp_path / "out", "test", settings.clip)
    model = new_recogniser(opened, "pretrained", settings, 0)
    torch.nn.init.normal_(model.classifier.weight)  # otherwise all views agree
    float32, cpu = PrecisionChoice(dtype=torch.float32, reason="test"), torch.device("cpu")
    scored = finetuning.score(model, opened, settings, float32, cpu)
    with torch.no_grad():
        expected = torch.stack(views_by_hand(model, opened.test.reader, config, 2, 3))
    torch.testing.assert_close(scored.by_head["finetuned"], expected, rtol=1e-4, atol=1e-6)
    one_view = finetuning.score(model, opened, replace(settings, n_windows=1, n_crops=1), float32, cpu)
    assert float((one_view.by_head["finetuned"] - expected).abs().max()) > 1e-3
    for batch_size in (1, 7, 64):  # the result does not depend on the batch
        monkeypatch.setattr(finetuning, "BATCH_SIZE", batch_size)
        again = finetuning.score(model, opened, settings, float32, cpu)
        torch.testing.assert_close(again.by_head["finetuned"], expected, rtol=1e-4, atol=1e-6)
        assert again.clip_ids == scored.clip_ids


def test_frozen_heads_merge_crops_too(run: Path, tmp_path: Path) -> None:
    data = wide_videos(tmp_path / "data", 24)
    probe = ProbeConfig(steps=30, precision="float32", device="cpu")
    one = evaluate_recognition(run, [str(data)], "video", tmp_path / "one", probe)
    three = evaluate_recognition(run, [str(data)], "video", tmp_path / "three", replace(probe, n_crops=3))
    assert (one["views"], three["views"]) == ("4x1x1", "4x1x3")
    assert three["metrics"]["linear_top1"] > 80
    again = evaluate_recognition(
        run, [str(data)], "video", tmp_path / "again", replace(probe, n_crops=3, head=str(tmp_path / "one"))
    )
    assert again["metrics"] == three["metrics"]  # heads of one crop, tested on three
    assert again["n_train"] == three["n_train"] == 12


def test_clips_that_cannot_be_read_are_wrong_and_listed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows: list[dict[str, object]] = []
    for i in range(24):
        np.savez(folder / f"j{i}.npz", joints=joints_of(i // 2 % 3, 6, i), layout=np.array("COCO-17"), units="metres")
        split = ("train", "test")[i % 2]
        rows.append({"clip_id": f"j{i}", "joints_path": f"j{i}.npz", "label": "abc"[i // 2 % 3], "split": split})
    write_index(folder, rows)
    (folder / "j1.npz").write_bytes(b"broken")
    np.savez(folder / "j3.npz", joints=np.zeros((6, 17, 3), np.float32), layout=np.array("COCO-17"), units="metres")
    (folder / "j0.npz").write_bytes(b"broken")  # a training clip
    summary = evaluate(run, folder, tmp_path / "out")
    assert (summary["n_expected"], summary["n_evaluated"], summary["n_train"]) == (12, 10, 11)
    assert sorted(summary["bad_clips"]) == ["data/j1", "data/j3"]
    assert list(summary["bad_train_clips"]) == ["data/j0"]
    rows_read = require_recomputable(tmp_path / "out", summary)
    assert sorted(row["clip_id"] for row in rows_read if row["not_read"]) == ["data/j1", "data/j3"]


class Watched:
    """A reader that notes how it was read."""

    def __init__(self, inner: ClipReader) -> None:
        self.inner, self.classes, self.draws = inner, inner.classes, list[Draw]()

    def __len__(self) -> int:
        return len(self.inner)

    def clip_id(self, index: int) -> str:
        return self.inner.clip_id(index)

    def label(self, index: int) -> int:
        return -1 if index == 1 else self.inner.label(index)

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        assert 1 not in indices
        self.draws.append(draw)
        return self.inner.read(indices, draw)


def test_clips_without_a_class_are_not_read(config: Config, run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 16)
    opened = open_labelled(run, [str(data)], "skeleton", tmp_path / "out", "test")
    train, test = Watched(opened.train.reader), Watched(opened.test.reader)
    watched = replace(opened, train=replace(opened.train, reader=train), test=replace(opened.test, reader=test))
    model = new_recogniser(watched, "random", QUICK, 0)
    float32, cpu = PrecisionChoice(dtype=torch.float32, reason="test"), torch.device("cpu")
    finetuning.train(model, watched, replace(QUICK, steps=4), tmp_path / "fit", float32, cpu)
    assert train.draws == [TrainingDraw(0, step) for step in range(4)]
    assert len(finetuning.score(model, watched, QUICK, float32, cpu).labels) == 7
    assert test.draws == [EvaluationWindow()]


def test_the_control_starts_from_random_weights(config: Config, run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 8)
    opened = open_labelled(run, [str(data)], "skeleton", tmp_path / "out", "test")
    control = new_recogniser(opened, "random", QUICK, 5).backbone.encoders["skeleton"].state_dict()
    for name, tensor in random_encoder(config, "skeleton", 5).state_dict().items():
        assert torch.equal(control[name], tensor)
    pretrained = new_recogniser(opened, "pretrained", QUICK, 5).backbone.encoders["skeleton"].state_dict()
    for name, tensor in load_transfer(run).encoder("skeleton").state_dict().items():
        assert torch.equal(pretrained[name], tensor)


def test_an_absent_modality_is_refused_before_anything_is_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = packed_folder(tmp_path / "data", 8)
    monkeypatch.setattr("oskar.data.folder_reader.FolderReader.read", None)
    with pytest.raises(InputError, match="no clip has video"):
        evaluate(run, data, tmp_path / "out", "video")
    with pytest.raises(InputError, match="--modality text"):
        evaluate(run, data, tmp_path / "text", "text")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"drop_path": 1.0}, "drop_path = 1.0"),
        ({"drop_path": -0.1}, "drop_path = -0.1"),
        ({"label_smoothing": 1.5}, "label_smoothing = 1.5"),
        ({"mixup": -1.0}, "mixup = -1.0"),
        ({"n_crops": 0}, "n_crops = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"layer_decay": 1.5}, "layer_decay = 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named.replace(".", r"\.")):
        FinetuneConfig(**settings)


def test_skeletons_keep_the_reader_s_own_settings(config: Config, tmp_path: Path) -> None:
    assert FinetuneConfig().clip(config.clip) == config.clip
    changed = FinetuneConfig(temporal="dense", stride_frames=4, crop_scale=(0.08, 1.0), flip_probability=0.5)
    clip = changed.clip(config.clip)
    assert (clip.temporal, clip.stride_frames, clip.crop_scale, clip.flip_probability) == ("dense", 4, (0.08, 1.0), 0.5)
    assert clip.yaw_degrees == config.clip.yaw_degrees
    data = packed_folder(tmp_path / "data", 4)
    assert open_split([str(data)], replace(config, clip=clip), None, "train").reader.classes == ("a", "b")
