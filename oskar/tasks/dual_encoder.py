"""The module that retrieval trains: clips and sentences as unit vectors of one space."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.masking.packing import PackedTokens
from oskar.modalities import Modality
from oskar.model.layers import NORM_EPS
from oskar.tasks.contrastive import START_LOG_SCALE, contrastive_scale, gather_with_gradient, symmetric_info_nce
from oskar.tasks.pairs import PairBatch, mean_latents
from oskar.tasks.task import Backbone, TaskModule


class DualEncoder(TaskModule):
    """Mean latents of clips and of sentences, each through LayerNorm and Linear, as unit vectors of one space."""

    def __init__(self, backbone: Backbone, modality: Modality, width: int) -> None:
        super().__init__(backbone)
        self.modality = modality
        n_latent = backbone.config.model.width
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.LayerNorm(n_latent, eps=NORM_EPS), nn.Linear(n_latent, width))
                for name in (modality, "text")
            }
        )
        self.log_scale = nn.Parameter(torch.tensor(START_LOG_SCALE))

    def embed(self, modality: Modality, tokens: PackedTokens | Tensor) -> Tensor:
        """Unit vectors ``[B, width]`` of packed tokens, or of their mean latents ``[B, D]``."""
        means = tokens if isinstance(tokens, Tensor) else mean_latents(self.backbone(modality, tokens), tokens.is_valid)
        return F.normalize(self.projections[modality](means).float(), dim=1)

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """The symmetric contrastive loss; equal sentences are no negatives of each other."""
        clips, texts = self.embed(self.modality, batch.clips), self.embed("text", batch.texts)
        clips, texts, sentence_idx = (gather_with_gradient(rows) for rows in (clips, texts, batch.sentence_idx))
        loss = symmetric_info_nce(clips, texts, sentence_idx, self.log_scale)
        return {"loss": loss, "scale": contrastive_scale(self.log_scale)}
