"""Clips to vectors: packing in a worker, then encoder, pooling and, where there is one, a retrieval head."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.clip import ClipBatch
from oskar.config import Config, Routing
from oskar.embedding.file import EmbeddingHeader, Pooling
from oskar.embedding.file import Source as SourceName
from oskar.errors import InputError
from oskar.masking.packing import PackedTokens, pack_everything
from oskar.modalities import Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.sharing.pretrained import Pretrained
from oskar.tasks.pairs import mean_latents
from oskar.tasks.retrieval_head import RetrievalHead
from oskar.tokens import TokenSource, token_sources
from oskar.train.precision import PrecisionChoice

TOKENS_AT_ONCE = 16_384
MOST_CLIPS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """What turns packed tokens of one modality, or of all fused, into vectors."""

    config: Config
    modality: SourceName
    pooling: Pooling
    module: TokenEncoder
    routing: Routing
    header: EmbeddingHeader
    head: RetrievalHead | None
    device: torch.device
    precision: PrecisionChoice

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one vector: ``(D,)``, or ``(L, D)`` of a grid."""
        width, n_places = self.header.width, self.header.n_tokens
        return (width,) if n_places is None else (n_places, width)

    @property
    def max_words(self) -> int:
        """How many words of a sentence are read: what the head learned on counts."""
        n_words = self.config.tokens.n_words
        return n_words if self.head is None else min(n_words, self.head.card.max_words)

    @property
    def clips_at_once(self) -> int:
        """Fixed for a run and modality, so that an interrupted job forms the same batches again."""
        return max(1, min(MOST_CLIPS_AT_ONCE, TOKENS_AT_ONCE // n_tokens(self.config, self.modality)))

    @torch.inference_mode()
    def __call__(self, packed: PackedTokens) -> tuple[Tensor, Tensor | None]:
        """Float32 vectors ``[B, D]``, or a grid ``[B, L, D]`` with ``is_valid [B, L]``, on the CPU."""
        packed = packed.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.is_autocast):
            latents = self.module(packed, self.routing)
        latents = latents.float()
        if self.head is not None:
            modality: Modality = "text" if self.modality == "text" else self.head.card.modality
            means = mean_latents(latents, packed.is_valid)
            return F.normalize(self.head.module.projections[modality](means), dim=1).cpu(), None
        if self.pooling == "tokens":
            grid, is_valid = token_grid(latents, packed, self.config, self.modality)
            return grid.cpu(), is_valid.cpu()
        return pool(latents, packed.is_valid, self.pooling).cpu(), None


def pool(latents: Tensor, is_valid: Tensor, pooling: Pooling) -> Tensor:
    """Float32 mean ``[B, D]`` over the valid tokens of ``[B, V, D]``, or mean and standard deviation ``[B, 2 D]``."""
    mean = mean_latents(latents, is_valid)
    if pooling == "mean":
        return mean
    return torch.cat([mean, mean_latents((latents.float() - mean[:, None]).square(), is_valid).sqrt()], 1)


def n_tokens(config: Config, modality: SourceName) -> int:
    """L, the places of a grid: all tokens of the modality, or of all modalities one after the other."""
    specs = modality_specs(config.tokens)
    return sum(spec.n_tokens for name, spec in specs.items() if modality in (name, "fused"))


def token_grid(latents: Tensor, packed: PackedTokens, config: Config, modality: SourceName) -> tuple[Tensor, Tensor]:
    """Latents ``[B, V, D]`` of slots at the places of their tokens, ``[B, L, D]``, zero where ``is_valid`` is False."""
    n_clips, n_slots, width = latents.shape
    n_places = n_tokens(config, modality)
    grid = latents.new_zeros(n_clips * n_places, width)
    is_valid = torch.zeros(n_clips * n_places, dtype=torch.bool, device=latents.device)
    first = 0
    for name, spec in modality_specs(config.tokens).items():
        if modality not in (name, "fused"):
            continue
        if name in packed.tokens:
            tokens = packed.tokens[name]
            places = tokens.slots // n_slots * n_places + first + tokens.token_idx
            grid[places] = latents.flatten(0, 1)[tokens.slots]
            is_valid[places] = True
        first += spec.n_tokens
    return grid.view(n_clips, n_places, width), is_valid.view(n_clips, n_places)


def pack(clips: ClipBatch, config: Config, modality: SourceName) -> tuple[PackedTokens | None, Tensor]:
    """All available tokens of the clips that have one, and bool ``[B]`` which those are."""
    is_usable = torch.zeros(len(clips), dtype=torch.bool)
    if clips.frames is None and clips.joints is None and clips.word_ids is None:
        return None, is_usable
    names = [name for name in modality_specs(config.tokens) if modality in (name, "fused")]
    sources = _sources(clips, config, names)
    for source in sources.values():
        is_usable |= source.is_valid.any(1)
    if not bool(is_usable.any()):
        return None, is_usable
    if not bool(is_usable.all()):
        sources = _sources(clips.rows(is_usable), config, names)
    return pack_everything(sources, modality_specs(config.tokens))[0], is_usable


def _sources(clips: ClipBatch, config: Config, names: list[Modality]) -> dict[Modality, TokenSource]:
    return {name: source for name, source in token_sources(clips, config.tokens).items() if name in names}


def build_encoder(
    pretrained: Pretrained,
    modality: SourceName,
    pooling: Pooling,
    head: RetrievalHead | None,
    folder: str | None,
    device: torch.device,
) -> Encoder:
    """The encoder of a modality, in float32 on a device, with the header of what it makes.

    Raises:
        InputError: a modality the run does not have, or a head that does not go with modality or pooling.
    """
    config = pretrained.config
    if head is not None:
        _require_fit(head, modality, pooling)
    if modality == "fused":
        module, sha256 = pretrained.fusion()
        routing: Routing = config.model.fusion_attention
    else:
        module, sha256 = pretrained.transfer.encoder(modality), pretrained.transfer.sha256
        routing = config.model.target_attention
    width = config.model.width * (2 if pooling == "mean+std" else 1)
    if head is not None:
        module = head.module.backbone.encoder("text" if modality == "text" else head.card.modality)
        width = head.card.width
    header = EmbeddingHeader(
        modality=modality,
        pooling=pooling,
        width=width,
        model_sha256=sha256,
        preprocessing_sha256=pretrained.preprocessing_sha256,
        head_sha256=None if head is None else head.sha256,
        folder=folder,
        n_tokens=n_tokens(config, modality) if pooling == "tokens" else None,
    )
    if head is not None:
        head.module.to(device)
    float32 = PrecisionChoice(dtype=torch.float32, reason="asked for")
    return Encoder(config, modality, pooling, module.to(device).eval(), routing, header, head, device, float32)


def _require_fit(head: RetrievalHead, modality: SourceName, pooling: Pooling) -> None:
    own = head.card.modality
    if modality not in (own, "text"):
        raise InputError(
            f"--head is of {own} and text, not of {modality}",
            fix=f"use --modality {own} or text, or leave out --head",
        )
    if pooling != "mean":
        raise InputError(f"--pool {pooling} with --head", fix="a head takes means: leave out --pool")
