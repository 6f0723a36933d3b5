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
        self.width = online.embedding.width
        self.is_shared = len(set(self.momenta.values())) == 1
        self.encoders = nn.ModuleDict()
        if self.is_shared:
            self.encoders[SHARED] = copy.deepcopy(online)
        else:
            self.encoders.update({name: _for_modality(online, name) for name in names})
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
        flat = torch.zeros(n_clips * n_slots, self.width, device=packed.segments.device)
        for name, tokens in packed.tokens.items():
            rows = _repack(packed, name, tokens)
            encoded = self.encoders[name](rows, routing).flatten(0, 1)
            flat[tokens.slots] = encoded[rows.tokens[name].slots].float()
        return flat.view(n_clips, n_slots, self.width)

    @torch.no_grad()
    def update(self, online: TokenEncoder, share: float) -> None:
        """One step of the average; ``share`` of the run is done (used only where lambda ends elsewhere)."""
        source = dict(online.named_parameters())
        names = list(self.momenta)
        for name in names[:1] if self.is_shared else names:
            start = self.momenta[name]
            momentum = start if self.final is None else start + (self.final - start) * share
            averaged = dict(self.encoder(name).named_parameters())
            torch._foreach_lerp_(list(averaged.values()), [source[key] for key in averaged], 1.0 - momentum)


def _for_modality(online: TokenEncoder, name: str) -> TokenEncoder:
    """A copy that embeds one modality only."""
    encoder = copy.deepcopy(online)
    for table in (encoder.embedding.content, encoder.embedding.position.by_modality):
        for other in [key for key in table if key != name]:
            del table[other]
    return encoder


def _repack(packed: PackedTokens, name: Modality, tokens: ModalityTokens) -> PackedTokens:
    """One modality's tokens alone, moved to the left of as few slots as its fullest clip needs.

    Everything stays on the device: its size is known from the packing.
    """
    n_clips, n_slots = packed.segments.shape
    n_needed = tokens.n_largest
    clip = tokens.slots // n_slots
    counts = torch.zeros(n_clips, dtype=torch.int64, device=clip.device).index_add_(0, clip, torch.ones_like(clip))
    first = counts.cumsum(0) - counts
    slots = clip * n_needed + torch.arange(len(clip), device=clip.device) - first[clip]
    segments = torch.full((n_clips * n_needed,), -1, device=clip.device)
    segments[slots] = packed.segments.flatten()[tokens.slots]
    moved = ModalityTokens(tokens.values, slots, tokens.token_idx, tokens.boxes, n_needed)
    return PackedTokens(segments.view(n_clips, n_needed), {name: moved}, len(clip) == n_clips * n_needed)
