"""Input-space targets: the tokens' own values, as in masked autoencoders."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.config import Config
from oskar.masking.packing import ModalityTokens, PackedTokens
from oskar.modalities import Modality, modality_specs
from oskar.model.layers import init_weights
from oskar.targets.target import Comparison, Target
from oskar.tokens.skeleton import normalise_joints
from oskar.tokens.video import normalise_pixels


class InputTarget(Target):
    """Pixels (normalised inside each tubelet), joint coordinates, word ids; one linear readout for each.

    Pixels and coordinates are compared by squared error averaged over a token's known values, word ids by
    cross-entropy divided by the log of the vocabulary, so that each modality starts near 1.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.normalise = config.target.normalise
        self.patch_size = config.tokens.patch_size if config.tokens.video_width is None else None
        specs = modality_specs(config.tokens)
        widths = {
            n: s.vocabulary_size or (2 * s.token_width // 3 if n == "skeleton" else s.token_width)
            for n, s in specs.items()
        }
        self.shown_width = max((width for name, width in widths.items() if name != "text"), default=1)
        self.readouts = nn.ModuleDict({n: nn.Linear(config.predictor.width, w) for n, w in widths.items()})
        init_weights(self, config.model.init_std)

    def forward(self, predicted: Tensor, target: PackedTokens, latents: Tensor | None) -> Comparison:
        flat = predicted.flatten(0, 1)
        error = torch.zeros(len(flat), device=flat.device)
        shown = torch.zeros(2, len(flat), self.shown_width, device=flat.device)
        for name, tokens in target.tokens.items():
            predictions = self.readouts[name](flat[tokens.slots]).float()
            if name == "text":
                ids = tokens.values.squeeze(1)
                surprise = F.cross_entropy(predictions, ids, reduction="none") / math.log(predictions.shape[1])
                error = error.index_copy(0, tokens.slots, surprise)
                continue
            targets = self.values(name, tokens)
            known = is_known(name, tokens, targets.shape[1])
            squares = torch.where(known, (predictions - targets).square(), 0.0)
            error = error.index_copy(0, tokens.slots, squares.sum(-1) / known.sum(-1))
            shown[0, tokens.slots, : targets.shape[1]] = predictions.detach()
            shown[1, tokens.slots, : targets.shape[1]] = targets
        shape = predicted.shape[:2]
        return Comparison(error.view(shape), *shown.view(2, *shape, -1))

    def values(self, name: Modality, tokens: ModalityTokens) -> Tensor:
        """Targets ``[n, P]``: pixels or vectors, normalised per tubelet if configured; joints' (x, y)."""
        if name == "skeleton":
            return normalise_joints(tokens.values).view(len(tokens.values), -1, 3)[..., :2].flatten(1)
        pixels_of = self.patch_size
        values = tokens.values.float() if pixels_of is None else normalise_pixels(tokens.values, pixels_of)
        return F.layer_norm(values, values.shape[-1:], eps=1e-6) if self.normalise else values


def is_known(name: Modality, tokens: ModalityTokens, width: int) -> Tensor:
    """Bool ``[n, width]``: False for the place of a joint in the frames of its token in which it is missing."""
    if name != "skeleton":
        return torch.ones(len(tokens.values), width, dtype=torch.bool, device=tokens.values.device)
    return (tokens.values.view(len(tokens.values), -1, 3)[..., 2:] > 0).expand(-1, -1, 2).flatten(1)
