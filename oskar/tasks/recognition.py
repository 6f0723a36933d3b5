"""Action recognition from video or skeletons by heads on frozen features, beside their controls."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from oskar.config import Config, TrainConfig
from oskar.data.open import OpenedData, open_split
from oskar.data.reader import ClipReader
from oskar.errors import InputError
from oskar.metrics.classification import accuracy_percent, chance_percent, is_top_k
from oskar.modalities import Modality
from oskar.settings import require
from oskar.tasks.features import Features, encode_all
from oskar.tasks.probes import FeatureStream, Probes, nearest_neighbours, standardise
from oskar.tasks.transfer import Transfer, load_transfer, random_encoder, require_modality
from oskar.train.device import choose_device
from oskar.train.loop import Trainer
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import prepare_run_folder, write_json_atomic

HEADS = ("attentive", "linear", "knn")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """How heads learn on frozen features (V-JEPA's probe, in steps for small data)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    steps: int = 600
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    out_projection: bool = False
    n_neighbours: int = 10
    n_windows: int = 1
    seed: int = 0
    split: str = "test"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "n_neighbours", "n_windows"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")

    def train_config(self) -> TrainConfig:
        """The loop's settings: cosine to 0 without warm-up."""
        return TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            lr_scaling="none",
            warmup_share=0.0,
            betas=(0.9, 0.999),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            seed=self.seed,
            checkpoint_every_steps=self.steps,
            log_every_steps=max(self.steps // 20, 1),
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores ``[n, classes]`` of every head on the test clips."""

    by_head: dict[str, Tensor]


def evaluate_recognition(
    run: Path, data: list[str], modality: Modality, out: Path, config: ProbeConfig
) -> dict[str, Any]:
    """Probe a run's frozen encoder and a random one on labelled data; writes and returns ``summary.json``.

    Also writes ``predictions.csv``, one row per test clip with each head's class, from which the
    accuracies can be computed again. A test clip that cannot be read counts as wrong and is listed.

    Raises:
        InputError: wrong run, data, split or modality.
    """
    transfer = load_transfer(run)
    prepare_run_folder(out, resume=False)
    require_modality(transfer.config, modality)
    read_config = _what_is_read(transfer.config, modality)
    if config.split == read_config.data.split:
        raise InputError(f"split = {config.split!r} is what the heads learn on", fix="test on another split")
    train, test = (
        open_split(data, read_config, None, split, modality) for split in (read_config.data.split, config.split)
    )
    if not test.reader.classes:
        raise InputError(f"data {', '.join(data)} has no classes of its own", fix="evaluate on one labelled data set")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    encoders = [transfer.encoder(modality), random_encoder(transfer.config, modality, config.seed)]
    features = [
        encode_all(
            encoders, opened.reader, transfer.config, modality,
            n_windows=config.n_windows, precision=precision, device=device,
        )
        for opened in (train, test)
    ]  # fmt: skip
    _require_labels(features[0][0], features[1][0], data)
    n_classes = len(test.reader.classes)
    scored = {
        name: _score(on_train, on_test, n_classes, config, out / "heads" / name, transfer, device)
        for name, on_train, on_test in zip(("pretrained", "random"), *features, strict=True)
    }
    summary = _summary(transfer, test, features[1][0], scored, modality, config)
    summary |= {"n_train": len(features[0][0]), "bad_train_clips": dict(features[0][0].bad)}
    _write_predictions(out / "predictions.csv", features[1][0], scored, test.reader)
    write_json_atomic(out / "summary.json", summary)
    return summary


def _what_is_read(config: Config, modality: Modality) -> Config:
    """Only files that the modality needs can spoil a clip; joints of clips with a video lie on its frame."""
    names: tuple[Modality, ...] = ("video",) if modality == "video" else ("video", modality)
    kept = tuple(name for name in names if name in config.tokens.modalities)
    return replace(config, tokens=replace(config.tokens, modalities=kept))


def _require_labels(train: Features, test: Features, data: list[str]) -> None:
    for name, features in (("train", train), ("test", test)):
        if len(features) == 0:
            raise InputError(
                f"data {', '.join(data)}: no labelled clip in split {name!r} has the modality", fix="choose another"
            )


def _score(
    train: Features,
    test: Features,
    n_classes: int,
    config: ProbeConfig,
    folder: Path,
    transfer: Transfer,
    device: torch.device,
) -> Scored:
    """Train the heads on one encoder's features and score the test clips."""
    pooled = standardise(train, test)
    torch.manual_seed(config.seed)
    width = train.tokens.shape[-1]
    probes = Probes(width, transfer.config.model.n_heads, n_classes, out_projection=config.out_projection)
    stream = FeatureStream(train, pooled.train, n_steps=config.steps, batch_size=config.batch_size, seed=config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    float32 = PrecisionChoice(dtype=torch.float32, reason="heads are small")
    Trainer(probes, stream, config.train_config(), folder, precision=float32, device=device, bad_budget=0).fit()
    probes.eval()
    on_test = FeatureStream(test, pooled.test, n_steps=0, batch_size=config.batch_size, seed=0)
    with torch.no_grad():
        parts = [
            probes.scores(on_test.batch(chosen).to(device))
            for chosen in torch.split(torch.arange(len(test)), config.batch_size)
        ]
    by_head = {head: torch.cat([part[head].cpu() for part in parts]) for head in parts[0]}
    by_head["knn"] = nearest_neighbours(pooled.train, train.labels, pooled.test, n_classes, config.n_neighbours)
    return Scored(by_head)


def _summary(
    transfer: Transfer,
    test: OpenedData,
    features: Features,
    scored: dict[str, Scored],
    modality: Modality,
    config: ProbeConfig,
) -> dict[str, Any]:
    expected = [label for i in range(len(test.reader)) if (label := test.reader.label(i)) >= 0]
    n_expected = len(expected)
    accuracies = {
        name: {
            f"{head}_top{k}": accuracy_percent(is_top_k(scores, features.labels, k), n_expected)
            for head, scores in s.by_head.items()
            for k in (1, 5)
        }
        for name, s in scored.items()
    }
    return {
        "task": "action-recognition",
        "modality": modality,
        "protocol": "frozen",
        "data": list(test.names),
        "split": config.split,
        "n_classes": len(test.reader.classes),
        "n_expected": n_expected,
        "n_found": n_expected,
        "n_evaluated": len(features),
        "n_left_out": test.n_left_out,
        "bad_clips": dict(features.bad),
        "metrics": accuracies["pretrained"],
        "controls": {"chance": chance_percent(torch.tensor(expected)), "random_weights": accuracies["random"]},
        "recipe": transfer.config.recipe,
        "seed": config.seed,
        "n_windows": config.n_windows,
        "checkpoint_sha256": transfer.sha256,
        "data_sha256": test.sha256,
    }


def _write_predictions(path: Path, features: Features, scored: dict[str, Scored], reader: ClipReader) -> None:
    columns = {f"{name}_{head}": s.argmax(1) for name, part in scored.items() for head, s in part.by_head.items()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "label", *columns, "not_read"])
        for i, clip_id in enumerate(features.clip_ids):
            row = [reader.classes[int(column[i])] for column in columns.values()]
            writer.writerow([clip_id, reader.classes[int(features.labels[i])], *row, ""])
        label_of = {reader.clip_id(i): reader.label(i) for i in range(len(reader))}
        for clip_id, reason in features.bad:
            writer.writerow([clip_id, reader.classes[label_of[clip_id]], *[""] * len(columns), reason])


__all__ = ["HEADS", "ProbeConfig", "evaluate_recognition"]
