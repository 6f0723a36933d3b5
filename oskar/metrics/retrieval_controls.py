"""What chance, and what perfect knowledge of who was given which sentence, score in text-video retrieval."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

KS = (1, 5, 10)
_N_NODES = 400  # of the quadrature: group sizes of 1 and 80 among 1,000 are exact to 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedRanks:
    """Expected recalls in percent and mean rank, and the median of the distribution of ranks.

    ``median_rank`` is None where the captions are unevenly spread over groups and there is no short form.
    """

    r1_percent: float
    r5_percent: float
    r10_percent: float
    median_rank: float | None
    mean_rank: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedRetrieval:
    """The directions and conventions of ``RetrievalMetrics``."""

    text_to_video: ExpectedRanks
    video_to_text_best_caption: ExpectedRanks
    video_to_text_group_max: ExpectedRanks


def expected_of_chance(own: Tensor) -> ExpectedRetrieval:
    """What independent similarities without ties score; ``own [captions]`` int64 is the video of each.

    Text to video: ranks are uniform over the n videos. Best caption, of c among N captions:
    ``P(rank > k) = C(N - k, c) / C(N, c)``, mean ``(N + 1) / (c + 1)``. Group maximum: the groups finish in
    the order of exponential clocks of rates c (Plackett-Luce), so the mean rank of group g is
    ``1 + sum over h of c_h / (c_h + c_g)``, and ``P(rank <= k)`` is integrated over the time of g.
    """
    sizes = own.bincount().numpy()
    return ExpectedRetrieval(
        text_to_video=_uniform(len(sizes)),
        video_to_text_best_caption=_best_of_group(sizes),
        video_to_text_group_max=_race(sizes),
    )


def sentence_ceiling(sentence_idx: Tensor, own: Tensor) -> dict[str, float]:
    """Text-to-video recalls in percent that nothing which reads the sentence alone can exceed.

    ``sentence_idx [captions]`` is equal where sentences are. A sentence ranks the videos in one order for all
    that it was given to, so of its queries those of the k videos with most of them can be right.
    """
    videos_of: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for sentence, video in zip(sentence_idx.tolist(), own.tolist(), strict=True):
        videos_of[sentence][video] += 1
    n_right = {k: sum(n for videos in videos_of.values() for _, n in videos.most_common(k)) for k in KS}
    return {f"r{k}_percent": 100.0 * n / len(own) for k, n in n_right.items()}


def _uniform(n: int) -> ExpectedRanks:
    r1, r5, r10 = (100.0 * min(k, n) / n for k in KS)
    return ExpectedRanks(r1_percent=r1, r5_percent=r5, r10_percent=r10, median_rank=(n + 1) / 2, mean_rank=(n + 1) / 2)


def _best_of_group(sizes: NDArray[np.int64]) -> ExpectedRanks:
    """The first of the own captions in a random order of all."""
    n = int(sizes.sum())
    values, counts = np.unique(sizes, return_counts=True)
    weights = counts / len(sizes)
    # P(rank > k) as a product: C(N - k, c) / C(N, c) = prod over i < k of (N - i - c) / (N - i).
    steps = np.arange(n)[:, None]
    is_later = np.cumprod(np.clip(n - steps - values, 0, None) / (n - steps), axis=0)
    at_most = 1.0 - is_later @ weights  # of ranks 1 .. N
    r1, r5, r10 = (100.0 * float(at_most[min(k, n) - 1]) for k in KS)
    return ExpectedRanks(
        r1_percent=r1,
        r5_percent=r5,
        r10_percent=r10,
        median_rank=_median(at_most),
        mean_rank=float(weights @ ((n + 1) / (values + 1))),
    )


def _median(at_most: NDArray[np.float64]) -> float:
    """The median of ranks 1, 2, ... of a distribution; the middle of two where half lie below."""
    low, high = (int(np.argmax(at_most >= 0.5 + slack)) + 1 for slack in (-1e-12, 1e-12))
    return (low + high) / 2


def _race(sizes: NDArray[np.int64]) -> ExpectedRanks:
    """The place of a group in the order of the groups' best captions."""
    values, counts = np.unique(sizes, return_counts=True)
    if len(values) == 1:
        return _uniform(len(sizes))
    pairs = values / (values + values[:, None])  # [g, h]: h before g
    means = 1.0 + pairs @ counts - 0.5  # less the group itself
    at_most = np.array([_race_at_most(values, counts, g) for g in range(len(values))])
    r1, r5, r10 = (100.0 * at_most.T @ counts / len(sizes)).tolist()
    mean = float(means @ counts / len(sizes))
    return ExpectedRanks(r1_percent=r1, r5_percent=r5, r10_percent=r10, median_rank=None, mean_rank=mean)


def _race_at_most(values: NDArray[np.int64], counts: NDArray[np.int64], g: int) -> NDArray[np.float64]:
    """P(rank <= k) of a group of size ``values[g]``, for each k of ``KS``.

    With w = the share of the clock of g that has passed, w uniform in [0, 1], another group of size c is
    before it with probability ``1 - (1 - w)^(c / c_g)``; how many are is a sum of binomials.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    # Squared: few are before only where little has passed, so nodes are dense there.
    share = (nodes + 1) / 2
    passed, weights = share**2, weights / 2 * 2 * share
    n_before = np.zeros((max(KS), _N_NODES))
    n_before[0] = 1.0
    for h, (size, count) in enumerate(zip(values.tolist(), counts.tolist(), strict=True)):
        others = count - (h == g)
        later = (1.0 - passed) ** (size / float(values[g]))
        n_before = _convolve(n_before, _binomial(others, 1.0 - later))
    return np.array([weights @ n_before[:k].sum(0) for k in KS])


def _binomial(n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities ``[10, nodes]`` of 0 .. 9 among n."""
    ks = range(max(KS))
    return np.stack([math.comb(n, k) * p**k * (1.0 - p) ** max(n - k, 0) for k in ks])


def _convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([sum(a[i] * b[k - i] for i in range(k + 1)) for k in range(len(a))])
