"""Latent targets: what the momentum encoders say about the target tokens (eq. 3; A24, A25)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import Config
from oskar.masking.packing import Batch, PackedTokens
from oskar.model.layers import init_weights
from oskar.model.momentum import MomentumEncoders
from oskar.targets.target import Comparison, Target


class LatentTarget(Target):
    """Y^t by the target encoders, layer-normalised without affine; error averaged over features.

    The mean over features is equation (3) divided by D, a constant that AdamW ignores.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.context, self.routing = config.target.context, config.model.target_attention
        self.normalise, self.loss = config.target.normalise, config.target.loss
        self.readout = nn.Linear(config.predictor.width, config.model.width, bias=config.model.bias)
        init_weights(self, config.model.init_std)

    @torch.no_grad()
    def latents(self, batch: Batch, momentum: MomentumEncoders | None) -> list[Tensor]:
        """Y^t ``[B, K, D]`` of each view in float32; views share one pass over "all" tokens."""
        assert momentum is not None, "latent targets come from a momentum encoder"
        if self.context == "all":
            assert batch.everything is not None
            everything = momentum(batch.everything, self.routing).flatten(0, 1)
            views = [everything[slots] for slots in batch.target_slots]
        else:
            views = [momentum(view.target, self.routing) for view in batch.views]
        return [self._normalised(latents.float()) for latents in views]

    def _normalised(self, latents: Tensor) -> Tensor:
        return F.layer_norm(latents, latents.shape[-1:]) if self.normalise else latents

    def forward(self, predicted: Tensor, target: PackedTokens, latents: Tensor | None) -> Comparison:
        assert latents is not None
        predictions = self.readout(predicted).float()
        difference = predictions - latents
        error = difference.square() if self.loss == "mse" else difference.abs()
        return Comparison(error.mean(-1), predictions.detach(), latents)
