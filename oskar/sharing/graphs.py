"""Encoders and heads as modules from plain tensors to plain tensors: what is exported.

A packed batch depends on which tokens a clip has, so no graph can be traced through it. Here every token of a clip
keeps its place, those that are missing are attended to by none, and the result is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import Config, Routing
from oskar.masking.packing import ModalityTokens
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.model.layers import allowed_pairs
from oskar.tasks.finetuning import Recogniser, mean_over_people
from oskar.tasks.pairs import mean_latents
from oskar.tasks.probes import LINEAR_GAIN
from oskar.tasks.recognition import FrozenHeads
from oskar.tokens import SkeletonTokens, TextTokens, TokenSource, VideoTokens

INPUTS: Mapping[Modality, tuple[str, ...]] = {
    "video": ("frames",),
    "skeleton": ("joints", "boxes"),
    "text": ("word_ids",),
}
TOKEN_OUTPUTS = ("tokens", "is_valid")


class EncoderGraph(nn.Module):
    """One encoder on all tokens of some modalities.

    Inputs in the order of ``INPUTS``: ``frames`` uint8 ``[B, T, 3, H, W]``, ``joints`` ``[B, S, T, 17, 3]``, ``boxes``
    ``[B, S, T, 4]``, ``word_ids`` int64 ``[B, n_words]`` with -1 after the end. Outputs: ``vector [B, D]``, the mean
    of the tokens that exist, ``tokens [B, L, D]`` and ``is_valid [B, L]``.
    """

    def __init__(
        self, config: Config, encoder: TokenEncoder, modalities: tuple[Modality, ...], routing: Routing
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.modalities, self.routing = config, encoder, modalities, routing

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens, is_valid = self.latents(inputs)
        return mean_latents(tokens, is_valid), tokens, is_valid

    def latents(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Latents ``[B, L, D]`` of all places and ``is_valid [B, L]``; where nothing is, they mean nothing."""
        parts, valid, segments = [], [], []
        for number, (name, source) in enumerate(self._sources(inputs).items()):
            parts.append(self._embed(name, source, inputs[0].shape[0]))
            valid.append(source.is_valid)
            segments.append(torch.where(source.is_valid, number, -1))
        x, is_valid, segment = torch.cat(parts, 1), torch.cat(valid, 1), torch.cat(segments, 1)
        x = x * is_valid[..., None]
        pairs = allowed_pairs(segment, segment, within_segment=self.routing == "modality")
        for block in self.encoder.blocks:
            x = block(x, pairs=pairs)
        latents: Tensor = self.encoder.norm(x)
        return latents, is_valid

    def _sources(self, inputs: tuple[Tensor, ...]) -> dict[Modality, TokenSource]:
        named = dict(zip((name for m in self.modalities for name in INPUTS[m]), inputs, strict=True))
        has = torch.ones(inputs[0].shape[0], dtype=torch.bool, device=inputs[0].device)
        tokens = self.config.tokens
        sources: dict[Modality, TokenSource] = {}
        for name in self.modalities:
            if name == "video":
                sources[name] = VideoTokens(named["frames"], has, tokens)
            elif name == "skeleton":
                sources[name] = SkeletonTokens(named["joints"], named["boxes"], has, tokens)
            else:
                sources[name] = TextTokens(named["word_ids"])
        return sources

    def _embed(self, name: Modality, source: TokenSource, n_clips: int) -> Tensor:
        """Content and position of every token of every clip, ``[B, N, D]``."""
        n_tokens = modality_specs(self.config.tokens)[name].n_tokens
        device = source.is_valid.device
        clip_idx = torch.arange(n_clips, device=device)[:, None].expand(n_clips, n_tokens).flatten()
        token_idx = torch.arange(n_tokens, device=device).expand(n_clips, n_tokens).flatten()
        values = source.take(clip_idx, token_idx)
        if name == "text":
            values = values.clamp_min(0)
        packed = ModalityTokens(values, token_idx, token_idx, source.boxes(clip_idx, token_idx), n_tokens)
        content = self.encoder.embedding.content[name](values)
        position = self.encoder.embedding.position.by_modality[name](packed)
        embedded: Tensor = content + position
        return embedded.view(n_clips, n_tokens, -1)


class ProjectedGraph(nn.Module):
    """A retrieval head: ``vector [B, width]``, unit vectors of the space that clips and sentences share."""

    def __init__(self, encoder: EncoderGraph, projection: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection

    def forward(self, *inputs: Tensor) -> Tensor:
        tokens, is_valid = self.encoder.latents(inputs)
        return F.normalize(self.projection(mean_latents(tokens, is_valid)), dim=1)


class RecogniserGraph(nn.Module):
    """A fine-tuned model: ``scores [B, classes]`` before the softmax."""

    def __init__(self, encoder: EncoderGraph, model: Recogniser) -> None:
        super().__init__()
        self.encoder, self.norm, self.classifier = encoder, model.norm, model.classifier
        self.n_positions, self.n_people = model.n_positions, model.n_people

    def forward(self, *inputs: Tensor) -> Tensor:
        tokens, is_valid = self.encoder.latents(inputs)
        person = torch.arange(tokens.shape[1], device=tokens.device) // self.n_positions
        pooled = mean_over_people(tokens, torch.where(is_valid, person, -1), self.n_people)
        scores: Tensor = self.classifier(self.norm(pooled))
        return scores


class ProbesGraph(nn.Module):
    """Heads on frozen features: ``scores_attentive`` and ``scores_linear`` ``[B, classes]``, before the softmax."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: EncoderGraph, heads: FrozenHeads) -> None:
        super().__init__()
        self.encoder, self.attentive, self.linear = encoder, heads.probes.attentive, heads.probes.linear
        self.register_buffer("mean", heads.bank.mean)
        self.register_buffer("std", heads.bank.std)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        tokens, is_valid = self.encoder.latents(inputs)
        mean = mean_latents(tokens, is_valid)
        std = mean_latents((tokens - mean[:, None]).square(), is_valid).sqrt()
        pooled = (torch.cat([mean, std], 1) - self.mean) / self.std
        return self.attentive(tokens, is_valid), LINEAR_GAIN * self.linear(pooled)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A module to export: its file's name, its inputs and outputs in order."""

    name: str
    module: nn.Module
    modalities: tuple[Modality, ...]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for modality in self.modalities for name in INPUTS[modality])


def example_inputs(config: Config, graph: Graph, n_clips: int, seed: int) -> tuple[Tensor, ...]:
    """Made clips: noise, half of it blank in some, people of whom joints are missing, sentences of different length."""
    tokens, generator = config.tokens, torch.Generator().manual_seed(seed)
    people = (n_clips, tokens.n_people, tokens.n_frames)
    side = tokens.resolution
    joints = torch.rand(*people, N_JOINTS, 3, generator=generator)
    corners = torch.rand(*people, 2, generator=generator) / 2
    size = torch.rand(*people, 2, generator=generator) / 2
    ids = torch.randint(0, tokens.vocabulary_size, (n_clips, tokens.n_words), generator=generator)
    length = torch.randint(1, tokens.n_words + 1, (n_clips, 1), generator=generator)
    frames = torch.randint(0, 256, (n_clips, tokens.n_frames, 3, side, side), dtype=torch.uint8, generator=generator)
    frames[::2, ..., : side // 2] = 90
    made = {
        "frames": frames,
        "joints": joints,
        "boxes": torch.cat([corners, corners + size], -1),
        "word_ids": torch.where(torch.arange(tokens.n_words) < length, ids, -1),
    }
    return tuple(made[name] for name in graph.inputs)
