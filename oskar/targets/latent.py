"""Latent targets: what the momentum encoders say about the target tokens (eq. 3; A24, A25)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import Config
from oskar.masking.packing import Batch, ModalityTokens, PackedTokens
from oskar.modalities import Modality, modality_specs
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

    @property
    def has_statistics(self) -> bool:
        return self.centring is not None

    def statistics(self, latents: Sequence[Tensor] | None, batch: Batch) -> Tensor | None:
        if self.centring is None or latents is None:
            return None
        return self.centring.statistics(latents, [view.target for view in batch.views])

    def record(self, statistics: Tensor) -> None:
        assert self.centring is not None
        self.centring.record(statistics)

    def forward(self, predicted: Tensor, target: PackedTokens, latents: Tensor | None) -> Comparison:
        assert latents is not None
        if self.centring is not None:
            latents = self.centring(latents, target)
        predictions = self.readout(predicted).float()
        difference = predictions - latents
        error = difference.square() if self.loss == "mse" else difference.abs()
        return Comparison(error.mean(-1), predictions.detach(), latents)


class PositionCentring(nn.Module):
    """Takes from each target what its position alone tells, and layer-normalises the rest.

    Latents carry their position, which any predictor knows: a network can lower the loss by making
    positions loud and content faint. The mean at each position is a running average over training
    steps, saved with the run; normalising the rest leaves nothing to gain by shrinking it.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.decay = config.target.centre_decay
        self.specs = modality_specs(config.tokens)
        n_positions = [spec.n_positions for spec in self.specs.values()]
        self.first_row = {name: sum(n_positions[:m]) for m, name in enumerate(self.specs)}
        self.register_buffer("sums", torch.zeros(sum(n_positions), config.model.width))
        self.register_buffer("counts", torch.zeros(sum(n_positions), 1))

    @torch.no_grad()
    def statistics(self, latents: Sequence[Tensor], targets: Sequence[PackedTokens]) -> Tensor:
        """Sums of the views' latents at each position and, in the last column, their number ``[positions, D + 1]``."""
        summed = torch.zeros(len(self.sums), self.sums.shape[1] + 1, device=self.sums.device)
        for values, packed in zip(latents, targets, strict=True):
            flat = F.pad(values.flatten(0, 1), (0, 1), value=1.0)
            for name, tokens in packed.tokens.items():
                rows = flat[tokens.slots]
                is_finite = rows.isfinite().all(1, keepdim=True)  # a bad step must not stay in the means
                summed.index_add_(0, self._rows(name, tokens), torch.where(is_finite, rows, 0.0))
        return summed

    @torch.no_grad()
    def record(self, statistics: Tensor) -> None:
        """Move the means by the ``statistics`` of all of a step's batch."""
        self.sums.mul_(self.decay).add_(statistics[:, :-1])
        self.counts.mul_(self.decay).add_(statistics[:, -1:])

    @torch.no_grad()
    def forward(self, latents: Tensor, packed: PackedTokens) -> Tensor:
        """Centred latents ``[B, K, D]``."""
        flat = latents.flatten(0, 1)
        centred = torch.zeros_like(flat)
        for name, tokens in packed.tokens.items():
            rows = self._rows(name, tokens)
            mean = self.sums[rows] / self.counts[rows].clamp_min(1e-6)
            rest = flat[tokens.slots] - mean
            centred[tokens.slots] = F.layer_norm(rest, rest.shape[-1:])
        return centred.view_as(latents)

    def _rows(self, name: Modality, tokens: ModalityTokens) -> Tensor:
        return self.first_row[name] + tokens.token_idx % self.specs[name].n_positions
