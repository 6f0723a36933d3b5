"""Action recognition from video or skeletons by heads on frozen features, beside their controls."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor

from oskar.data.stream import MemoryStream
from oskar.metrics.classification import merge_views
from oskar.modalities import Modality
from oskar.settings import require
from oskar.tasks.features import Features, encode_all
from oskar.tasks.labelled import ENCODERS, LabelledData, open_labelled, require_labelled
from oskar.tasks.probes import FeatureBank, Probes, StandardFeatures, nearest_neighbours
from oskar.tasks.saved_head import HEADS_FOLDER, HeadCard, card_of, load_head, save_head
from oskar.tasks.scored_clips import Conditions, ScoredClips, write_results
from oskar.tasks.task import HeadConfig
from oskar.tasks.transfer import random_encoder
from oskar.train.checkpoint import load_module_strict, under
from oskar.train.device import choose_device
from oskar.train.loop import Trainer
from oskar.train.precision import PrecisionChoice, choose_precision

HEADS = ("attentive", "linear", "knn")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig(HeadConfig):
    """How heads learn on frozen features (V-JEPA's probe, in steps for small data): cosine to 0 without warm-up."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.0
    out_projection: bool = False
    n_neighbours: int = 10
    n_windows: int = 1
    n_crops: int = 1  # at test, along the longer side of a frame; heads learn on the one in the middle
    head: str | None = None  # folder of an evaluation whose heads are tested again, instead of new ones

    def __post_init__(self) -> None:
        HeadConfig.__post_init__(self)
        for name in ("n_neighbours", "n_windows", "n_crops"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")


@dataclass(frozen=True, slots=True)
class FrozenFeatures:
    """Features of one encoder: ``train`` in the middle crop (None where heads were learned before), ``test`` by crop.

    All crops of the test clips hold the same clips in the same order.
    """

    train: Features | None
    test: tuple[Features, ...]


@dataclass(frozen=True, slots=True)
class FrozenHeads:
    """The trained heads of one encoder, with what standardises features and what neighbours are found in."""

    probes: Probes
    bank: FeatureBank

    def tensors(self) -> dict[str, Tensor]:
        probes = {f"probes/{name}": tensor for name, tensor in self.probes.state_dict().items()}
        return probes | {f"bank/{f.name}": getattr(self.bank, f.name) for f in dataclasses.fields(self.bank)}


def evaluate_recognition(
    run: Path, data: list[str], modality: Modality, out: Path, config: ProbeConfig
) -> dict[str, Any]:
    """Probe a run's frozen encoder and a random one on labelled data; writes and returns ``summary.json``.

    Also writes ``predictions.csv``, one row per test clip with each head's class, from which the
    accuracies can be computed again, and ``heads/``. A test clip that cannot be read counts as wrong and is listed.
    The scores of several crops are merged as the mean of their softmax (votes of neighbours: their mean).

    Raises:
        InputError: wrong run, data, split or modality, or a ``config.head`` of other classes or another split.
    """
    opened = open_labelled(run, data, modality, out, config.split)
    device = choose_device(config.device)
    scored: dict[str, ScoredClips] = {}
    if config.head is None:
        features = encode_splits(opened, config, config.seed, device)
        train = features["pretrained"].train
        assert train is not None
        n_train, bad_train = len(train), dict(train.bad)
        card = card_of(opened, "frozen", train.clip_ids, config.seed, dataclasses.asdict(config))
        for name, encoded in features.items():
            heads = fit_heads(encoded, opened, config, out / HEADS_FOLDER / name, device)
            save_head(out, name, heads.tensors(), card)
            scored[name] = score_heads(heads, encoded.test, config, device)
    else:
        loaded = {name: _load(Path(config.head), name, opened) for name in ENCODERS}
        _, card = loaded["pretrained"]
        n_train, bad_train = len(card.train_ids), {}
        for name, encoded in encode_splits(opened, config, card.seed, device).items():
            scored[name] = score_heads(loaded[name][0], encoded.test, config, device)
    n_expected = len(scored["pretrained"].labels) + len(scored["pretrained"].bad)
    values = {name: part.accuracies(n_expected) for name, part in scored.items()}
    return write_results(
        out, opened, scored, values, Conditions.of("action-recognition", "frozen", config, n_train, bad_train)
    )


def encode_splits(
    data: LabelledData, config: ProbeConfig, random_seed: int, device: torch.device
) -> dict[str, FrozenFeatures]:
    """Features by the pretrained encoder and a random one, of the training split only where heads are to learn."""
    precision = choose_precision(config.precision, device)
    run, modality = data.transfer, data.modality
    encoders = [run.encoder(modality), random_encoder(run.config, modality, random_seed)]

    def encode(split: str, crop: int, n_crops: int) -> list[Features]:
        opened = data.test if split == data.split else data.train
        features = encode_all(
            encoders, opened.reader, run.config, modality,
            n_windows=config.n_windows, precision=precision, device=device, crop=crop, n_crops=n_crops,
        )  # fmt: skip
        require_labelled(len(features[0]), split, opened.names)
        return features

    train = None if config.head is not None else encode(data.config.data.split, 0, 1)
    crops = [encode(data.split, crop, config.n_crops) for crop in range(config.n_crops)]
    return {
        name: FrozenFeatures(None if train is None else train[i], _same_clips([crop[i] for crop in crops]))
        for i, name in enumerate(ENCODERS)
    }


def _same_clips(crops: list[Features]) -> tuple[Features, ...]:
    """A clip that cannot be used in one crop is left out of all."""
    bad = reduce(lambda seen, crop: {**dict(crop.bad), **seen}, crops, dict[str, str]())
    return tuple(dataclasses.replace(crop.without(bad), bad=tuple(bad.items())) for crop in crops)


def fit_heads(
    features: FrozenFeatures,
    data: LabelledData,
    config: ProbeConfig,
    folder: Path,
    device: torch.device,
    *,
    ids: Collection[str] | None = None,
) -> FrozenHeads:
    """Train the heads on one encoder's training features, or on those of the clips ``ids`` for as many epochs."""
    assert features.train is not None
    train = features.train if ids is None else features.train.of(ids)
    require_labelled(len(train), data.config.data.split, data.train.names)
    n_steps = config.steps
    if ids is not None:
        n_steps = max(1, round(n_steps * _steps_per_epoch(train, config) / _steps_per_epoch(features.train, config)))
    bank = FeatureBank.of(train)
    probes = _new_probes(train.tokens.shape[-1], data, config.out_projection, config.seed)
    standard = StandardFeatures(train, bank.standardise(train.pooled()))
    stream = MemoryStream(
        len(train), lambda chosen, step: standard.batch(chosen),
        n_steps=n_steps, batch_size=config.batch_size, seed=config.seed,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    float32 = PrecisionChoice(dtype=torch.float32, reason="heads are small")
    settings = dataclasses.replace(config, steps=n_steps).train_config()
    Trainer(probes, stream, settings, folder, precision=float32, device=device, bad_budget=0).fit()
    return FrozenHeads(probes, bank)


def _steps_per_epoch(features: Features, config: ProbeConfig) -> int:
    return len(features) // min(config.batch_size, len(features))


def _new_probes(width: int, data: LabelledData, out_projection: bool, seed: int) -> Probes:
    torch.manual_seed(seed)
    return Probes(width, data.transfer.config.model.n_heads, len(data.classes), out_projection=out_projection)


def _load(evaluation: Path, name: str, data: LabelledData) -> tuple[FrozenHeads, HeadCard]:
    tensors, card = load_head(evaluation, name, data, "frozen")
    width = data.transfer.config.model.width
    probes = _new_probes(width, data, bool(card.settings["out_projection"]), card.seed)
    load_module_strict(probes, under("probes/", tensors), str(evaluation))
    return FrozenHeads(probes, FeatureBank(**under("bank/", tensors))), card


@torch.no_grad()
def score_heads(
    heads: FrozenHeads, crops: tuple[Features, ...], config: ProbeConfig, device: torch.device
) -> ScoredClips:
    """Scores of the test clips: of each head the mean over the crops."""
    probes, bank = heads.probes.to(device).eval(), heads.bank
    n_clips, n_classes = len(crops[0]), probes.linear.out_features
    by_crop: list[dict[str, Tensor]] = []
    for features in crops:
        pooled = bank.standardise(features.pooled())
        standard = StandardFeatures(features, pooled)
        chosen = torch.split(torch.arange(n_clips), config.batch_size)
        parts = [probes.scores(standard.batch(rows).to(device)) for rows in chosen]
        scores = {head: torch.cat([part[head].cpu() for part in parts]) for head in parts[0]}
        votes = nearest_neighbours(bank.pooled, bank.labels, pooled, n_classes, config.n_neighbours)
        by_crop.append(scores | {"knn": votes})
    video_ids = torch.arange(n_clips).repeat(len(crops))
    crop_ids = torch.arange(len(crops)).repeat_interleave(n_clips)
    merged = {
        head: merge_views(torch.cat([scores[head] for scores in by_crop]), video_ids, crop_ids).probabilities
        for head in ("attentive", "linear")
    }
    merged["knn"] = torch.stack([scores["knn"] for scores in by_crop]).mean(0)
    return ScoredClips(merged, crops[0].labels, crops[0].clip_ids, crops[0].bad)


__all__ = ["HEADS", "ProbeConfig", "encode_splits", "evaluate_recognition", "fit_heads", "score_heads"]
