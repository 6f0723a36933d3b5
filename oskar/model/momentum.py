"""Momentum encoders: ``theta_m <- lambda_m theta_m + (1 - lambda_m) theta`` (eq. 2; A26-A28)."""

import copy

import torch
from torch import Tensor, nn

from oskar.config import MomentumConfig, Routing
from oskar.masking.packing import ModalityTokens, PackedTokens
from oskar.modalities import MODALITIES, Modality
from oskar.model.encoder import TokenEncoder

SHARED = "shared"


class MomentumEncoders(nn.Module):
    """The averaged encoders, one copy in memory if all modalities share lambda, else one for each.

    Projections and embeddings are averaged too (A27). Weights are float32 whatever the precision
    of the step: with lambda = 0.99998 bfloat16 would lose the update. No gradient reaches them.
    """

    def __init__(self, online: TokenEncoder, config: MomentumConfig) -> None:
        super().__init__()
        names: list[Modality] = [n for n in MODALITIES if n in online.embedding.content]
        momenta = {"video": config.video, "skeleton": config.skeleton, "text": config.text}
        self.momenta = {name: m for name, m in momenta.items() if name in names and m is not None}
        self.final = config.final
        self.is_shared = len(set(self.momenta.values())) == 1
        encoders = {SHARED: copy.deepcopy(online)} if self.is_shared else {n: _for_modality(online, n) for n in names}
        self.encoders = nn.ModuleDict(encoders)
        self.requires_grad_(False)

    def encoder(self, modality: Modality) -> TokenEncoder:
        """The encoder that transfer uses for a modality."""
        encoder = self.encoders[SHARED if self.is_shared else modality]
        assert isinstance(encoder, TokenEncoder)
        return encoder

    @torch.no_grad()
    def forward(self, packed: PackedTokens, routing: Routing) -> Tensor:
        """Y^t ``[B, K, D]``: each modality's tokens through its encoder."""
        if self.is_shared:
            encoder: Tensor = self.encoders[SHARED](packed, routing)
            return encoder
        n_clips, n_slots = packed.segments.shape
        width = self.encoder(next(iter(packed.tokens))).norm.normalized_shape[0]
        flat = torch.zeros(n_clips * n_slots, width, device=packed.segments.device)
        for name, tokens in packed.tokens.items():
            rows = _repack(packed, name, tokens)
            encoded = self.encoders[name](rows, routing).flatten(0, 1)
            flat[tokens.slots] = encoded[rows.tokens[name].slots].float()
        return flat.view(n_clips, n_slots, width)

    @torch.no_grad()
    def update(self, online: TokenEncoder, share: float) -> None:
        """One step of the average; ``share`` of the run is done (used only where lambda ends elsewhere)."""
        source = dict(online.named_parameters())
        for name, encoder in self.encoders.items():
            start = next(iter(self.momenta.values())) if name == SHARED else self.momenta[name]
            momentum = start if self.final is None else start + (self.final - start) * share
            averaged = dict(encoder.named_parameters())
            torch._foreach_lerp_(list(averaged.values()), [source[key] for key in averaged], 1.0 - momentum)


def _for_modality(online: TokenEncoder, name: str) -> TokenEncoder:
    """A copy that embeds one modality only."""
    encoder = copy.deepcopy(online)
    for table in (encoder.embedding.content, encoder.embedding.position.by_modality):
        for other in [key for key in table if key != name]:
            del table[other]
    return encoder


def _repack(packed: PackedTokens, name: Modality, tokens: ModalityTokens) -> PackedTokens:
    """One modality's tokens alone, moved to the left of as few slots as its fullest clip needs."""
    n_slots = packed.segments.shape[1]
    clip = tokens.slots // n_slots
    counts = torch.bincount(clip, minlength=len(packed.segments))
    first = counts.cumsum(0) - counts
    n_needed = int(counts.max())
    slots = clip * n_needed + torch.arange(len(clip), device=clip.device) - first[clip]
    segment = int(packed.segments.flatten()[tokens.slots[0]])
    segments = torch.full((len(packed.segments), n_needed), -1, device=clip.device)
    segments.view(-1)[slots] = segment
    moved = ModalityTokens(tokens.values, slots, tokens.token_idx, tokens.boxes)
    return PackedTokens(segments, {name: moved}, bool((counts == n_needed).all()))
