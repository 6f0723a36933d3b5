"""Health measures of a batch: do the features still tell one clip from another?

Two traps are avoided. Tokens are compared *across clips at the same position*, never over all
tokens: a network whose output depends on the position alone has collapsed, yet its tokens differ
within a clip. And because a target also varies with the boxes and with *which* tokens stand
beside it, content is exchanged between clips and nothing else: what does not move then has stopped
listening to its modality. The rule that turns a run's measures into words is ``oskar.train.verdict``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.masking.packing import Batch, PackedTokens, PackedView
from oskar.pretraining import MaskedPrediction, ViewOutput
from oskar.train.verdict import Verdict, judge

__all__ = ["Verdict", "exchange_contents", "judge", "measure", "observe"]

MAX_TOKENS = 4096  # per modality and view: bounds the cost of large batches
MAX_RANK_TOKENS = 1024  # bounds the eigenvalue problem
MIN_DEGREES = 16  # tokens beyond the first of their position; with fewer there is nothing to say
CONSTANT_SHARE = 1e-4  # deviations below this share of the features' own size are rounding


@torch.no_grad()
def observe(module: MaskedPrediction, batch: Batch) -> dict[str, float]:
    """Everything that is measured at a logged step: two forward passes, no gradient."""
    outputs, exchanged = module.compare(batch), module.compare(exchange_contents(batch))
    return measure(outputs, module.modalities, exchanged)


def exchange_contents(batch: Batch) -> Batch:
    """The same batch with every token's content taken from another: same tokens, positions and boxes.

    Tokens of a modality are put in the order of their positions and each takes the content of the
    one before, so mostly that of the same position, or the nearest, in another clip.
    """
    views = tuple(PackedView(_exchange(view.visible), _exchange(view.target)) for view in batch.views)
    return replace(batch, views=views, everything=None if batch.everything is None else _exchange(batch.everything))


def _exchange(packed: PackedTokens) -> PackedTokens:
    exchanged = {}
    for name, tokens in packed.tokens.items():
        order = torch.argsort(tokens.token_idx, stable=True)
        values = torch.empty_like(tokens.values)
        values[order] = tokens.values[order.roll(1)]
        exchanged[name] = replace(tokens, values=values)
    return replace(packed, tokens=exchanged)


def measure(
    outputs: Sequence[ViewOutput], modalities: Sequence[str], exchanged: Sequence[ViewOutput] = ()
) -> dict[str, float]:
    """Measures of every modality's targets and predictions in one batch, under flat keys.

    For each modality ``m`` and side ``s`` (``target``, ``prediction``):

    * ``spread_s_m``: standard deviation across clips at the same position, mean over features;
    * ``cosine_s_m``: mean cosine between two clips' tokens at the same position;
    * ``rank_s_m``: effective rank (RankMe, Garrido et al. 2023) of the deviations from the
      position's mean, 1 where there are none;
    * ``response_s_m``: root mean square change over sqrt(2), as a share of the targets' size, when
      contents are exchanged; for independent contents that is their share of the standard
      deviation. Needs ``exchanged``, the outputs for ``exchange_contents(batch)``;
    * ``explained_m``: share of the targets' variance around the batch mean that the predictions
      explain; ``explained_content_m``: the same around the mean of each position.

    A value is NaN where fewer than ``MIN_DEGREES`` tokens share their position with another
    clip's, where a feature is not finite, or where the objective compares no vectors (word ids).
    """
    result: dict[str, float] = {}
    for name in modalities:
        tokens = _gather(outputs, name)
        values = _measure_tokens(tokens)
        if exchanged:
            values |= _responses(tokens, _gather(exchanged, name))
        result |= {f"{key}_{name}": value for key, value in values.items()}
    return result


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Target tokens of one modality: vectors ``[n, W]`` of both sides; ``place`` ``[n]`` numbers positions."""

    targets: Tensor
    predictions: Tensor
    place: Tensor
    counts: Tensor

    @property
    def degrees(self) -> int:
        return len(self.place) - len(self.counts)

    @property
    def is_measurable(self) -> bool:
        """Finite, and vectors at all: where word ids are compared both sides are left at zero."""
        both = torch.cat([self.targets, self.predictions])
        return len(both) > 0 and bool(torch.isfinite(both).all()) and bool(both.any())


def _gather(outputs: Sequence[ViewOutput], name: str) -> _Tokens:
    targets, predictions, places = [], [], []
    n_places = 0
    for output in outputs:
        packed = next((tokens for key, tokens in output.target.tokens.items() if key == name), None)
        if packed is None:
            continue
        slots, token_idx = packed.slots[:MAX_TOKENS], packed.token_idx[:MAX_TOKENS]
        targets.append(output.comparison.targets.flatten(0, 1)[slots].float())
        predictions.append(output.comparison.predictions.flatten(0, 1)[slots].float())
        places.append(token_idx + n_places)  # the same token in two views of a clip is no pair
        n_places += int(token_idx.max()) + 1
    if not places:
        return _Tokens(*(torch.zeros(0, 1) for _ in range(2)), *(torch.zeros(0) for _ in range(2)))
    _, place, counts = torch.unique(torch.cat(places), return_inverse=True, return_counts=True)
    return _Tokens(torch.cat(targets), torch.cat(predictions), place, counts)


def _shared(tokens: _Tokens) -> _Tokens:
    """Only the tokens that share their position with another clip's, without features that pad to a common width."""
    is_shared = tokens.counts[tokens.place] >= 2
    is_used = (tokens.targets != 0).any(0) | (tokens.predictions != 0).any(0)
    _, place, counts = torch.unique(tokens.place[is_shared], return_inverse=True, return_counts=True)
    return _Tokens(tokens.targets[is_shared][:, is_used], tokens.predictions[is_shared][:, is_used], place, counts)


def _measure_tokens(tokens: _Tokens) -> dict[str, float]:
    keys = [f"{measured}_{side}" for side in ("target", "prediction") for measured in ("spread", "cosine", "rank")]
    missing = dict.fromkeys([*keys, "explained", "explained_content"], math.nan)
    if not tokens.is_measurable:
        return missing
    shared = _shared(tokens)
    if shared.degrees < MIN_DEGREES:
        return missing
    result: dict[str, float] = {}
    for side, vectors in (("target", shared.targets), ("prediction", shared.predictions)):
        deviations = _deviations(vectors, shared)
        result[f"spread_{side}"] = float((deviations.square().sum(0) / shared.degrees).sqrt().mean())
        result[f"cosine_{side}"] = _mean_cosine(vectors, shared)
        result[f"rank_{side}"] = _effective_rank(deviations, vectors)
    return result | _explained(shared)


def _responses(before: _Tokens, after: _Tokens) -> dict[str, float]:
    if not (before.is_measurable and after.is_measurable):
        return {"response_target": math.nan, "response_prediction": math.nan}
    size = _rms(before.targets).clamp_min(torch.finfo(torch.float32).tiny)
    pairs = {"target": (before.targets, after.targets), "prediction": (before.predictions, after.predictions)}
    return {f"response_{side}": float(_rms(a - b) / math.sqrt(2.0) / size) for side, (a, b) in pairs.items()}


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _deviations(vectors: Tensor, tokens: _Tokens) -> Tensor:
    """Differences from the mean of the same position."""
    return vectors - (_sum_by_place(vectors, tokens) / tokens.counts[:, None])[tokens.place]


def _sum_by_place(vectors: Tensor, tokens: _Tokens) -> Tensor:
    return vectors.new_zeros(len(tokens.counts), vectors.shape[1]).index_add_(0, tokens.place, vectors)


def _mean_cosine(vectors: Tensor, tokens: _Tokens) -> float:
    """Over all pairs of a position, from the length of the sum of their unit vectors."""
    units = F.normalize(vectors.double(), dim=1)
    squares = _sum_by_place(units, tokens).square().sum() - units.square().sum()
    return float(squares / (tokens.counts * (tokens.counts - 1)).sum())


def _effective_rank(deviations: Tensor, vectors: Tensor) -> float:
    """exp of the entropy of the singular values."""
    if float(_rms(deviations)) <= CONSTANT_SHARE * float(_rms(vectors)):
        return 1.0
    rows = deviations[:MAX_RANK_TOKENS].double()
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    singular = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def _explained(tokens: _Tokens) -> dict[str, float]:
    """1 - error / variance; NaN where the targets do not vary at all."""
    error = (tokens.predictions - tokens.targets).square().sum() / len(tokens.place)
    around_batch = (tokens.targets - tokens.targets.mean(0)).square().sum() / (len(tokens.place) - 1)
    around_place = _deviations(tokens.targets, tokens).square().sum() / tokens.degrees
    floor = CONSTANT_SHARE**2 * tokens.targets.square().sum() / len(tokens.place)
    return {
        "explained": float(1.0 - error / around_batch) if around_batch > floor else math.nan,
        "explained_content": float(1.0 - error / around_place) if around_place > floor else math.nan,
    }
