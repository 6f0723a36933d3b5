"""Clips and captions as pairs: distinct sentences, batches to train on, mean latents of frozen encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.reader import ClipReader, EvaluationWindow
from oskar.errors import InputError
from oskar.masking.packing import PackedTokens
from oskar.modalities import Modality
from oskar.progress import Progress
from oskar.randomness import clip_keys, hash_id, uniform64
from oskar.tasks.features import has_tokens, tokens_of
from oskar.tasks.task import Backbone
from oskar.tokens.words import Words
from oskar.train.precision import PrecisionChoice

_CLIPS_AT_ONCE, _SENTENCES_AT_ONCE = 32, 256
_SENTENCE_STREAM = 9101


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """The captions of some clips, numbered: two that the encoder reads alike are one sentence.

    ``of_clip[i]`` numbers those of clip i, repetitions included; ``word_ids`` int64 ``[n, n_words]``, -1 after the end.
    """

    of_clip: tuple[tuple[int, ...], ...]
    word_ids: Tensor

    def __len__(self) -> int:
        return len(self.word_ids)


def number_sentences(
    captions: Sequence[Sequence[str]], clip_ids: Sequence[str], words: Words, *, n_words: int, max_words: int
) -> Sentences:
    """Encode captions, cut to ``max_words``, and number them in the order they appear.

    Raises:
        InputError: a caption that holds no word, naming its clip.
    """
    ids_of: dict[str, tuple[int, ...]] = {}
    for clip_id, texts in zip(clip_ids, captions, strict=True):
        for text in texts:
            if text not in ids_of:
                ids_of[text] = tuple(_encoded(text, clip_id, words, min(max_words, n_words)).tolist())
    number_of = {ids: i for i, ids in enumerate(dict.fromkeys(ids_of.values()))}
    word_ids = torch.tensor([ids + (-1,) * (n_words - len(ids)) for ids in number_of])
    return Sentences(tuple(tuple(number_of[ids_of[text]] for text in texts) for texts in captions), word_ids)


def _encoded(text: str, clip_id: str, words: Words, max_words: int) -> Tensor:
    try:
        return words.encode(text, max_words)
    except InputError as error:
        raise InputError(f"clip {clip_id}: {error}", fix="correct the caption where the clip is listed") from error


@dataclass(frozen=True, slots=True, eq=False)
class PairBatch:
    """Row i of clips and texts is one pair; ``sentence_idx [B]`` is equal where the sentences are.

    Either side is packed tokens, or the mean latents ``[B, D]`` that a frozen encoder gave of them.
    """

    clips: PackedTokens | Tensor
    texts: PackedTokens | Tensor
    sentence_idx: Tensor

    def __len__(self) -> int:
        return len(self.sentence_idx)

    @property
    def weight(self) -> float:
        return float(len(self))

    def to(self, device: torch.device) -> "PairBatch":
        return PairBatch(self.clips.to(device), self.texts.to(device), self.sentence_idx.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class SentenceDraw:
    """Draws a sentence for each clip of a step, from (seed, step, clip id) alone: a clip has one per batch."""

    of_clip: Mapping[int, tuple[int, ...]]  # by hashed clip id
    seed: int

    @classmethod
    def of(cls, sentences: Sentences, clip_ids: Sequence[str], seed: int) -> "SentenceDraw":
        return cls(dict(zip(map(hash_id, clip_ids), sentences.of_clip, strict=True)), seed)

    def __call__(self, clip_ids: Tensor, step: int) -> Tensor:
        """Sentence numbers int64 ``[B]`` of hashed clip ids ``[B]``."""
        shares = uniform64(clip_keys(self.seed, step, clip_ids), _SENTENCE_STREAM).tolist()
        own = [self.of_clip[name] for name in clip_ids.tolist()]
        return torch.tensor([numbers[int(u * len(numbers))] for numbers, u in zip(own, shares, strict=True)])


@dataclass(frozen=True, slots=True, eq=False)
class PairBuilder:
    """From the clips of a step to pairs of tokens; clips without a usable token are left out."""

    config: Config  # with text among its modalities
    modality: Modality
    word_ids: Tensor
    draw: SentenceDraw

    def __call__(self, clips: ClipBatch, step: int) -> PairBatch:
        is_usable = has_tokens(clips, self.config, self.modality)
        if not is_usable.any():
            return PairBatch(torch.empty(0), torch.empty(0), torch.empty(0))
        kept = clips.rows(is_usable)
        numbers = self.draw(kept.clip_ids, step)
        texts = pack_sentences(self.word_ids[numbers], self.config)
        return PairBatch(tokens_of(kept, self.config, self.modality), texts, numbers)


def pack_sentences(word_ids: Tensor, config: Config) -> PackedTokens:
    """Sentences ``[n, n_words]`` as an encoder sees them."""
    n = torch.zeros(len(word_ids), dtype=torch.int64)
    return tokens_of(ClipBatch(clip_ids=n, labels=n, word_ids=word_ids), config, "text")


@dataclass(frozen=True, slots=True, eq=False)
class MeanPairs:
    """Cached means ``[n, D]`` of clips and sentences, to take batches of pairs from."""

    clip_means: Tensor
    text_means: Tensor
    clip_ids: Tensor
    draw: SentenceDraw

    def __len__(self) -> int:
        return len(self.clip_ids)

    def batch(self, chosen: Tensor, step: int) -> PairBatch:
        numbers = self.draw(self.clip_ids[chosen], step)
        return PairBatch(self.clip_means[chosen], self.text_means[numbers], numbers)


def mean_latents(latents: Tensor, is_valid: Tensor) -> Tensor:
    """Float32 mean ``[B, D]`` of the valid ones of ``latents [B, V, D]``."""
    weights = is_valid.float() / is_valid.sum(1, keepdim=True).clamp_min(1)
    return torch.einsum("bvd,bv->bd", latents.float(), weights)


@dataclass(frozen=True, slots=True)
class ClipMeans:
    """Mean latents ``[n, D]`` of a reader's clips by each encoder, 0 where ``is_read`` is False."""

    by_encoder: tuple[Tensor, ...]
    is_read: Tensor
    bad: Mapping[str, str]


@torch.no_grad()
def clip_means(
    backbones: Sequence[Backbone],
    reader: ClipReader,
    config: Config,
    modality: Modality,
    *,
    precision: PrecisionChoice,
    device: torch.device,
) -> ClipMeans:
    """Read every clip once, whole, and encode it by each backbone; what cannot be read is listed in ``bad``."""
    means = [torch.zeros(len(reader), config.model.width) for _ in backbones]
    is_read = torch.zeros(len(reader), dtype=torch.bool)
    bad: dict[str, str] = {}
    with Progress(len(reader), unit="clips") as progress:
        for chosen in torch.split(torch.arange(len(reader)), _CLIPS_AT_ONCE):
            read = reader.read(chosen.tolist(), EvaluationWindow())
            bad |= dict(read.bad)
            progress.advance(0.0, len(chosen))
            if read.clips is None:
                continue
            place_of = {hash_id(reader.clip_id(i)): i for i in chosen.tolist()}
            places = torch.tensor([place_of[name] for name in read.clips.clip_ids.tolist()])
            is_usable = has_tokens(read.clips, config, modality)
            bad |= {reader.clip_id(i): f"no usable token of {modality}" for i in places[~is_usable].tolist()}
            if not is_usable.any():
                continue
            is_read[places[is_usable]] = True
            packed = tokens_of(read.clips.rows(is_usable), config, modality).to(device)
            for backbone, kept in zip(backbones, means, strict=True):
                kept[places[is_usable]] = _encode(backbone, modality, packed, precision, device)
    return ClipMeans(tuple(means), is_read, bad)


@torch.no_grad()
def text_means(
    backbones: Sequence[Backbone], word_ids: Tensor, config: Config, *, precision: PrecisionChoice, device: torch.device
) -> tuple[Tensor, ...]:
    """Mean latents ``[n, D]`` of sentences by each backbone."""
    parts: list[list[Tensor]] = [[] for _ in backbones]
    for some in torch.split(word_ids, _SENTENCES_AT_ONCE):
        packed = pack_sentences(some, config).to(device)
        for backbone, kept in zip(backbones, parts, strict=True):
            kept.append(_encode(backbone, "text", packed, precision, device))
    return tuple(torch.cat(kept) for kept in parts)


def _encode(
    backbone: Backbone, modality: Modality, packed: PackedTokens, precision: PrecisionChoice, device: torch.device
) -> Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_autocast):
        return mean_latents(backbone(modality, packed), packed.is_valid).cpu()
