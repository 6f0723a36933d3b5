"""Latent targets: what the momentum encoders say about the target tokens (eq. 3; A24, A25)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import Config
from oskar.masking.packing import Batch, PackedTokens
from oskar.modalities import modality_specs
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
        self.centring = PositionCentring(config) if config.target.centre else None

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
        if self.centring is not None:
            latents = self.centring(latents, target, is_recording=torch.is_grad_enabled())
        predictions = self.readout(predicted).float()
        difference = predictions - latents
        error = difference.square() if self.loss == "mse" else difference.abs()
        return Comparison(error.mean(-1), predictions.detach(), latents)


class PositionCentring(nn.Module):
    """Takes from each target what its position alone tells, and brings the rest to unit spread.

    Latents carry their position, which any predictor knows: a network can lower the loss by making
    positions loud and content faint. The mean at each position and one spread per modality are
    running averages over training steps; they are saved with the run.
    """

    means: Tensor
    counts: Tensor
    squares: Tensor
    totals: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.decay = config.target.centre_decay
        self.specs = modality_specs(config.tokens)
        n_positions = [spec.n_positions for spec in self.specs.values()]
        self.first_row = {name: sum(n_positions[:m]) for m, name in enumerate(self.specs)}
        self.register_buffer("means", torch.zeros(sum(n_positions), config.model.width))  # decayed sums
        self.register_buffer("counts", torch.zeros(sum(n_positions), 1))
        self.register_buffer("squares", torch.zeros(len(n_positions)))
        self.register_buffer("totals", torch.zeros(len(n_positions)))

    @torch.no_grad()
    def forward(self, targets: Tensor, packed: PackedTokens, *, is_recording: bool) -> Tensor:
        """Centred targets ``[B, K, D]``; statistics move only while gradients are recorded."""
        is_training = self.training and is_recording
        flat = targets.flatten(0, 1)
        centred = torch.zeros_like(flat)
        if is_training:
            self.means *= self.decay
            self.counts *= self.decay
        for m, name in enumerate(self.specs):
            if name not in packed.tokens:
                continue
            tokens = packed.tokens[name]
            values = flat[tokens.slots]
            rows = self.first_row[name] + tokens.token_idx % self.specs[name].n_positions
            if is_training:
                self.means.index_add_(0, rows, values)
                self.counts.index_add_(0, rows, torch.ones_like(values[:, :1]))
            rest = values - self.means[rows] / self.counts[rows].clamp_min(1e-6)
            if is_training:
                self.squares[m] = self.decay * self.squares[m] + rest.square().mean(1).sum()
                self.totals[m] = self.decay * self.totals[m] + len(rest)
            spread = (self.squares[m] / self.totals[m].clamp_min(1e-6)).sqrt().clamp_min(1e-6)
            centred[tokens.slots] = rest / spread
        return centred.view_as(targets)
