"""The contract of a prediction target: what is predicted, and how one token's error is measured."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from oskar.masking.packing import Batch, PackedTokens
from oskar.model.momentum import MomentumEncoders


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predictions against targets: ``error`` ``[B, K]`` per token, unreduced, and both sides for health.

    ``predictions`` and ``targets`` are detached ``[B, K, *]``; slots that are empty hold anything.
    """

    error: Tensor
    predictions: Tensor
    targets: Tensor


class Target(nn.Module, ABC):
    """A target owns the readout that turns the predictor's output into its space."""

    def latents(self, batch: Batch, momentum: MomentumEncoders | None) -> list[Tensor] | None:
        """What the momentum encoders say of each view's targets ``[B, K, D]``; None where nothing is asked."""
        return None

    @property
    def has_statistics(self) -> bool:
        """Whether it averages anything over training."""
        return False

    def statistics(self, latents: Sequence[Tensor] | None, batch: Batch) -> Tensor | None:
        """A batch's share of what the target averages over training; shares add up. None where it averages nothing."""
        return None

    def record(self, statistics: Tensor) -> None:
        """Take up a whole step's ``statistics``, before the step is learned from."""

    @abstractmethod
    def forward(self, predicted: Tensor, target: PackedTokens, latents: Tensor | None) -> Comparison:
        """Compare the predictor's output ``[B, K, D_p]`` with a view's targets, without gradient to them."""
