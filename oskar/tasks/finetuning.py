"""Action recognition by fine-tuning an encoder with a head on the mean of its tokens, beside the same from scratch."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.clip import ClipBatch
from oskar.config import ClipConfig, Config
from oskar.data.augmentation.erasing import erase
from oskar.data.augmentation.rand_augment import HIGHEST_LEVEL, rand_augment
from oskar.data.reader import ClipReader, evaluation_views
from oskar.data.repeated_reader import RepeatedReader
from oskar.data.stream import StepDataset, StepStream
from oskar.data.subset_reader import SubsetReader
from oskar.masking.packing import PackedTokens
from oskar.metrics.classification import merge_views
from oskar.modalities import Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.model.layers import NORM_EPS, set_drop_path
from oskar.settings import require, require_not_negative, require_share
from oskar.tasks.features import BATCH_SIZE, PackedWindow, read_views, tokens_of
from oskar.tasks.labelled import ENCODERS, LabelledData, labels_of, open_labelled
from oskar.tasks.mixing import mix_clips, soft_targets
from oskar.tasks.saved_head import HEADS_FOLDER, card_of, load_head, save_head
from oskar.tasks.scored_clips import Conditions, ScoredClips, write_results
from oskar.tasks.task import Backbone, FitConfig, TaskModule, fit
from oskar.train.checkpoint import load_module_strict
from oskar.train.device import choose_device
from oskar.train.loop import Progressed
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.sealed import remove_folder

FIRST_SCORES_SHARE = 0.001  # the classifier's weights at the start, as a share of the usual


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(FitConfig):
    """Fine-tuning as VideoMAE does it; None leaves a setting of ``clip`` as the run has it.

    ``oskar/tasks/finetuning_recipes.py`` has the published settings; these defaults are for small data.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    drop_path: float = 0.1  # of the last block; rises linearly from 0
    dropout: float = 0.0  # before the classifier
    label_smoothing: float = 0.1
    mixup: float = 0.8  # frames only, skeletons are never mixed; the parameter of Beta, 0 for none
    cutmix: float = 1.0
    rand_layers: int = 0  # frames only: operations of RandAugment, each applied with probability 1/2
    rand_magnitude: float = 7.0  # of 10
    rand_magnitude_std: float = 0.5
    erasing_probability: float = 0.0  # frames only: of a rectangle of noise
    n_repeats: int = 1  # how often a clip is in its batch, each time cropped and changed otherwise
    temporal: Literal["stride", "span", "dense", "segments", "centres"] | None = None
    stride_frames: int | None = None
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] | None = None
    flip_probability: float | None = None
    n_windows: int = 1
    n_crops: int = 1  # at test, along the longer side of a frame
    head: str | None = None  # folder of an evaluation whose weights are tested again, instead of new ones

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        require_share(self, "finetune", "drop_path", "dropout", "label_smoothing", "erasing_probability")
        require(self.drop_path < 1, "drop_path", self.drop_path, "use a share below 1")
        require_not_negative(self, "finetune", "mixup", "cutmix", "rand_layers", "rand_magnitude_std")
        is_level = 0 <= self.rand_magnitude <= HIGHEST_LEVEL
        require(is_level, "rand_magnitude", self.rand_magnitude, f"use a level from 0 to {HIGHEST_LEVEL:g}")
        for name in ("n_windows", "n_crops", "n_repeats"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")

    def clip(self, config: ClipConfig) -> ClipConfig:
        """The run's settings of clips, with what is set here."""
        names = ("temporal", "stride_frames", "crop_scale", "crop_ratio", "flip_probability")
        chosen = {name: getattr(self, name) for name in names}
        return dataclasses.replace(config, **{name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True, slots=True)
class TargetedTokens:
    """The tokens of a batch and its targets: probabilities ``[B, classes]``."""

    packed: PackedTokens
    targets: Tensor

    @property
    def weight(self) -> float:
        """Clips that have a token."""
        return float(self.packed.is_valid.any(1).sum())

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> "TargetedTokens":
        return TargetedTokens(self.packed.to(device), self.targets.to(device))


class Recogniser(TaskModule):
    """Mean over the tokens of each person, then over the people that are there, norm, dropout, classifier.

    A video's tokens are those of one person. The classifier starts at a thousandth of its usual size.
    """

    def __init__(self, backbone: Backbone, modality: Modality, n_classes: int, config: FinetuneConfig) -> None:
        super().__init__(backbone)
        self.modality: Modality = modality
        spec = modality_specs(backbone.config.tokens)[modality]
        self.n_positions, self.n_people = spec.n_positions, spec.n_tokens // spec.n_positions
        width = backbone.config.model.width
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, n_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02 * FIRST_SCORES_SHARE)
        nn.init.zeros_(self.classifier.bias)
        encoder = backbone.encoders[modality]
        assert isinstance(encoder, TokenEncoder)
        set_drop_path(encoder.blocks, config.drop_path)

    def forward(self, batch: TargetedTokens) -> dict[str, Tensor]:
        """Cross-entropy with soft targets, the mean over the clips that have a token."""
        has_token = batch.packed.is_valid.any(1)
        losses = F.cross_entropy(self.scores(batch.packed), batch.targets, reduction="none")
        return {"loss": (losses * has_token).sum() / has_token.sum()}

    def scores(self, packed: PackedTokens) -> Tensor:
        """Scores ``[B, classes]``, float32."""
        latents = self.backbone(self.modality, packed).float()
        pooled = mean_over_people(latents, people_of_slots(packed, self.modality, self.n_positions), self.n_people)
        scores: Tensor = self.classifier(self.dropout(self.norm(pooled)))
        return scores.float()


def people_of_slots(packed: PackedTokens, modality: Modality, n_positions: int) -> Tensor:
    """The number of the person ``[B, V]`` whose token each slot holds, -1 in an empty slot; 0 where there are none."""
    tokens = packed.tokens[modality]
    people = torch.full_like(packed.segments, -1).flatten()
    people[tokens.slots] = tokens.token_idx // n_positions
    return people.view_as(packed.segments)


def mean_over_people(latents: Tensor, people: Tensor, n_people: int) -> Tensor:
    """``[B, D]`` of ``[B, V, D]``: the mean of each person's tokens, then the mean of the people that have any.

    ``people`` int64 ``[B, V]``, -1 where a slot is empty. A clip without tokens gets zeros.
    """
    is_of = people[:, None] == torch.arange(n_people, device=people.device)[:, None]
    counts = is_of.sum(2)
    means = is_of.to(latents.dtype) @ latents / counts.clamp_min(1)[..., None]
    n_present = (counts > 0).sum(1, keepdim=True).clamp_min(1)
    return means.sum(1) / n_present


@dataclass(frozen=True, slots=True)
class TargetedBatches:
    """From clips, as a reader gives them, to tokens and targets; videos are changed, erased and mixed."""

    config: Config
    modality: Modality
    n_classes: int
    settings: FinetuneConfig

    def __call__(self, clips: ClipBatch, step: int) -> TargetedTokens:
        share = None
        if self.modality == "video" and clips.frames is not None:
            frames, share = self._augmented(clips.frames, clips.clip_ids, step)
            clips = dataclasses.replace(clips, frames=frames)
        smoothing = self.settings.label_smoothing
        targets = soft_targets(clips.labels, self.n_classes, smoothing=smoothing, share=share)
        return TargetedTokens(tokens_of(clips, self.config, self.modality), targets)

    def _augmented(self, frames: Tensor, clip_ids: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Frames to learn from, and the share ``[B]`` of each clip in its mixture where clips are mixed."""
        settings, seed = self.settings, self.settings.seed
        if settings.rand_layers > 0:
            frames = rand_augment(
                frames, clip_ids, seed=seed, step=step, n_layers=settings.rand_layers,
                magnitude=settings.rand_magnitude, magnitude_std=settings.rand_magnitude_std,
            )  # fmt: skip
        if settings.erasing_probability > 0:
            frames = erase(frames, clip_ids, seed=seed, step=step, probability=settings.erasing_probability)
        if settings.mixup + settings.cutmix == 0:
            return frames, None
        return mix_clips(frames, clip_ids, seed=seed, step=step, mixup=settings.mixup, cutmix=settings.cutmix)


def evaluate_finetuned(
    run: Path, data: list[str], modality: Modality, out: Path, config: FinetuneConfig
) -> dict[str, Any]:
    """Fine-tune a run's encoder, and the same from random weights; writes and returns ``summary.json``.

    Also writes ``predictions.csv`` and both models into ``heads/``. A test clip that cannot be read counts as wrong
    and is listed; the scores of a clip's views are merged as the mean of their softmax.

    Raises:
        InputError: wrong run, data, split or modality, or a ``config.head`` of other classes or another split.
    """
    opened = open_labelled(run, data, modality, out, config.split, config.clip)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    train_ids, bad_train = tuple(labels_of(opened.train.reader)), dict[str, str]()
    scored: dict[str, ScoredClips] = {}
    for name in ENCODERS:
        if config.head is None:
            model = new_recogniser(opened, name, config, config.seed)
            done = train(model, opened, config, out / HEADS_FOLDER / name, precision, device)
            bad_train |= done.bad
            card = card_of(opened, "finetune", train_ids, config.seed, dataclasses.asdict(config))
            save_head(out, name, model.state_dict(), card)
        else:
            tensors, card = load_head(Path(config.head), name, opened, "finetune")
            model = new_recogniser(opened, name, config, card.seed)
            load_module_strict(model, tensors, config.head)
        scored[name] = score(model, opened, config, precision, device)
    n_expected = len(labels_of(opened.test.reader))
    values = {name: part.accuracies(n_expected) for name, part in scored.items()}
    n_train = len(train_ids) - len(bad_train)
    conditions = Conditions.of("action-recognition", "finetune", config, n_train, bad_train)
    return write_results(out, opened, scored, values, conditions)


def new_recogniser(data: LabelledData, name: str, config: FinetuneConfig, seed: int) -> Recogniser:
    """The model that learning starts from: "pretrained", or "random" with the weights of ``seed``."""
    random_seed = None if name == "pretrained" else seed
    backbone = Backbone(data.transfer, (data.modality,), is_trained=True, random_seed=random_seed)
    torch.manual_seed(seed)
    return Recogniser(backbone, data.modality, len(data.classes), config)


def train(
    model: Recogniser,
    data: LabelledData,
    config: FinetuneConfig,
    folder: Path,
    precision: PrecisionChoice,
    device: torch.device,
    ids: Collection[str] | None = None,
) -> Progressed:
    """Fine-tune on the labelled training clips, or those among ``ids``; ``bad`` of the result lists unreadable ones."""
    reader: ClipReader = SubsetReader(data.train.reader, ids)
    n_steps = config.n_steps(len(reader))
    if config.n_repeats > 1:
        reader = RepeatedReader(reader, config.n_repeats)
    build = TargetedBatches(data.transfer.config, data.modality, len(data.classes), config)
    dataset = StepDataset(
        reader, build, n_steps=n_steps, batch_size=config.batch_size, accumulation=1, seed=config.seed
    )
    stream = StepStream(dataset, config.workers)
    model.train()
    sized = dataclasses.replace(config, steps=n_steps)
    done = fit(model, stream, sized, folder, precision=precision, device=device, bad_budget=len(reader))
    remove_folder(folder / "checkpoints")  # nothing goes on from it, and it is three times the saved head
    return done


@torch.no_grad()
def score(
    model: Recogniser, data: LabelledData, config: FinetuneConfig, precision: PrecisionChoice, device: torch.device
) -> ScoredClips:
    """Merged scores of all labelled test clips; only the scores of the views are held in memory."""
    model.to(device).eval()
    reader = SubsetReader(data.test.reader)
    label_of = labels_of(reader)
    views = evaluation_views(config.n_windows, config.n_crops)
    scores: list[Tensor] = []
    clip_ids: list[str] = []
    bad: list[tuple[str, str]] = []
    for chosen in torch.split(torch.arange(len(reader)), max(1, BATCH_SIZE // len(views))):
        windows, ids, unread = read_views(reader, chosen.tolist(), data.transfer.config, data.modality, views)
        bad += unread
        clip_ids += ids
        if ids:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_autocast):
                scores.append(_merged(model, windows, device))
    n_classes = model.classifier.out_features
    by_head = {"finetuned": torch.cat(scores) if scores else torch.empty(0, n_classes)}
    labels = torch.tensor([label_of[name] for name in clip_ids], dtype=torch.int64)
    return ScoredClips(by_head, labels, tuple(clip_ids), tuple(bad))


def _merged(model: Recogniser, windows: list[PackedWindow], device: torch.device) -> Tensor:
    """Probabilities ``[n, classes]`` of the clips of ``windows``; a view without a token does not count."""
    scores, clip_idx, view_idx = [], [], []
    for number, window in enumerate(windows):
        rows = window.packed.is_valid.any(1)[window.rows].nonzero().squeeze(1)
        scores.append(model.scores(window.packed.to(device)).cpu()[window.rows[rows]])
        clip_idx.append(rows)
        view_idx.append(torch.full_like(rows, number))
    return merge_views(torch.cat(scores), torch.cat(clip_idx), torch.cat(view_idx)).probabilities
