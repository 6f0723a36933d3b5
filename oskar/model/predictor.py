"""Predictors: queries at the target slots and the fused latents -> predictions at the predictor's width.

A query is a learned vector (zero at the start, A22) plus the predictor's own position, modality
and box embeddings. One predictor serves all modalities.
"""

import torch
from torch import Tensor, nn

from oskar.config import Config
from oskar.masking.packing import PackedTokens, PackedView
from oskar.model.embedding import PositionEmbeddings
from oskar.model.layers import NORM_EPS, Block, allowed_pairs, init_weights, run_block


class Predictor(nn.Module):
    """What both predictors share: the projection of H, the queries, the final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, n_views = config.predictor.width, max(len(config.masking.blocks), 1)
        self.attention = config.predictor.attention
        self.is_checkpointed = config.model.checkpointing
        self.input = nn.Linear(config.model.width, width, bias=config.model.bias)
        self.positions = PositionEmbeddings(config.tokens, width, config.model)
        self.query = nn.Parameter(torch.zeros(n_views, width))  # one for each mask generator
        self.blocks = nn.ModuleList(
            Block(width, config.predictor.n_heads, config.model) for _ in range(config.predictor.n_layers)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.add_context_positions = config.predictor.context_positions
        init_weights(self, config.model.init_std)
        if config.model.embedding_std is not None:
            self.positions.scale_to(config.model.embedding_std)

    def queries(self, target: PackedTokens, view: int) -> Tensor:
        """Q ``[B, K, D_p]``."""
        positions: Tensor = self.positions(target)
        return self.query[view] + positions

    def context(self, fused: Tensor, visible: PackedTokens) -> Tensor:
        """H at the predictor's width ``[B, V, D_p]``, with positions added again if configured (A23)."""
        context: Tensor = self.input(fused)
        return context + self.positions(visible) if self.add_context_positions else context

    def self_pairs(self, target: PackedTokens) -> Tensor | None:
        """Which queries see each other: those of their own modality, or all."""
        if self.attention == "modality" and len(target.tokens) > 1:
            return allowed_pairs(target.segments, target.segments, within_segment=True)
        if not target.is_full:
            return allowed_pairs(target.segments, target.segments, within_segment=False)
        return None


class CrossPredictor(Predictor):
    """OSKAR's: self-attention inside each modality, then cross-attention to all of H, alternating (eq. 1)."""

    def forward(self, fused: Tensor, view: PackedView, view_number: int) -> Tensor:
        """Predictions ``[B, K, D_p]`` from H ``[B, V, D]``."""
        x = self.queries(view.target, view_number)
        context = self.context(fused, view.visible)
        self_pairs = self.self_pairs(view.target)
        cross_pairs = None
        if not view.visible.is_full:  # a clip without any visible token sees its empty slots: no row is empty
            is_key = view.visible.is_valid
            cross_pairs = (is_key | ~is_key.any(1, keepdim=True))[:, None, None, :]
        for layer, block in enumerate(self.blocks):
            seen, pairs = (None, self_pairs) if layer % 2 == 0 else (context, cross_pairs)
            x = run_block(block, x, seen, pairs, is_checkpointed=self.is_checkpointed)
        predicted: Tensor = self.norm(x)
        return predicted


class JointPredictor(Predictor):
    """V-JEPA's: self-attention over visible tokens and queries together; the queries' slots are read."""

    def forward(self, fused: Tensor, view: PackedView, view_number: int) -> Tensor:
        """Predictions ``[B, K, D_p]`` from H ``[B, V, D]``."""
        x = torch.cat([self.context(fused, view.visible), self.queries(view.target, view_number)], dim=1)
        pairs = None
        if not (view.visible.is_full and view.target.is_full):
            segments = torch.cat([view.visible.segments, view.target.segments], dim=1)
            pairs = allowed_pairs(segments, segments, within_segment=False)
        for block in self.blocks:
            x = run_block(block, x, pairs=pairs, is_checkpointed=self.is_checkpointed)
        predicted: Tensor = self.norm(x[:, fused.shape[1] :])
        return predicted
