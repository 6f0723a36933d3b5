"""What the run's features look like: principal components over the video, and nearest neighbours of clips."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.modalities import Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.tasks.features import Features, has_tokens, tokens_of

_CLIPS_AT_ONCE = 16
_MOST_VALUES = 6e7  # of the token features that are kept: 240 MB
_EDGES = (0.02, 0.98)  # quantiles of a component that become black and white


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeatures:
    """Features of the clips ``rows`` int64 ``[n]`` of a sample that have the modality.

    ``pooled`` ``[n, 2 D]`` as heads see them; ``tokens`` ``[k, N, D]`` of the first k, NaN where there is none.
    """

    rows: Tensor
    pooled: Tensor
    tokens: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Tokens on their first three principal components: ``values [k, N, 3]`` in [0, 1], NaN where there is no token.

    ``shares`` of the variance that each explains; ``position_share`` of the variance of all tokens lies
    between positions, and was taken away before.
    """

    values: npt.NDArray[np.float64]
    shares: tuple[float, ...]
    position_share: float


@torch.no_grad()
def encode_sample(encoder: TokenEncoder, clips: ClipBatch, config: Config, modality: Modality) -> ClipFeatures | None:
    """Features of one modality; None where no clip has it."""
    is_usable = torch.cat(
        [
            has_tokens(clips.rows(some), config, modality)
            for some in torch.split(torch.arange(len(clips)), _CLIPS_AT_ONCE)
        ]
    )
    rows = is_usable.nonzero().squeeze(1)
    if len(rows) == 0:
        return None
    n_tokens, width = modality_specs(config.tokens)[modality].n_tokens, config.model.width
    n_kept = max(int(_MOST_VALUES // (n_tokens * width)), 1)
    pooled: list[Tensor] = []
    kept: list[Tensor] = []
    for some in torch.split(rows, _CLIPS_AT_ONCE):
        packed = tokens_of(clips.rows(some), config, modality)
        latents = encoder(packed, config.model.target_attention).float()
        features = Features(latents, packed.is_valid, torch.zeros(len(some)), (), ())
        pooled.append(features.pooled())
        if sum(len(part) for part in kept) < n_kept:
            tokens = packed.tokens[modality]
            dense = torch.full((len(some), n_tokens, width), torch.nan)
            dense[tokens.slots // packed.segments.shape[1], tokens.token_idx] = latents.flatten(0, 1)[tokens.slots]
            kept.append(dense)
    return ClipFeatures(rows, torch.cat(pooled), torch.cat(kept)[:n_kept])


def principal_components(tokens: Tensor) -> Components:
    """The three directions of largest variance of ``tokens [k, N, D]``, around the mean of each position.

    With one clip there is nothing to take a position's mean over: then it is the mean of all tokens.
    """
    values = tokens.double()
    is_valid = ~values[..., 0].isnan()
    filled = torch.where(is_valid[..., None], values, 0.0)
    all_mean = filled.sum((0, 1)) / is_valid.sum()
    around_all = torch.where(is_valid[..., None], filled - all_mean, 0.0)
    if len(values) > 1:
        counts = is_valid.sum(0).clamp_min(1)
        deviations = torch.where(is_valid[..., None], filled - filled.sum(0) / counts[:, None], 0.0)
    else:
        deviations = around_all
    total, rest = around_all.square().sum(), deviations.square().sum()
    flat = deviations[is_valid]
    spread, directions = torch.linalg.eigh(flat.T @ flat)
    directions = directions[:, -3:].flip(1)
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    projected = flat @ (directions * signs)
    edges = torch.quantile(projected, torch.tensor(_EDGES, dtype=torch.float64), dim=0)
    scaled = ((projected - edges[0]) / (edges[1] - edges[0]).clamp_min(1e-12)).clamp(0.0, 1.0)
    result = torch.full((*is_valid.shape, scaled.shape[1]), torch.nan, dtype=torch.float64)
    result[is_valid] = scaled
    shares = (spread[-3:].flip(0) / spread.sum().clamp_min(1e-12)).tolist()
    return Components(result.numpy(), tuple(shares), float(1.0 - rest / total.clamp_min(1e-12)))


def nearest(pooled: Tensor, n: int) -> Tensor:
    """Indices ``[n_clips, n]`` of each clip's nearest others by cosine of standardised features, best first."""
    standard = (pooled - pooled.mean(0)) / pooled.std(0, correction=0).clamp_min(1e-6)
    unit = F.normalize(standard, dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return similarity.topk(min(n, len(pooled) - 1), dim=1).indices


def share_of_same_class(neighbours: Tensor, classes: list[object]) -> float | None:
    """Share of neighbours of the clip's own class, over clips that have one; None where there is no such clip."""
    hits = [
        classes[other] == own
        for own, row in zip(classes, neighbours.tolist(), strict=True)
        if own is not None
        for other in row
    ]
    return hits.count(True) / len(hits) if hits else None


def expected_share(classes: list[object]) -> float:
    """``share_of_same_class`` of neighbours drawn at random."""
    shares = [(classes.count(own) - 1) / (len(classes) - 1) for own in classes if own is not None]
    return sum(shares) / len(shares)
