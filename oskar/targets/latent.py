"""Latent targets: what the momentum encoders say about the target tokens (eq. 3; A24, A25)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import Config
from oskar.masking.packing import Batch
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

    def forward(self, predicted: Tensor, batch: Batch, view: int, momentum: MomentumEncoders | None) -> Comparison:
        assert momentum is not None, "latent targets come from a momentum encoder"
        targets = self.latents(batch, view, momentum)
        predictions = self.readout(predicted).float()
        difference = predictions - targets
        error = difference.square() if self.loss == "mse" else difference.abs()
        return Comparison(error.mean(-1), predictions.detach(), targets)

    @torch.no_grad()
    def latents(self, batch: Batch, view: int, momentum: MomentumEncoders) -> Tensor:
        """Y^t ``[B, K, D]`` in float32."""
        if self.context == "all":
            assert batch.everything is not None
            latents = momentum(batch.everything, self.routing).flatten(0, 1)[batch.target_slots[view]]
        else:
            latents = momentum(batch.views[view].target, self.routing)
        latents = latents.float()
        return F.layer_norm(latents, latents.shape[-1:]) if self.normalise else latents
