"""Frozen features: every clip's tokens through an encoder, once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.reader import ClipReader, EvaluationWindow
from oskar.masking.packing import PackedTokens, pack_everything
from oskar.modalities import Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.tokens import token_sources
from oskar.train.precision import PrecisionChoice
from oskar.train.progress import Progress

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Features:
    """Latents ``[n, L, D]`` (bfloat16) of n clips, the tokens of all windows one after the other.

    ``is_valid`` bool ``[n, L]``; ``labels`` int64 ``[n]``; ``clip_ids`` and ``bad`` (clip id, reason)
    name the clips that were and could not be read.
    """

    tokens: Tensor
    is_valid: Tensor
    labels: Tensor
    clip_ids: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.labels)

    def pooled(self) -> Tensor:
        """Mean over the valid tokens, float32 ``[n, D]``."""
        weights = self.is_valid.float()
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1)
        return torch.stack([w @ t.float() for w, t in zip(weights, self.tokens, strict=True)])


def tokens_of(clips: ClipBatch, config: Config, modality: Modality) -> PackedTokens:
    """All available tokens of one modality, packed as the target encoders see them in transfer."""
    sources = {name: s for name, s in token_sources(clips, config.tokens).items() if name == modality}
    packed, _ = pack_everything(sources, modality_specs(config.tokens))
    return packed


@torch.no_grad()
def encode_all(
    encoders: list[TokenEncoder],
    reader: ClipReader,
    config: Config,
    modality: Modality,
    *,
    n_windows: int,
    precision: PrecisionChoice,
    device: torch.device,
) -> list[Features]:
    """Features of all labelled clips of a reader by every encoder; each clip is read once.

    A clip that cannot be read is listed in ``bad``. Windows of one clip are encoded alone and their
    tokens put one after the other, as the V-JEPA probe does.
    """
    indices = [i for i in range(len(reader)) if reader.label(i) >= 0]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in encoders]
    labels: list[Tensor] = []
    clip_ids: list[str] = []
    bad: list[tuple[str, str]] = []
    encoders = [encoder.to(device) for encoder in encoders]
    with Progress(len(indices), unit="clips") as progress:
        for start in range(0, len(indices), BATCH_SIZE):
            chosen = indices[start : start + BATCH_SIZE]
            reads = [reader.read(chosen, EvaluationWindow(k, n_windows)) for k in range(n_windows)]
            bad += reads[0].bad
            unread = {name for name, _ in reads[0].bad}
            clip_ids += [reader.clip_id(i) for i in chosen if reader.clip_id(i) not in unread]
            progress.advance(0.0, len(chosen))
            if reads[0].clips is None:
                continue
            labels.append(reads[0].clips.labels)
            packed = [tokens_of(r.clips, config, modality).to(device) for r in reads if r.clips is not None]
            for encoder, parts in zip(encoders, kept, strict=True):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_autocast):
                    latents = [encoder(p, config.model.target_attention).bfloat16().cpu() for p in packed]
                parts.append((torch.cat(latents, 1), torch.cat([p.is_valid.cpu() for p in packed], 1)))
    all_labels = torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)
    return [Features(*_stack(parts), all_labels, tuple(clip_ids), tuple(bad)) for parts in kept]


def _stack(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Batches of different token counts as one tensor, padded at the end."""
    if not parts:
        return torch.empty(0, 0, 0), torch.empty(0, 0, dtype=torch.bool)
    length = max(tokens.shape[1] for tokens, _ in parts)
    tokens = [torch.nn.functional.pad(t, (0, 0, 0, length - t.shape[1])) for t, _ in parts]
    is_valid = [torch.nn.functional.pad(v, (0, length - v.shape[1])) for _, v in parts]
    return torch.cat(tokens), torch.cat(is_valid)


__all__ = ["Features", "encode_all", "tokens_of"]
