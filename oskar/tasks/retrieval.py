"""Text-video and text-skeleton retrieval by two projections of mean latents, beside random weights and chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oskar.config import Config
from oskar.data.captioned import CaptionedClips, CaptionedSplit, WhichCaptions, open_captioned, open_official
from oskar.data.formats.caption_files import CaptionFilesConfig
from oskar.data.stream import StepDataset, StepStream
from oskar.errors import InputError
from oskar.metrics.retrieval_controls import expected_of_chance, sentence_ceiling
from oskar.modalities import Modality
from oskar.randomness import hash_id
from oskar.settings import require
from oskar.tasks.dual_encoder import DualEncoder
from oskar.tasks.pairs import (
    ClipMeans,
    MeansStream,
    PairBuilder,
    SentenceDraw,
    Sentences,
    clip_means,
    number_sentences,
    text_means,
)
from oskar.tasks.ranked import Queries, flat, rank, rank_by_dual_softmax, write_predictions
from oskar.tasks.task import Backbone, Evaluation, FitConfig, Protocol, fit
from oskar.tasks.transfer import Transfer, load_transfer, require_modality
from oskar.tokens.words import Words
from oskar.train.device import choose_device
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import prepare_run_folder, write_json_atomic

TASK = "text-video-retrieval"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalConfig(FitConfig):
    """How the projections, and in fine-tuning the encoders, learn; defaults are for small data.

    For the published sizes: ``lr=5e-5 batch_size=256`` and the steps of 20 epochs.
    """

    batch_size: int = 64
    layer_decay: float = 0.8
    warmup_share: float = 0.1
    width: int = 512  # of the common space
    max_words: int = 32  # of a caption; VATEX: 64
    crop_scale: tuple[float, float] = (0.5, 1.0)  # fine-tuning: share of a training clip's picture
    captions: WhichCaptions = "written"
    test_subjects: tuple[str, ...] = ()  # their clips are the test split, for data without splits
    files: CaptionFilesConfig = field(default_factory=CaptionFilesConfig)
    dual_softmax_temperature: float = 100.0  # of the column of its own

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        for name in ("width", "max_words", "dual_softmax_temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "crop_scale", (low, high), "give two shares, the smaller first")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Side:
    """The clips of one split with their numbered sentences."""

    clips: CaptionedClips
    ids: Sequence[str]
    sentences: Sentences

    def own(self) -> tuple[Tensor, Tensor]:
        """Of every caption its clip and its sentence, int64 ``[captions]`` both."""
        pairs = [(i, number) for i, numbers in enumerate(self.sentences.of_clip) for number in numbers]
        clip, sentence = torch.tensor(pairs).unbind(1)
        return clip, sentence


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Similarities ``[captions, clips]`` of the test side, -inf in the columns of clips that could not be read."""

    similarity: Tensor
    bad: dict[str, str]
    bad_train: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """What every part of one evaluation knows."""

    transfer: Transfer
    modality: Modality
    protocol: Protocol
    config: RetrievalConfig
    train: _Side
    test: _Side
    out: Path
    precision: PrecisionChoice
    device: torch.device

    def backbone(self, random_seed: int | None) -> Backbone:
        names: tuple[Modality, ...] = (self.modality, "text")
        is_trained = self.protocol == "finetune"
        return Backbone(self.transfer, names, is_trained=is_trained, random_seed=random_seed).to(self.device)

    def clip_means(self, backbones: Sequence[Backbone], side: _Side) -> ClipMeans:
        reader = side.clips.reader
        return clip_means(
            backbones, reader, self.transfer.config, self.modality, precision=self.precision, device=self.device
        )

    def text_means(self, backbones: Sequence[Backbone], side: _Side) -> tuple[Tensor, ...]:
        word_ids = side.sentences.word_ids
        return text_means(backbones, word_ids, self.transfer.config, precision=self.precision, device=self.device)

    def draw(self) -> SentenceDraw:
        return SentenceDraw.of(self.train.sentences, self.train.ids, self.config.seed)

    def new_module(self, backbone: Backbone) -> DualEncoder:
        """Projections start alike whatever the backbone."""
        torch.manual_seed(self.config.seed)
        return DualEncoder(backbone, self.modality, self.config.width)


def evaluate_retrieval(
    run: Path, data: list[str], modality: Modality, out: Path, config: RetrievalConfig, protocol: Protocol
) -> dict[str, Any]:
    """Learn to retrieve clips by captions and captions by clips; writes and returns ``summary.json``.

    Also writes ``predictions.csv``, one row per query with its rank and its ten best. Clips are shown whole, by
    frames evenly over all of them. A test clip that cannot be read is wrong in all its queries and is listed; a
    training clip is left out and listed.

    Raises:
        InputError: wrong run, data, split, files or modality; fewer than two training clips to tell apart.
    """
    transfer = load_transfer(run)
    words = _require_text(transfer, modality)
    prepare_run_folder(out, resume=False)
    opened = _open(data, _what_is_read(transfer.config, modality, config), modality, config)
    train, test = (_side(clips, words, transfer.config, config) for clips in opened)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    job = _Job(
        transfer=transfer, modality=modality, protocol=protocol, config=config, train=train, test=test, out=out,
        precision=precision, device=device,
    )  # fmt: skip
    scored = _frozen(job) if protocol == "frozen" else _fine_tuned(job)
    own, _ = test.own()
    captions = [text for texts in test.clips.captions for text in texts]
    queries = Queries(clip_ids=test.ids, captions=captions, own=own, bad=scored["pretrained"].bad)
    write_predictions(out / "predictions.csv", {name: s.similarity for name, s in scored.items()}, queries)
    summary = _evaluation(job, scored).to_json()
    write_json_atomic(out / "summary.json", summary)
    return summary


def _require_text(transfer: Transfer, modality: Modality) -> Words:
    require_modality(transfer.config, modality)
    if "text" not in transfer.config.tokens.modalities or transfer.words is None:
        raise InputError(
            "the run was pretrained without text: it has no words to read captions with",
            fix="pretrain with text among tokens.modalities, on data with captions",
        )
    return transfer.words


def _what_is_read(config: Config, modality: Modality, task: RetrievalConfig) -> Config:
    """No file but those of the modality is read (joints lie on their video's frame); clips whole, never mirrored."""
    names: tuple[Modality, ...] = ("video",) if modality == "video" else ("video", modality)
    kept = tuple(name for name in names if name in config.tokens.modalities)
    clip = replace(
        config.clip, temporal="span", span_share=(1.0, 1.0), crop_scale=task.crop_scale, flip_probability=0.0
    )
    return replace(config, tokens=replace(config.tokens, modalities=kept), clip=clip)


def _open(
    data: list[str], read: Config, modality: Modality, config: RetrievalConfig
) -> tuple[CaptionedClips, CaptionedClips]:
    if config.files.benchmark is None:
        named = [name for name, path in asdict(config.files).items() if path is not None]
        require(not named, "files.benchmark", None, f"files.{''.join(named[:1])} needs msrvtt, msvd or vatex")
    elif modality != "video" or config.split != "test" or config.test_subjects:
        raise InputError(
            f"files.benchmark={config.files.benchmark} with modality={modality}, split={config.split}, "
            f"test_subjects={list(config.test_subjects)}",
            fix="its files say what is tested, and have videos alone: leave these out",
        )
    else:
        return open_official(data, read, config.files)
    if config.split == read.data.split and not config.test_subjects:
        raise InputError(f"split = {config.split!r} is what the projections learn on", fix="test on another split")
    train, test = (
        CaptionedSplit(split=split, is_test=is_test, captions=config.captions, test_subjects=config.test_subjects)
        for split, is_test in ((read.data.split, False), (config.split, True))
    )
    return open_captioned(data, read, modality, train), open_captioned(data, read, modality, test)


def _side(clips: CaptionedClips, words: Words, config: Config, task: RetrievalConfig) -> _Side:
    ids = clips.ids
    sentences = number_sentences(clips.captions, ids, words, n_words=config.tokens.n_words, max_words=task.max_words)
    return _Side(clips=clips, ids=ids, sentences=sentences)


def _frozen(job: _Job) -> dict[str, _Scored]:
    """Every clip is read and encoded once; the projections learn on means."""
    backbones = {"pretrained": job.backbone(None), "random": job.backbone(job.config.seed)}
    sides = (job.train, job.test)
    train_clips, test_clips = (job.clip_means(list(backbones.values()), side) for side in sides)
    train_texts, test_texts = (job.text_means(list(backbones.values()), side) for side in sides)
    is_read = train_clips.is_read
    _require_two(int(is_read.sum()), job)
    scored = {}
    float32 = PrecisionChoice(dtype=torch.float32, reason="projections are small")
    for i, (name, backbone) in enumerate(backbones.items()):
        module = job.new_module(backbone)
        stream = MeansStream(
            clip_means=train_clips.by_encoder[i][is_read],
            text_means=train_texts[i],
            clip_ids=torch.tensor([hash_id(clip_id) for clip_id in job.train.ids])[is_read],
            draw=job.draw(),
            n_steps=job.config.steps,
            batch_size=job.config.batch_size,
            seed=job.config.seed,
        )
        fit(module, stream, job.config, job.out / "heads" / name, precision=float32, device=job.device)
        means = ClipMeans((test_clips.by_encoder[i],), test_clips.is_read, test_clips.bad)
        scored[name] = _score(job, module, means, test_texts[i], dict(train_clips.bad))
    return scored


def _fine_tuned(job: _Job) -> dict[str, _Scored]:
    """The encoders learn along on random crops."""
    reader = job.train.clips.reader
    _require_two(len(reader), job)
    scored = {}
    for name, random_seed in (("pretrained", None), ("random", job.config.seed)):
        module = job.new_module(job.backbone(random_seed))
        build = PairBuilder(job.transfer.config, job.modality, job.train.sentences.word_ids, job.draw())
        dataset = StepDataset(
            reader,
            build,
            n_steps=job.config.steps,
            batch_size=min(job.config.batch_size, len(reader)),
            accumulation=1,
            seed=job.config.seed,
        )
        stream = StepStream(dataset, job.config.workers)
        done = fit(
            module, stream, job.config, job.out / "heads" / name,
            precision=job.precision, device=job.device, bad_budget=len(reader),
        )  # fmt: skip
        module.eval()
        (texts,) = job.text_means([module.backbone], job.test)
        scored[name] = _score(job, module, job.clip_means([module.backbone], job.test), texts, done.bad)
    return scored


def _require_two(n_clips: int, job: _Job) -> None:
    if n_clips < 2:
        raise InputError(
            f"{n_clips} training clips of {', '.join(job.train.clips.names)} can be read: nothing to tell apart",
            fix="use data with more clips in the training split",
        )


@torch.no_grad()
def _score(job: _Job, module: DualEncoder, clips: ClipMeans, texts: Tensor, bad_train: dict[str, str]) -> _Scored:
    """Float64 products rounded to float32, so that equal vectors give equal similarities wherever they stand."""
    module.eval()
    (means,) = clips.by_encoder

    def embed(modality: Modality, rows: Tensor) -> Tensor:
        return torch.cat(
            [module.embed(modality, some.to(job.device)).cpu() for some in torch.split(rows, 1024)]
        ).double()

    of_sentence = (embed("text", texts) @ embed(job.modality, means).T).float()
    of_sentence[:, ~clips.is_read] = -torch.inf
    _, sentence = job.test.own()
    return _Scored(of_sentence[sentence], dict(clips.bad), bad_train)


def _evaluation(job: _Job, scored: dict[str, _Scored]) -> Evaluation:
    test, config = job.test, job.config
    own, sentence = test.own()
    ranks = {name: rank(s.similarity, own) for name, s in scored.items()}
    result = scored["pretrained"]
    reranked = rank_by_dual_softmax(result.similarity, own, config.dual_softmax_temperature)
    n_clips_of = Counter(number for numbers in test.sentences.of_clip for number in set(numbers))
    return Evaluation(
        task=TASK,
        modality=job.modality,
        protocol=job.protocol,
        data=test.clips.names,
        split=config.split,
        n_expected=len(test.ids) + len(test.clips.missing),
        n_found=len(test.ids),
        n_evaluated=len(test.ids) - len(result.bad),
        metrics=flat(ranks["pretrained"].metrics()),
        controls={
            "chance": flat(expected_of_chance(own)),
            "random_weights": flat(ranks["random"].metrics()),
            "ceiling_of_equal_sentences": sentence_ceiling(sentence, own),
        },
        recipe=job.transfer.config.recipe,
        seed=config.seed,
        checkpoint_sha256=job.transfer.sha256,
        data_sha256=test.clips.sha256,
        bad_clips=result.bad,
        protocol_facts={
            "rerank_dual_softmax": flat(reranked.metrics()),
            "n_captions": len(own),
            "n_distinct_captions": len(test.sentences.texts),
            "n_captions_of_several_clips": sum(n_clips_of[number] > 1 for number in sentence.tolist()),
            "n_left_out": test.clips.n_left_out,
            "missing_clips": list(test.clips.missing),
            "n_train": len(job.train.ids),
            "train_sha256": job.train.clips.sha256,
            "missing_train_clips": list(job.train.clips.missing),
            "bad_train_clips": result.bad_train,
            "selection": "last step",
            "views": "one: frames evenly over the whole clip, centre crop",
            "settings": asdict(config),
        },
    )


__all__ = ["TASK", "RetrievalConfig", "evaluate_retrieval"]
