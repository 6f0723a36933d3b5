"""The head that answers questions: a decoder whose queries are the question's tokens, and what it learns from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.clip import ClipBatch
from oskar.config import Config, ModelConfig
from oskar.masking.packing import PackedTokens, pack_everything
from oskar.modalities import Modality, modality_specs
from oskar.model.layers import GELUMLP, NORM_EPS, Attention, SwiGLU
from oskar.tasks.features import has_tokens
from oskar.tasks.task import Backbone, TaskModule
from oskar.tokens import token_sources


@dataclass(frozen=True, slots=True)
class Latents:
    """What an encoder made of some tokens: ``[n, L, D]``, of which ``is_valid`` bool ``[n, L]`` exist."""

    tokens: Tensor
    is_valid: Tensor

    def rows(self, idx: Tensor) -> "Latents":
        return Latents(self.tokens[idx], self.is_valid[idx])

    def to(self, device: torch.device) -> "Latents":
        return Latents(self.tokens.to(device).float(), self.is_valid.to(device))


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Items of a batch; clips or questions are None for a head that does not see them.

    Frozen encoders come as their latents, those that are trained as the tokens they encode.
    """

    clips: Latents | PackedTokens | None
    questions: Latents | PackedTokens | None
    answer_idx: Tensor

    @property
    def weight(self) -> float:
        return float(len(self.answer_idx))

    def __len__(self) -> int:
        return len(self.answer_idx)

    def to(self, device: torch.device) -> "QuestionBatch":
        clips = None if self.clips is None else self.clips.to(device)
        questions = None if self.questions is None else self.questions.to(device)
        return QuestionBatch(clips, questions, self.answer_idx.to(device))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention among the queries, cross-attention to a context that arrives normalised, and an MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(3))
        self.self_attention = Attention(width, config.n_heads, config.bias)
        self.cross_attention = Attention(width, config.n_heads, config.bias)
        self.mlp = SwiGLU(width, config.bias) if config.mlp == "swiglu" else GELUMLP(width, config.bias)

    def forward(self, x: Tensor, context: Tensor, own_pairs: Tensor, context_pairs: Tensor) -> Tensor:
        """``x`` ``[B, Q, D]`` over ``context`` ``[B, V, D]``; pairs bool ``[B, 1, 1, keys]``: which keys exist."""
        x = x + self.self_attention(self.norm_self(x), pairs=own_pairs)
        x = x + self.cross_attention(self.norm_cross(x), context, context_pairs)
        output: Tensor = x + self.mlp(self.norm_mlp(x))
        return output


class AnswerHead(nn.Module):
    """Scores of the answers from the tokens of a clip and of a question.

    Question tokens are the queries of a decoder over the clip's; their mean goes through
    Linear(D, 2 D), GELU, LayerNorm, Linear(2 D, answers). A head that does not see clips, or questions, has
    one learned token in their place and is otherwise the same. Weights start as those of torch's linear layers,
    whose spread falls with the width: at small widths a fixed 0.02 leaves a head blind for a hundred steps.
    """

    def __init__(
        self, config: ModelConfig, n_answers: int, *, n_layers: int, sees_clip: bool, sees_question: bool
    ) -> None:
        super().__init__()
        width = config.width
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(n_layers))
        hidden = 2 * width
        self.answer = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=NORM_EPS), nn.Linear(hidden, n_answers)
        )
        self.clip_query = None if sees_clip else nn.Parameter(torch.randn(width))
        self.question_query = None if sees_question else nn.Parameter(torch.randn(width))

    def forward(self, clips: Latents | None, questions: Latents | None, n: int) -> Tensor:
        """Scores ``[n, answers]``; what the head does not see is None."""
        context = _given(clips, self.clip_query, n)
        queries = _given(questions, self.question_query, n)
        x = queries.tokens
        own_pairs, context_pairs = _keys(queries.is_valid), _keys(context.is_valid)
        for layer in self.layers:
            x = layer(x, context.tokens, own_pairs, context_pairs)
        is_real = queries.is_valid[..., None]
        mean = (x * is_real).sum(1) / is_real.sum(1).clamp_min(1)
        scores: Tensor = self.answer(mean)
        return scores


def _given(latents: Latents | None, learned: Tensor | None, n: int) -> Latents:
    if latents is not None and learned is None:
        return latents
    assert latents is None
    assert learned is not None
    return Latents(learned.expand(n, 1, -1), torch.ones(n, 1, dtype=torch.bool, device=learned.device))


def _keys(is_valid: Tensor) -> Tensor:
    """Which keys every query sees; a row without any sees all, since an empty softmax has no value."""
    return (is_valid | ~is_valid.any(1, keepdim=True))[:, None, None]


class QuestionAnswering(TaskModule):
    """Backbone and head under cross-entropy with label smoothing."""

    def __init__(self, backbone: Backbone, head: AnswerHead, modality: Modality, label_smoothing: float) -> None:
        super().__init__(backbone)
        self.head, self.modality, self.label_smoothing = head, modality, label_smoothing

    def forward(self, batch: QuestionBatch) -> dict[str, Tensor]:
        scores = self.scores(batch)
        loss = F.cross_entropy(scores, batch.answer_idx, label_smoothing=self.label_smoothing)
        return {"loss": loss, "accuracy": (scores.argmax(1) == batch.answer_idx).float().mean()}

    def scores(self, batch: QuestionBatch) -> Tensor:
        """Scores ``[B, answers]`` of a batch on the module's device."""
        clips, questions = self._latents(self.modality, batch.clips), self._latents("text", batch.questions)
        scores: Tensor = self.head(clips, questions, len(batch))
        return scores

    def _latents(self, modality: Modality, tokens: Latents | PackedTokens | None) -> Latents | None:
        if not isinstance(tokens, PackedTokens):
            return tokens
        return Latents(self.backbone(modality, tokens), tokens.is_valid)


def build_batch(
    config: Config, modality: Modality, sees_clip: bool, sees_question: bool, items: ClipBatch, step: int
) -> QuestionBatch:
    """What the module sees of the items of a step; an item whose clip has no usable token is left out."""
    specs = modality_specs(config.tokens)
    if sees_clip:
        is_usable = has_tokens(items, config, modality)
        if not bool(is_usable.any()):
            return QuestionBatch(None, None, items.labels[:0])
        items = items.rows(is_usable)
    sources = token_sources(items, config.tokens)
    clips = pack_everything({modality: sources[modality]}, specs)[0] if sees_clip else None
    questions = pack_everything({"text": sources["text"]}, specs)[0] if sees_question else None
    return QuestionBatch(clips, questions, items.labels)


@dataclass(frozen=True, slots=True)
class LatentItems:
    """Items whose clips and questions were encoded once; ``clip_row`` and ``question_row`` point into the latents."""

    clips: Latents | None
    questions: Latents | None
    clip_row: Tensor
    question_row: Tensor
    answer_idx: Tensor

    def __len__(self) -> int:
        return len(self.answer_idx)

    def batch(self, chosen: Tensor, step: int = 0) -> QuestionBatch:
        """The items ``chosen``, the same at every step."""
        clips = None if self.clips is None else self.clips.rows(self.clip_row[chosen])
        questions = None if self.questions is None else self.questions.rows(self.question_row[chosen])
        return QuestionBatch(clips, questions, self.answer_idx[chosen])
