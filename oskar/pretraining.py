"""The method on one page: a batch -> ``{"loss", ...}``.

    H   = fusion encoder (visible tokens)            joint attention over all modalities
    Y^p = predictor (queries at the targets, H)      one for all modalities
    Y^t = target (target tokens)                     no gradient
    L   = mean over target tokens of the error between Y^p and Y^t, then over views

``after_step`` moves the momentum encoders; it is part of the step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oskar.config import Config
from oskar.errors import InputError
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
        _check_routing(config)
        self.modalities = list(modality_specs(config.tokens))
        self.routing = config.model.fusion_attention
        self.fusion = TokenEncoder(config.tokens, config.model)
        self.predictor = CrossPredictor(config) if config.predictor.kind == "cross" else JointPredictor(config)
        self.target = LatentTarget(config) if config.target.space == "latent" else InputTarget(config)
        self.momentum = None if config.momentum.video is None else MomentumEncoders(self.fusion, config.momentum)

    def forward(self, batch: Batch, latents: list[Tensor] | None = None) -> dict[str, Tensor]:
        """``loss`` and ``loss_<modality>``, each a mean over that modality's target tokens (absent: NaN).

        A batch that is one of several parts of a step comes with the ``latents`` that ``prepare`` gave.
        """
        if latents is None:
            latents, statistics = self.prepare(batch)
            if statistics is not None and self.training and torch.is_grad_enabled():
                self.target.record(statistics)
        outputs = self.compare(batch, latents)
        # Equation (3): one mean over the target tokens of all modalities, so each weighs by its budget.
        losses = [mean_where(o.comparison.error, o.target.segments >= 0) for o in outputs]
        result = {"loss": torch.stack(losses).mean()}
        errors = torch.cat([o.comparison.error.detach().flatten() for o in outputs])
        segments = torch.cat([o.target.segments.flatten() for o in outputs])
        for m, name in enumerate(self.modalities):
            result[f"loss_{name}"] = mean_where(errors, segments == m)
        return result

    def prepare(self, batch: Batch) -> tuple[list[Tensor] | None, Tensor | None]:
        """The batch's target latents, and its share of what the target averages over training."""
        latents = self.target.latents(batch, self.momentum)
        return latents, self.target.statistics(latents, batch)

    def compare(self, batch: Batch, latents: list[Tensor] | None = None) -> list[ViewOutput]:
        """Predict and compare every view of the batch."""
        outputs = []
        if latents is None:
            latents = self.target.latents(batch, self.momentum)
        for number, view in enumerate(batch.views):
            fused = self.fusion(view.visible, self.routing)
            predicted = self.predictor(fused, view, number)
            comparison = self.target(predicted, view.target, None if latents is None else latents[number])
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
        for name in self.modalities:
            if name == modality:
                return self.momentum.encoder(name)
        raise InputError(f"the model has no encoder for {modality!r}", fix=f"use one of {self.modalities}")

    def optional_parameters(self) -> list[nn.Parameter]:
        """Those of a single modality, which a batch without it leaves without a gradient."""
        names = set(self.modalities)
        return [p for name, p in self.named_parameters() if p.requires_grad and names & set(name.split("."))]

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        """Fusion side and predictor side, each clipped by its own norm (A33)."""
        predictor = [*self.predictor.parameters(), *self.target.parameters()]
        return {"fusion": list(self.fusion.parameters()), "predictor": predictor}


def mean_where(values: Tensor, is_valid: Tensor) -> Tensor:
    """Mean of ``values`` where ``is_valid``; NaN where there is none."""
    return torch.where(is_valid, values, 0.0).sum() / is_valid.sum()


def _check_routing(config: Config) -> None:
    used = {getattr(config.momentum, name) for name in config.tokens.modalities}
    if config.model.target_attention == "joint" and len(used) > 1:
        raise InputError(
            f'model.target_attention = "joint" with momenta {sorted(used)}: no target encoder sees all modalities',
            fix='use equal momenta, or model.target_attention = "modality"',
        )
