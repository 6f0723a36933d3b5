"""Text-video and text-skeleton retrieval by two projections of mean latents, beside random weights and chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oskar.data.stream import MemoryStream, StepDataset, StepStream
from oskar.errors import InputError
from oskar.metrics.retrieval_controls import expected_of_chance, sentence_ceiling
from oskar.modalities import Modality
from oskar.randomness import hash_id
from oskar.tasks.dual_encoder import DualEncoder
from oskar.tasks.pairs import (
    ClipMeans,
    MeanPairs,
    PairBuilder,
    SentenceDraw,
    clip_means,
    text_means,
)
from oskar.tasks.ranked import Queries, flat, rank, rank_by_dual_softmax, write_predictions
from oskar.tasks.retrieval_data import CaptionedSide, RetrievalConfig, open_sides
from oskar.tasks.retrieval_head import RetrievalCard, save_retrieval_head
from oskar.tasks.saved_head import HEADS_FOLDER
from oskar.tasks.task import Backbone, Evaluation, Protocol, fit
from oskar.tasks.transfer import Transfer, load_transfer
from oskar.train.device import choose_device
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import prepare_run_folder, write_json_atomic

TASK = "text-video-retrieval"


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
    train: CaptionedSide
    test: CaptionedSide
    out: Path
    precision: PrecisionChoice
    device: torch.device

    def backbone(self, random_seed: int | None) -> Backbone:
        names: tuple[Modality, ...] = (self.modality, "text")
        is_trained = self.protocol == "finetune"
        return Backbone(self.transfer, names, is_trained=is_trained, random_seed=random_seed).to(self.device)

    def clip_means(self, backbones: Sequence[Backbone], side: CaptionedSide) -> ClipMeans:
        reader = side.clips.reader
        return clip_means(
            backbones, reader, self.transfer.config, self.modality, precision=self.precision, device=self.device
        )

    def text_means(self, backbones: Sequence[Backbone], side: CaptionedSide) -> tuple[Tensor, ...]:
        word_ids = side.sentences.word_ids
        return text_means(backbones, word_ids, self.transfer.config, precision=self.precision, device=self.device)

    def draw(self) -> SentenceDraw:
        return SentenceDraw.of(self.train.sentences, self.train.ids, self.config.seed)

    def new_module(self, backbone: Backbone) -> DualEncoder:
        """Projections start alike whatever the backbone."""
        torch.manual_seed(self.config.seed)
        return DualEncoder(backbone, self.modality, self.config.width)

    def save_head(self, name: str, module: DualEncoder) -> None:
        card = RetrievalCard(
            modality=self.modality,
            protocol=self.protocol,
            width=self.config.width,
            max_words=self.config.max_words,
            data=self.train.clips.names,
            data_sha256=self.train.clips.sha256,
            checkpoint_sha256=self.transfer.sha256,
            seed=self.config.seed,
            settings=asdict(self.config),
        )
        save_retrieval_head(self.out, name, module, card)


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
    prepare_run_folder(out, resume=False)
    train, test = open_sides(data, transfer, modality, config)
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
        pairs = MeanPairs(
            clip_means=train_clips.by_encoder[i][is_read],
            text_means=train_texts[i],
            clip_ids=torch.tensor([hash_id(clip_id) for clip_id in job.train.ids])[is_read],
            draw=job.draw(),
        )
        config = job.config
        stream = MemoryStream(
            len(pairs), pairs.batch, n_steps=config.steps, batch_size=config.batch_size, seed=config.seed
        )
        fit(module, stream, job.config, job.out / HEADS_FOLDER / name, precision=float32, device=job.device)
        job.save_head(name, module)
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
            module, stream, job.config, job.out / HEADS_FOLDER / name,
            precision=job.precision, device=job.device, bad_budget=len(reader),
        )  # fmt: skip
        job.save_head(name, module)
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
            "n_distinct_captions": len(test.sentences),
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
