"""Packing: the chosen tokens of a batch in dense slots, with the values of those tokens and no others."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.masking.plan import IndexSet, View, draw_views, index_set
from oskar.modalities import Modality, ModalitySpec, modality_specs
from oskar.tokens import token_sources
from oskar.tokens.source import TokenSource
from oskar.tokens.stored import BlankTubelets


@dataclass(frozen=True, slots=True)
class ModalityTokens:
    """The packed tokens of one modality: values ``[n, P]``, where they go and where they lie.

    ``slots`` int64 ``[n]``, increasing, is the flat slot ``clip * V + place``; ``token_idx`` ``[n]``
    the index inside the modality; ``boxes`` ``[n, 4]`` only for modalities with boxes;
    ``n_largest`` is the count of the clip that has most of them, known here so that the model
    need not ask the device for it.
    """

    values: Tensor
    slots: Tensor
    token_idx: Tensor
    boxes: Tensor | None
    n_largest: int

    def to(self, device: torch.device) -> "ModalityTokens":
        boxes = None if self.boxes is None else self.boxes.to(device, non_blocking=True)
        values, slots, token_idx = (t.to(device, non_blocking=True) for t in (self.values, self.slots, self.token_idx))
        return ModalityTokens(values, slots, token_idx, boxes, self.n_largest)


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Tokens of all modalities in ``[B, V]`` slots.

    ``segments`` int64 ``[B, V]`` is the modality of each slot, -1 in an empty one; ``is_full`` says
    that no slot is empty, so that attention needs no restriction for padding.
    """

    segments: Tensor
    tokens: Mapping[Modality, ModalityTokens]
    is_full: bool

    @property
    def is_valid(self) -> Tensor:
        return self.segments >= 0

    def to(self, device: torch.device) -> "PackedTokens":
        tokens = {name: t.to(device) for name, t in self.tokens.items()}
        return PackedTokens(self.segments.to(device, non_blocking=True), tokens, self.is_full)


@dataclass(frozen=True, slots=True)
class PackedView:
    """One (visible, target) pair with its values."""

    visible: PackedTokens
    target: PackedTokens


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model sees of a batch of clips.

    ``everything`` holds all tokens where the recipe's target encoder sees all of them (V-JEPA),
    with ``target_slots`` naming the flat slots of each view's targets in it; otherwise None.
    """

    clip_ids: Tensor
    views: tuple[PackedView, ...]
    everything: PackedTokens | None = None
    target_slots: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def n_tokens(self) -> int:
        """Tokens per batch as the paper counts them: visible and target slots (A31)."""
        return sum(v.visible.segments.numel() + v.target.segments.numel() for v in self.views)

    @property
    def weight(self) -> float:
        """Its share of a mean over target tokens."""
        return float(sum(int(v.target.is_valid.sum()) for v in self.views))

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.clip_ids.to(device),
            tuple(PackedView(v.visible.to(device), v.target.to(device)) for v in self.views),
            None if self.everything is None else self.everything.to(device),
            tuple(t.to(device) for t in self.target_slots),
        )


def pack(chosen: IndexSet, sources: Mapping[Modality, TokenSource], names: list[Modality]) -> PackedTokens:
    """Take the chosen tokens' values; ``names`` are the recipe's modalities in order."""
    flat_modality, flat_token = chosen.modality_idx.flatten(), chosen.token_idx.flatten()
    n_slots = chosen.modality_idx.shape[1]
    tokens: dict[Modality, ModalityTokens] = {}
    for m, name in enumerate(names):
        slots = (flat_modality == m).nonzero().squeeze(1)
        if name not in sources or len(slots) == 0:
            continue
        clip_idx, token_idx = slots // n_slots, flat_token[slots]
        source = sources[name]
        tokens[name] = ModalityTokens(
            values=source.take(clip_idx, token_idx),
            slots=slots,
            token_idx=token_idx,
            boxes=source.boxes(clip_idx, token_idx),
            n_largest=int(torch.bincount(clip_idx).max()),
        )
    return PackedTokens(chosen.modality_idx, tokens, bool((chosen.modality_idx >= 0).all()))


def pack_everything(
    sources: Mapping[Modality, TokenSource], specs: dict[Modality, ModalitySpec]
) -> tuple[PackedTokens, IndexSet]:
    """All available tokens of every clip, in as many slots as the fullest clip needs."""
    available = {name: source.is_valid for name, source in sources.items()}
    n_slots = int(torch.stack([a.sum(1) for a in available.values()]).sum(0).max())
    chosen = index_set(available, specs, n_slots)
    return pack(chosen, sources, list(specs)), chosen


def build_batch(clips: ClipBatch, config: Config, step: int) -> Batch:
    """Draw the batch's views and take the chosen tokens: the path from clips to what the model sees."""
    specs = modality_specs(config.tokens)
    sources = token_sources(clips, config.tokens)
    views = draw_views(sources, specs, config.masking, seed=config.train.seed, step=step, clip_ids=clips.clip_ids)
    names = list(specs)
    packed = tuple(PackedView(pack(v.visible_idx, sources, names), pack(v.target_idx, sources, names)) for v in views)
    if config.target.context != "all":
        return Batch(clips.clip_ids, packed)
    everything, slots = pack_everything(sources, specs)
    return Batch(clips.clip_ids, packed, everything, tuple(_find(v, slots, specs) for v in views))


def idle_batch(config: Config) -> Batch:
    """A made clip with every modality of the recipe, for a process to compute on when it has none of its own."""
    tokens = config.tokens
    people = (1, tokens.n_people, tokens.n_frames)
    frames = torch.zeros(1, tokens.n_frames, 3, tokens.resolution, tokens.resolution, dtype=torch.uint8)
    is_stored = "video" in tokens.modalities and tokens.video_width is not None
    clips = ClipBatch(
        clip_ids=torch.zeros(1, dtype=torch.int64),
        labels=torch.full((1,), -1),
        frames=None if is_stored else frames,
        tubelets=BlankTubelets.of_one_clip(tokens) if is_stored else None,
        joints=torch.full((*people, 17, 3), 0.5),
        boxes=torch.zeros(*people, 4),
        word_ids=torch.zeros(1, tokens.n_words, dtype=torch.int64),
    )
    return build_batch(clips, config, 0)


def _find(view: View, everything: IndexSet, specs: dict[Modality, ModalitySpec]) -> Tensor:
    """Flat slots, int64 ``[B, K]``, in which the targets of ``view`` stand among all tokens."""
    sizes = torch.tensor([spec.n_tokens for spec in specs.values()], device=everything.token_idx.device)
    offsets = sizes.cumsum(0) - sizes
    n_clips, n_slots = everything.token_idx.shape
    slot_of = torch.zeros(n_clips, int(sizes.sum()), dtype=torch.int64, device=sizes.device)
    clip, slot = everything.is_valid.nonzero(as_tuple=True)
    place = offsets[everything.modality_idx[clip, slot]] + everything.token_idx[clip, slot]
    slot_of[clip, place] = clip * n_slots + slot
    target = view.target_idx
    wanted = offsets[target.modality_idx.clamp_min(0)] + target.token_idx
    return slot_of.gather(1, wanted)
