"""Heads that answer questions, trained and asked: all variants of one evaluation by the same recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from oskar.data.question_reader import AskedClips, QuestionReader, QuestionTexts, QuestionWords
from oskar.data.questions import OpenedQuestions
from oskar.data.reader import ClipReader
from oskar.data.stream import MemoryStream, StepDataset, StepStream
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.settings import require
from oskar.tasks.answer_head import AnswerHead, LatentItems, Latents, QuestionAnswering, build_batch
from oskar.tasks.features import Features, encode_all, usable
from oskar.tasks.task import Backbone, FitConfig, Protocol, fit
from oskar.tasks.transfer import Transfer
from oskar.train.device import cpu_threads
from oskar.train.loop import BatchStream
from oskar.train.precision import PrecisionChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionAnsweringConfig(FitConfig):
    """How answers are learned.

    What is published for fine-tuning on the benchmarks lies around ``batch_size=128 lr=1e-4`` and 10 to 15 epochs,
    with the encoders at a fifth of the head's rate.
    """

    batch_size: int = 64
    encoder_lr_share: float = 0.2
    layer_decay: float = 0.8
    clip_norm: float | None = 5.0
    label_smoothing: float = 0.1
    n_layers: int = 2  # of the head's decoder
    max_words: int = 32
    n_answers: int | Literal["benchmark", "all"] = "benchmark"  # how many of the most frequent training answers

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        for name in ("n_layers", "max_words"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "use a share below 1")
        is_too_small = isinstance(self.n_answers, int) and self.n_answers < 1
        require(not is_too_small, "n_answers", self.n_answers, "use a positive number, benchmark or all")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a head sees, and whether its encoders start from random weights."""

    sees_clip: bool = True
    sees_question: bool = True
    is_random: bool = False

    def modalities(self, modality: Modality) -> tuple[Modality, ...]:
        names: tuple[Modality, ...] = (modality,) if self.sees_clip else ()
        return (*names, "text") if self.sees_question else names


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What all variants share; ``chosen`` are the training questions, ``answer_idx`` the places of their answers."""

    transfer: Transfer
    train: OpenedQuestions
    test: OpenedQuestions
    words: QuestionWords
    answers: tuple[str, ...]
    chosen: tuple[int, ...]
    answer_idx: tuple[int, ...]
    modality: Modality
    protocol: Protocol
    config: QuestionAnsweringConfig
    precision: PrecisionChoice
    device: torch.device

    def backbone(self, variant: Variant, *, is_trained: bool) -> Backbone:
        seed = self.config.seed if variant.is_random else None
        modalities = variant.modalities(self.modality)
        return Backbone(self.transfer, modalities, is_trained=is_trained, random_seed=seed)


@dataclass(slots=True)
class Answered:
    """The answers of every variant to every test question, None where it could not; clips not read, with a reason."""

    by_variant: dict[str, list[str | None]] = field(default_factory=dict)
    bad_train: dict[str, str] = field(default_factory=dict)
    bad_test: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Clips and distinct questions of one split, encoded once; the row of each question in both, None without one."""

    clips: Features | None
    texts: Features | None
    clip_row: tuple[int | None, ...]
    text_row: tuple[int | None, ...]

    def items(
        self, chosen: Sequence[int], answer_idx: Sequence[int], variant: Variant
    ) -> tuple[list[int], LatentItems]:
        """Those of the ``chosen`` questions that have what the variant sees, and their latents."""
        kept = [
            k
            for k, i in enumerate(chosen)
            if not (variant.sees_clip and self.clip_row[i] is None)
            and not (variant.sees_question and self.text_row[i] is None)
        ]
        clips = self.clips if variant.sees_clip else None
        texts = self.texts if variant.sees_question else None
        return [chosen[k] for k in kept], LatentItems(
            None if clips is None else Latents(clips.tokens, clips.is_valid),
            None if texts is None else Latents(texts.tokens, texts.is_valid),
            torch.tensor([self.clip_row[chosen[k]] or 0 for k in kept], dtype=torch.int64),
            torch.tensor([self.text_row[chosen[k]] or 0 for k in kept], dtype=torch.int64),
            torch.tensor([answer_idx[k] for k in kept], dtype=torch.int64),
        )


def answer_frozen(study: Study, variants: dict[str, Variant], folder: Path) -> Answered:
    """Encode every clip and question once by the run's encoders and by random ones; train heads on that."""
    result = Answered()
    backbones = [study.backbone(Variant(is_random=is_random), is_trained=False) for is_random in (False, True)]
    train, test = (encode(study, opened, backbones) for opened in (study.train, study.test))
    result.bad_train, result.bad_test = (
        bad_clips(study, o, e[0]) for o, e in ((study.train, train), (study.test, test))
    )
    float32 = PrecisionChoice(dtype=torch.float32, reason="heads are small")
    for name, variant in variants.items():
        _, items = train[variant.is_random].items(study.chosen, study.answer_idx, variant)
        if len(items) == 0:
            raise InputError(f"data {study.train.name}: no training question can be read", fix="repair its clips")
        config = replace(study.config, steps=study.config.n_steps(len(items)))
        stream = MemoryStream(
            len(items), items.batch, n_steps=config.steps, batch_size=config.batch_size, seed=config.seed
        )
        module, _ = _fitted(study, variant, stream, config, folder / name, float32)
        result.by_variant[name] = ask(study, module, variant, test[variant.is_random])
    return result


def answer_finetuned(study: Study, variants: dict[str, Variant], folder: Path) -> Answered:
    """Train encoders of its own along with every head, on clips read anew at every step."""
    result = Answered()
    config = replace(study.config, steps=study.config.n_steps(len(study.chosen)))
    for name, variant in variants.items():
        reader: ClipReader = QuestionReader(
            study.train, study.words, study.chosen, study.answer_idx, study.answers, is_clip_read=variant.sees_clip
        )
        if variant.sees_clip:
            reader = usable(reader, study.transfer.config, study.modality)
        build = partial(build_batch, study.transfer.config, study.modality, variant.sees_clip, variant.sees_question)
        dataset = StepDataset(
            reader, build, n_steps=config.steps, batch_size=config.batch_size, accumulation=1, seed=config.seed
        )
        with cpu_threads(config.workers):
            stream = StepStream(dataset, config.workers)
            module, bad = _fitted(study, variant, stream, config, folder / name, study.precision)
        (encoded,) = encode(study, study.test, [module.backbone])
        result.by_variant[name] = ask(study, module, variant, encoded)
        result.bad_train |= bad
        if encoded.clips is not None:
            result.bad_test |= bad_clips(study, study.test, encoded)
    result.bad_train |= _absent_clips(study.train, study.modality)
    return result


def _fitted(
    study: Study,
    variant: Variant,
    stream: BatchStream,
    config: QuestionAnsweringConfig,
    folder: Path,
    precision: PrecisionChoice,
) -> tuple[QuestionAnswering, dict[str, str]]:
    """A trained module, and the training clips it could not read. Frozen encoders are no part of it."""
    is_trained = study.protocol == "finetune"
    torch.manual_seed(study.config.seed)
    head = AnswerHead(
        study.transfer.config.model,
        len(study.answers),
        n_layers=study.config.n_layers,
        sees_clip=variant.sees_clip,
        sees_question=variant.sees_question,
    )
    backbone = (
        study.backbone(variant, is_trained=True) if is_trained else Backbone(study.transfer, (), is_trained=False)
    )
    module = QuestionAnswering(backbone, head, study.modality, study.config.label_smoothing)
    done = fit(
        module, stream, config, folder,
        precision=precision, device=study.device, bad_budget=len(study.train.reader),
    )  # fmt: skip
    return module.eval(), done.bad


def encode(study: Study, opened: OpenedQuestions, backbones: Sequence[Backbone]) -> list[Encoded]:
    """What each backbone makes of a split's clips and questions, as far as it has the encoders; all read once."""
    places = sorted({place for place in opened.clip_idx if place is not None})
    texts = list(dict.fromkeys(q.question for q in opened.questions if study.words.has_word(q.question)))
    number = {text: i for i, text in enumerate(texts)}
    clips = _encoded(study, study.modality, AskedClips(opened.reader, places), backbones)
    asked = _encoded(study, "text", QuestionTexts(texts, study.words), backbones)
    numbers = [number.get(question.question) for question in opened.questions]
    return [Encoded(c, t, _rows(c, opened.clip_idx), _rows(t, numbers)) for c, t in zip(clips, asked, strict=True)]


def _encoded(
    study: Study, modality: Modality, reader: ClipReader, backbones: Sequence[Backbone]
) -> Sequence[Features | None]:
    """Features of everything in a reader by every backbone; nothing is read where none has the encoder."""
    encoders = [backbone.encoder(modality) for backbone in backbones if modality in backbone.encoders]
    if not encoders:
        return [None] * len(backbones)
    return encode_all(
        encoders, reader, study.transfer.config, modality,
        n_windows=1, precision=study.precision, device=study.device,
    )  # fmt: skip


def _rows(features: Features | None, labels: Sequence[int | None]) -> tuple[int | None, ...]:
    """The row of each label in the features, None where there is none."""
    row_of = {} if features is None else {label: row for row, label in enumerate(features.labels.tolist())}
    return tuple(None if label is None else row_of.get(label) for label in labels)


@torch.no_grad()
def ask(study: Study, module: QuestionAnswering, variant: Variant, encoded: Encoded) -> list[str | None]:
    """The answer of highest score to every test question, None where what the variant sees is missing."""
    everything = range(len(study.test.questions))
    kept, items = encoded.items(everything, [0] * len(everything), variant)
    answers: list[str | None] = [None] * len(everything)
    for part in torch.split(torch.arange(len(kept)), study.config.batch_size):
        scores = module.scores(items.batch(part).to(study.device))
        for place, best in zip(part.tolist(), scores.argmax(1).tolist(), strict=True):
            answers[kept[place]] = study.answers[best]
    return answers


def bad_clips(study: Study, opened: OpenedQuestions, encoded: Encoded) -> dict[str, str]:
    """The asked clips that are not there or could not be read, with the reason."""
    return _absent_clips(opened, study.modality) | dict(encoded.clips.bad if encoded.clips is not None else ())


def _absent_clips(opened: OpenedQuestions, modality: Modality) -> dict[str, str]:
    asked = zip(opened.questions, opened.clip_idx, strict=True)
    return {question.clip_id: f"no {modality} is there" for question, place in asked if place is None}
