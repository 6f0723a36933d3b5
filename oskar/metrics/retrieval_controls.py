"""What chance, and what perfect knowledge of who was given which sentence, score in text-video retrieval."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

KS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedRanks:
    """Expected recalls in percent and mean rank, and the median of the distribution of all queries' ranks."""

    r1_percent: float
    r5_percent: float
    r10_percent: float
    median_rank: float
    mean_rank: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedRetrieval:
    """The directions and conventions of ``RetrievalMetrics``."""

    text_to_video: ExpectedRanks
    video_to_text_best_caption: ExpectedRanks
    video_to_text_group_max: ExpectedRanks


def expected_of_chance(own: Tensor) -> ExpectedRetrieval:
    """What similarities drawn independently, without ties, score; ``own [captions]`` int64 is the video of each.

    Text to video: ranks are uniform over the n videos. Best caption, of c among N captions:
    ``P(rank > k) = C(N - k, c) / C(N, c)``, mean ``(N + 1) / (c + 1)``, averaged over the videos. Group maximum:
    a group with more captions ranks better, but k groups of every order are among its first k, so over all
    videos ranks are uniform again.
    """
    sizes = own.bincount().numpy()
    return ExpectedRetrieval(
        text_to_video=_uniform(len(sizes)),
        video_to_text_best_caption=_best_of_group(sizes),
        video_to_text_group_max=_uniform(len(sizes)),
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
