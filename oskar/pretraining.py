"""The method on one page: a batch -> ``{"loss", ...}``.

    H   = fusion encoder (visible tokens)            joint attention over all modalities
    Y^p = predictor (queries at the targets, H)      one for all modalities
    Y^t = target (target tokens)                     no gradient
    L   = mean over target tokens of the error between Y^p and Y^t

``after_step`` moves the momentum encoders; it is part of the step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oskar.config import Config
from oskar.masking.packing import Batch, PackedTokens
from oskar.modalities import modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.model.momentum import MomentumEncoders
from oskar.model.predictor import CrossPredictor, JointPredictor
from oskar.targets.input_space import InputTarget
from oskar.targets.latent import LatentTarget
from oskar.targets.target import Comparison


@dataclass(frozen=True, slots=True)
class ViewOutput:
    """What health and pictures look at: one view's fused latents, comparison and target tokens."""

    fused: Tensor
    comparison: Comparison
    target: PackedTokens


class MaskedPrediction(nn.Module):
    """Fusion encoder, predictor, target and momentum encoders of a recipe."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.modalities = list(modality_specs(config.tokens))
        self.routing = config.model.fusion_attention
        self.fusion = TokenEncoder(config.tokens, config.model)
        self.predictor = CrossPredictor(config) if config.predictor.kind == "cross" else JointPredictor(config)
        self.target = LatentTarget(config) if config.target.space == "latent" else InputTarget(config)
        self.momentum = None if config.momentum.video is None else MomentumEncoders(self.fusion, config.momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``loss_<modality>``, each a mean over that modality's target tokens (absent: NaN)."""
        outputs = self.compare(batch)
        errors = torch.cat([o.comparison.error.flatten() for o in outputs])
        segments = torch.cat([o.target.segments.flatten() for o in outputs])
        is_valid = segments >= 0
        # Equation (3): one mean over the target tokens of all modalities, so each weighs by its budget.
        result = {"loss": (errors * is_valid).sum() / is_valid.sum().clamp_min(1)}
        for m, name in enumerate(self.modalities):
            is_modality = segments == m
            result[f"loss_{name}"] = (errors.detach() * is_modality).sum() / is_modality.sum()
        return result

    def compare(self, batch: Batch) -> list[ViewOutput]:
        """Predict and compare every view of the batch."""
        outputs = []
        for number, view in enumerate(batch.views):
            fused = self.fusion(view.visible, self.routing)
            predicted = self.predictor(fused, view, number)
            comparison = self.target(predicted, batch, number, self.momentum)
            outputs.append(ViewOutput(fused.detach(), comparison, view.target))
        return outputs

    def after_step(self, share: float) -> None:
        """Move the momentum encoders; ``share`` of the run is done."""
        if self.momentum is not None:
            self.momentum.update(self.fusion, share)

    def encoder(self, modality: str) -> TokenEncoder:
        """The encoder that transfer uses for a modality: the target encoder where there is one."""
        if self.momentum is None:
            return self.fusion
        return self.momentum.encoder(next(name for name in self.modalities if name == modality))

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        """Fusion side and predictor side, each clipped by its own norm (A33)."""
        predictor = [*self.predictor.parameters(), *self.target.parameters()]
        return {"fusion": list(self.fusion.parameters()), "predictor": predictor}
