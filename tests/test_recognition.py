"""Frozen probes: heads on made features, controls, files that add up, and clips that cannot be read."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import joints_of, packed_folder, shrunk, write_index
from torch.nn import functional as F

from oskar.config import Config
from oskar.data.open import open_split
from oskar.data.reader import ClipReader, Draw, EvaluationWindow, ReadClips
from oskar.errors import InputError
from oskar.pretraining import MaskedPrediction
from oskar.randomness import hash_id
from oskar.tasks import recognition
from oskar.tasks.features import Features, encode_all
from oskar.tasks.recognition import HEADS, ProbeConfig, evaluate_recognition
from oskar.tasks.transfer import load_transfer, random_encoder
from oskar.train.precision import PrecisionChoice
from oskar.train.pretrain import save_transfer

FLOAT32 = PrecisionChoice(dtype=torch.float32, reason="test")
QUICK = ProbeConfig(steps=60, batch_size=32, precision="float32", device="cpu")
WIDTH, N_CLASSES = 32, 3


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, modalities=("video", "skeleton"), n_frames=4)
    return replace(config, tokens=tokens)


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Path:
    """The encoder of a run of no steps."""
    torch.manual_seed(0)
    save_transfer(MaskedPrediction(config), config, None, tmp_path / "run" / "encoder")
    return tmp_path / "run"


def made_features(reader: ClipReader, *, is_shuffled: bool) -> Features:
    """Tokens of which the first third say the class, or that of another clip. Lengths differ."""
    seed = hash_id(reader.clip_id(0)) % 1000
    rng = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(N_CLASSES, WIDTH, generator=torch.Generator().manual_seed(7)), dim=1)
    n = len(reader)
    labels = torch.tensor([reader.label(i) for i in range(n)])
    tokens = torch.randn(n, 12, WIDTH, generator=rng)
    said = labels[torch.randperm(n, generator=rng)] if is_shuffled else labels
    tokens[:, :4] += 6.0 * directions[said][:, None]
    is_valid = torch.arange(12) < torch.randint(6, 13, (n, 1), generator=rng)
    tokens[~is_valid] = 100.0  # never to be looked at
    return Features(tokens.bfloat16(), is_valid, labels, tuple(reader.clip_id(i) for i in range(n)), ())


def evaluate(
    run: Path, data: Path, out: Path, modality: Any = "skeleton", config: ProbeConfig = QUICK
) -> dict[str, Any]:
    summary = evaluate_recognition(run, [str(data)], modality, out, config)
    assert summary == json.loads((out / "summary.json").read_text())
    return summary


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def require_recomputable(out: Path, summary: dict[str, Any]) -> None:
    """The accuracies of the summary, exactly, from the file of predictions."""
    rows = rows_of(out)
    assert len(rows) == summary["n_expected"]
    for head in HEADS:
        for name, metrics in (("pretrained", summary["metrics"]), ("random", summary["controls"]["random_weights"])):
            n_right = sum(row["label"] == row[f"{name}_{head}"] for row in rows)
            assert metrics[f"{head}_top1"] == 100.0 * n_right / len(rows)
    labels = [row["label"] for row in rows]
    assert summary["controls"]["chance"] == 100.0 * max(map(labels.count, labels)) / len(labels)


def test_heads_find_what_is_there_and_only_that(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known classes in the "pretrained" features, shuffled ones in the "random" features."""
    data = packed_folder(tmp_path / "data", 240, n_classes=N_CLASSES)

    def encode(encoders: list[Any], reader: ClipReader, *_: object, **__: object) -> list[Features]:
        assert len(encoders) == 2
        return [made_features(reader, is_shuffled=is_shuffled) for is_shuffled in (False, True)]

    monkeypatch.setattr(recognition, "encode_all", encode)
    summary = evaluate(run, data, tmp_path / "out")
    for head in HEADS:
        assert summary["metrics"][f"{head}_top1"] >= 97.0
        assert summary["metrics"][f"{head}_top5"] == 100.0  # there are three classes
        noise = summary["controls"]["random_weights"][f"{head}_top1"]
        assert 33.3 - 20 < noise < 33.3 + 20  # 120 clips: sd is 4.3
    assert summary["controls"]["chance"] == pytest.approx(100 / 3)
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"], summary["n_classes"]) == (
        120,
        120,
        120,
        3,
    )
    require_recomputable(tmp_path / "out", summary)
    assert [path.name for path in sorted((tmp_path / "out" / "heads").iterdir())] == ["pretrained", "random"]


def test_a_real_encoder_reads_real_clips(run: Path, tmp_path: Path) -> None:
    """Poses as different as these are told apart from random weights."""
    data = packed_folder(tmp_path / "data", 48)
    summary = evaluate(run, data, tmp_path / "out")
    assert summary["metrics"]["knn_top1"] > 90
    require_recomputable(tmp_path / "out", summary)
    again = evaluate(run, data, tmp_path / "again")
    assert again == summary
    assert (tmp_path / "again/predictions.csv").read_text() == (tmp_path / "out/predictions.csv").read_text()
    other_seed = evaluate(run, data, tmp_path / "other", config=replace(QUICK, seed=1))
    assert (summary["seed"], other_seed["seed"]) == (0, 1)
    assert other_seed["checkpoint_sha256"] == summary["checkpoint_sha256"] == load_transfer(run).sha256


def joint_files(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for i in range(n):
        np.savez(
            folder / f"j{i}.npz",
            joints=joints_of(i // 2 % 3, 6, i),
            layout=np.array("COCO-17"),
            units=np.array("metres"),
        )
        split = ("train", "test")[i % 2]
        rows.append({"clip_id": f"j{i}", "joints_path": f"j{i}.npz", "label": "abc"[i // 2 % 3], "split": split})
    return write_index(folder, rows)


def test_test_clips_that_cannot_be_read_are_wrong_and_listed(run: Path, tmp_path: Path) -> None:
    data = joint_files(tmp_path / "data", 36)
    (data / "j1.npz").write_bytes(b"broken")
    np.savez(
        data / "j3.npz", joints=np.zeros((6, 17, 3), np.float32), layout=np.array("COCO-17"), units=np.array("metres")
    )
    np.savez(data / "j5.npz", captions=np.zeros(3))  # no joints at all
    (data / "j0.npz").write_bytes(b"broken")  # a training clip
    summary = evaluate(run, data, tmp_path / "out")
    assert (summary["n_expected"], summary["n_evaluated"]) == (18, 15)
    assert sorted(summary["bad_clips"]) == ["data/j1", "data/j3", "data/j5"]
    assert "j1.npz" in summary["bad_clips"]["data/j1"]
    require_recomputable(tmp_path / "out", summary)
    unread = {row["clip_id"]: row for row in rows_of(tmp_path / "out") if row["not_read"]}
    assert sorted(unread) == ["data/j1", "data/j3", "data/j5"]
    assert unread["data/j3"]["label"] == "b"
    assert unread["data/j3"]["pretrained_knn"] == ""
    assert all(value <= 100 * 15 / 18 for value in summary["metrics"].values())


class Windowed:
    """A reader of which clip 1 fails in its second window, and clip 2 has no skeleton."""

    classes = ("a", "b")

    def __init__(self, inner: ClipReader) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return 4

    def clip_id(self, index: int) -> str:
        return self.inner.clip_id(index)

    def label(self, index: int) -> int:
        return index % 2

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        assert isinstance(draw, EvaluationWindow)
        fails = [i for i in indices if i == 1 and draw.number == 1]
        result = self.inner.read([i for i in indices if i not in fails], draw)
        clips = result.clips
        assert clips is not None
        assert clips.joints is not None
        clips.joints[[i for i in indices if i not in fails].index(2)] = 0.0
        labels = torch.tensor([i % 2 for i in indices if i not in fails])
        return ReadClips(replace(clips, labels=labels), tuple((self.clip_id(i), "cut short") for i in fails))


def test_a_clip_that_fails_in_one_window_is_left_out_of_all(config: Config, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 8)
    reader = Windowed(open_split([str(data)], config, None, "train").reader)
    encoders = [random_encoder(config, "skeleton", seed) for seed in (0, 1)]
    cpu = torch.device("cpu")
    first, second = encode_all(encoders, reader, config, "skeleton", n_windows=2, precision=FLOAT32, device=cpu)
    assert first.clip_ids == (reader.clip_id(0), reader.clip_id(3))
    assert dict(first.bad) == {reader.clip_id(1): "cut short", reader.clip_id(2): "no usable token of skeleton"}
    assert first.labels.tolist() == [0, 1]
    assert len(first.tokens) == len(first.is_valid) == 2
    assert not torch.equal(first.tokens, second.tokens)
    (alone,) = encode_all(encoders[:1], reader.inner, config, "skeleton", n_windows=1, precision=FLOAT32, device=cpu)
    assert first.is_valid.sum(1).tolist() == [2 * n for n in alone.is_valid.sum(1)[[0, 3]].tolist()]


def test_a_class_that_training_never_saw_is_wrong_not_a_crash(run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 24)
    index = (data / "index.csv").read_text().splitlines()
    kept = [line for line in index if not line.endswith(",c,train")]
    (data / "index.csv").write_text("\n".join(kept) + "\n")
    summary = evaluate(run, data, tmp_path / "out")
    assert summary["n_classes"] == 3
    assert summary["metrics"]["knn_top1"] <= 200 / 3 + 1e-9


def test_a_split_without_labelled_clips_is_named(run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 8)
    text = (data / "index.csv").read_text()
    for split in ("train", "test"):
        lines = [
            ",".join([*line.split(",")[:3], "", split]) if line.endswith(f",{split}") else line
            for line in text.splitlines()
        ]
        (data / "index.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(InputError, match=f"no labelled clip in split '{split}'"):
            evaluate(run, data, tmp_path / split)


def test_the_control_is_the_encoder_a_run_starts_from(config: Config, run: Path) -> None:
    state = torch.get_rng_state()
    control = random_encoder(config, "skeleton", 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    start = MaskedPrediction(config).encoder("skeleton").state_dict()
    loaded = load_transfer(run).encoder("skeleton").state_dict()
    for name, tensor in control.state_dict().items():
        assert torch.equal(tensor, start[name])
        assert torch.equal(tensor, loaded[name])  # the run of no steps
    assert not any(p.requires_grad for p in control.parameters())
