"""Health measures of a batch: do the features still tell one clip from another?

Tokens are compared *across clips at the same position* and never over all tokens: a network whose
output depends on the position alone has collapsed, yet its tokens differ widely within a clip.
The verdict on a run's measures is in ``oskar.train.verdict``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.pretraining import ViewOutput

MAX_TOKENS = 4096  # per modality and view: bounds the cost of large batches
MAX_RANK_TOKENS = 1024  # bounds the eigenvalue problem
MIN_DEGREES = 16  # tokens beyond the first of their position; with fewer there is nothing to say
CONSTANT_SHARE = 1e-4  # deviations below this share of the features' own size are rounding


def measure(outputs: Sequence[ViewOutput], modalities: Sequence[str]) -> dict[str, float]:
    """Measures of every modality's targets and predictions in one batch, under flat keys.

    For each modality ``m`` and side ``s`` (``target``, ``prediction``):

    * ``spread_s_m``: standard deviation across clips at the same position, mean over features;
    * ``cosine_s_m``: mean cosine between two clips' tokens at the same position;
    * ``rank_s_m``: effective rank (RankMe, Garrido et al. 2023) of the deviations from the
      position's mean, 1 where there are none;
    * ``explained_m``: share of the targets' variance around the batch mean that the predictions
      explain; ``explained_content_m``: the same around the mean of each position.

    A value is NaN where fewer than ``MIN_DEGREES`` tokens share a position with another clip's,
    where a feature is not finite, or where the objective compares no vectors (word ids).
    """
    result: dict[str, float] = {}
    for m, name in enumerate(modalities):
        tokens = _gather(outputs, m, name)
        result |= {f"{key}_{name}": value for key, value in _measure_tokens(tokens).items()}
    return result


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of one modality that share a position with another clip: vectors ``[n, W]``, ``place`` ``[n]``."""

    targets: Tensor
    predictions: Tensor
    place: Tensor
    counts: Tensor

    @property
    def degrees(self) -> int:
        return len(self.place) - len(self.counts)


def _gather(outputs: Sequence[ViewOutput], m: int, name: str) -> _Tokens:
    targets, predictions, places = [], [], []
    n_places = 0
    for output in outputs:
        packed = next((tokens for key, tokens in output.target.tokens.items() if key == name), None)
        if packed is None:
            continue
        slots, token_idx = packed.slots[:MAX_TOKENS], packed.token_idx[:MAX_TOKENS]
        targets.append(output.comparison.targets.flatten(0, 1)[slots].float())
        predictions.append(output.comparison.predictions.flatten(0, 1)[slots].float())
        places.append(token_idx + n_places)
        n_places += int(token_idx.max()) + 1
    if not places:
        nothing = torch.zeros(0)
        return _Tokens(nothing, nothing, nothing, nothing)
    place = torch.cat(places)
    counts = torch.bincount(place)
    is_shared = counts[place] >= 2
    _, number, shared_counts = torch.unique(place[is_shared], return_inverse=True, return_counts=True)
    return _Tokens(torch.cat(targets)[is_shared], torch.cat(predictions)[is_shared], number, shared_counts)


def _measure_tokens(tokens: _Tokens) -> dict[str, float]:
    sides = {"target": tokens.targets, "prediction": tokens.predictions}
    keys = [f"{measured}_{side}" for side in sides for measured in ("spread", "cosine", "rank")]
    missing = dict.fromkeys([*keys, "explained", "explained_content"], math.nan)
    is_measurable = tokens.degrees >= MIN_DEGREES and all(
        bool(torch.isfinite(x).all()) and bool(x.any()) for x in sides.values()
    )
    if not is_measurable:
        return missing
    result: dict[str, float] = {}
    for side, vectors in sides.items():
        deviations = _deviations(vectors, tokens)
        result[f"spread_{side}"] = float((deviations.square().sum(0) / tokens.degrees).sqrt().mean())
        result[f"cosine_{side}"] = _mean_cosine(vectors, tokens)
        result[f"rank_{side}"] = _effective_rank(deviations, vectors)
    return result | _explained(tokens)


def _deviations(vectors: Tensor, tokens: _Tokens) -> Tensor:
    """Differences from the mean of the same position."""
    return vectors - (_sum_by_place(vectors, tokens) / tokens.counts[:, None])[tokens.place]


def _sum_by_place(vectors: Tensor, tokens: _Tokens) -> Tensor:
    return vectors.new_zeros(len(tokens.counts), vectors.shape[1]).index_add_(0, tokens.place, vectors)


def _mean_cosine(vectors: Tensor, tokens: _Tokens) -> float:
    """Over all pairs of a position, from the length of the sum of their unit vectors."""
    units = torch.nn.functional.normalize(vectors.double(), dim=1)
    squares = _sum_by_place(units, tokens).square().sum() - units.square().sum()
    return float(squares / (tokens.counts * (tokens.counts - 1)).sum())


def _effective_rank(deviations: Tensor, vectors: Tensor) -> float:
    """exp of the entropy of the singular values."""
    if float(deviations.square().mean().sqrt()) <= CONSTANT_SHARE * float(vectors.square().mean().sqrt()):
        return 1.0
    rows = deviations[:MAX_RANK_TOKENS].double()
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    singular = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def _explained(tokens: _Tokens) -> dict[str, float]:
    error = (tokens.predictions - tokens.targets).square().sum() / len(tokens.place)
    around_batch = (tokens.targets - tokens.targets.mean(0)).square().sum() / (len(tokens.place) - 1)
    around_place = _deviations(tokens.targets, tokens).square().sum() / tokens.degrees
    return {
        "explained": float(1.0 - error / around_batch),
        "explained_content": float(1.0 - error / around_place),
    }
