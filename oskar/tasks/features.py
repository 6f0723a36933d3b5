"""Frozen features: every clip's tokens through an encoder, once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.reader import ClipReader, EvaluationWindow
from oskar.masking.packing import PackedTokens, pack_everything
from oskar.modalities import Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.progress import Progress
from oskar.tokens import token_sources
from oskar.train.precision import PrecisionChoice

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

    def of(self, ids: Collection[str]) -> "Features":
        """The features of the clips among ``ids``, in their own order."""
        wanted = frozenset(ids)
        return self._rows([i for i, clip_id in enumerate(self.clip_ids) if clip_id in wanted])

    def without(self, ids: Collection[str]) -> "Features":
        """The features of all clips but ``ids``."""
        return self if not ids else self.of(frozenset(self.clip_ids).difference(ids))

    def _rows(self, rows: list[int]) -> "Features":
        clip_ids = tuple(self.clip_ids[i] for i in rows)
        return Features(self.tokens[rows], self.is_valid[rows], self.labels[rows], clip_ids, self.bad)

    def pooled(self) -> Tensor:
        """Mean and standard deviation over the valid tokens, float32 ``[n, 2 D]``.

        The mean alone says little of a motion: over all tokens of a clip it is close to one pose.
        """
        rows = []
        for tokens, is_valid in zip(self.tokens, self.is_valid, strict=True):
            valid = tokens[is_valid].float()
            rows.append(torch.cat([valid.mean(0), valid.std(0, correction=0)]))
        return torch.stack(rows)


def tokens_of(clips: ClipBatch, config: Config, modality: Modality) -> PackedTokens:
    """All available tokens of one modality, packed as the target encoders see them in transfer."""
    sources = {name: s for name, s in token_sources(clips, config.tokens).items() if name == modality}
    packed, _ = pack_everything(sources, modality_specs(config.tokens))
    return packed


def has_tokens(clips: ClipBatch, config: Config, modality: Modality) -> Tensor:
    """Bool ``[B]``: the clips with a usable token of the modality."""
    source = token_sources(clips, config.tokens).get(modality)
    return torch.zeros(len(clips), dtype=torch.bool) if source is None else source.is_valid.any(1)


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
    crop: int = 0,
    n_crops: int = 1,
) -> list[Features]:
    """Features of one crop of all labelled clips of a reader by every encoder; each clip is read once.

    A clip of which a window cannot be read, or that has no usable token, is listed in ``bad``.
    Windows of one clip are encoded alone and their tokens put one after the other, as the V-JEPA
    probe does.
    """
    views = [EvaluationWindow(number, n_windows, crop, n_crops) for number in range(n_windows)]
    indices = [i for i in range(len(reader)) if reader.label(i) >= 0]
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in encoders]
    labels: list[int] = []
    clip_ids: list[str] = []
    bad: list[tuple[str, str]] = []
    encoders = [encoder.to(device) for encoder in encoders]
    with Progress(len(indices), unit="clips") as progress:
        for start in range(0, len(indices), BATCH_SIZE):
            chosen = indices[start : start + BATCH_SIZE]
            windows, ids, unread = read_views(reader, chosen, config, modality, views)
            label_of = {reader.clip_id(i): reader.label(i) for i in chosen}
            bad += unread
            clip_ids += ids
            labels += [label_of[name] for name in ids]
            progress.advance(0.0, len(chosen))
            if not ids:
                continue
            is_valid = torch.cat([window.packed.is_valid[window.rows] for window in windows], 1)
            for encoder, parts in zip(encoders, kept, strict=True):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_autocast):
                    latents = [
                        encoder(w.packed.to(device), config.model.target_attention).bfloat16().cpu()[w.rows]
                        for w in windows
                    ]
                parts.append((torch.cat(latents, 1), is_valid))
    return [Features(*_stack(parts), torch.tensor(labels), tuple(clip_ids), tuple(bad)) for parts in kept]


@dataclass(frozen=True, slots=True)
class PackedWindow:
    """One view of several clips: its tokens, and the rows of the clips of which every view could be read."""

    packed: PackedTokens
    rows: Tensor


def read_views(
    reader: ClipReader, chosen: Sequence[int], config: Config, modality: Modality, views: Sequence[EvaluationWindow]
) -> tuple[list[PackedWindow], list[str], list[tuple[str, str]]]:
    """The views with a usable token, the ids of the clips that can be used, and the others with a reason.

    A clip can be used if each of its views was read and one at least has a usable token.
    """
    read: list[tuple[PackedTokens, list[str]]] = []
    unread: dict[str, str] = {}
    usable: set[str] = set()
    for view in views:
        clips = reader.read(chosen, view)
        failed = dict(clips.bad)
        unread |= failed
        if clips.clips is None or not _has(clips.clips, modality):
            continue
        ids = [reader.clip_id(i) for i in chosen if reader.clip_id(i) not in failed]
        packed = tokens_of(clips.clips, config, modality)
        usable |= {name for name, is_any in zip(ids, packed.is_valid.any(1).tolist(), strict=True) if is_any}
        read.append((packed, ids))
    for i in chosen:
        if reader.clip_id(i) not in usable:
            unread.setdefault(reader.clip_id(i), f"no usable token of {modality}")
    kept = [reader.clip_id(i) for i in chosen if reader.clip_id(i) not in unread]
    windows = [PackedWindow(packed, torch.tensor([ids.index(name) for name in kept])) for packed, ids in read if kept]
    return windows, kept, list(unread.items())


def _has(clips: ClipBatch, modality: Modality) -> bool:
    return {"video": clips.frames, "skeleton": clips.joints, "text": clips.word_ids}[modality] is not None


def _stack(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Batches of different token counts as one tensor, padded at the end."""
    if not parts:
        return torch.empty(0, 0, 0), torch.empty(0, 0, dtype=torch.bool)
    length = max(tokens.shape[1] for tokens, _ in parts)
    tokens = [torch.nn.functional.pad(t, (0, 0, 0, length - t.shape[1])) for t, _ in parts]
    is_valid = [torch.nn.functional.pad(v, (0, length - v.shape[1])) for _, v in parts]
    return torch.cat(tokens), torch.cat(is_valid)


__all__ = ["Features", "PackedWindow", "encode_all", "has_tokens", "read_views", "tokens_of"]
