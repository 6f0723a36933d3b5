"""The contract of a prediction target: what is predicted, and how one token's error is measured."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from oskar.masking.packing import Batch
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

    @abstractmethod
    def forward(self, predicted: Tensor, batch: Batch, view: int, momentum: MomentumEncoders | None) -> Comparison:
        """Compare the predictor's output ``[B, K, D_p]`` with the targets of a view, without gradient to them."""
