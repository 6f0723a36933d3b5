"""Ranks and recalls of text-video retrieval, ties averaged.

A matrix ``similarity [captions, videos]`` in any float type is compared as it is given, exactly and in
blocks; ``own [captions]`` int64 is the video of each caption, and every video has a caption. A video
that could not be read has -inf in its whole column, which no caption prefers.

Ties are averaged (McSherry and Najork, ECIR 2008): a rank is the mean of the best and the worst place
that any order of what is tied gives, so that no figure gains from scores that are all alike.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.errors import InputError

BLOCK_VALUES = 2**22  # similarities compared at a time: a few tens of MB beside the matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSummary:
    """Shares of queries with a rank of at most 1, 5 and 10, median rank (MdR) and mean rank (MnR)."""

    r1_percent: float
    r5_percent: float
    r10_percent: float
    median_rank: float
    mean_rank: float
    n_queries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalMetrics:
    """Text to video, and video to text by both conventions; these are one where each video has one caption."""

    text_to_video: RankSummary
    video_to_text_best_caption: RankSummary
    video_to_text_group_max: RankSummary


def retrieval_metrics(similarity: Tensor, own: Tensor) -> RetrievalMetrics:
    """All figures of one matrix; InputError as ``text_to_video_ranks``."""
    return RetrievalMetrics(
        text_to_video=summarise_ranks(text_to_video_ranks(similarity, own)),
        video_to_text_best_caption=summarise_ranks(best_caption_ranks(similarity, own)),
        video_to_text_group_max=summarise_ranks(group_max_ranks(similarity, own)),
    )


def summarise_ranks(ranks: Tensor) -> RankSummary:
    """Recalls, median and mean of ``ranks [queries]``; of an even number the median is the mean of the middle two."""
    if len(ranks) == 0:
        raise InputError("ranks: there is no query", fix="evaluate on at least one query")
    ranks = ranks.double()
    r1, r5, r10 = (100.0 * int((ranks <= k).sum()) / len(ranks) for k in (1, 5, 10))
    return RankSummary(
        r1_percent=r1,
        r5_percent=r5,
        r10_percent=r10,
        median_rank=float(ranks.quantile(0.5, interpolation="midpoint")),
        mean_rank=float(ranks.mean()),
        n_queries=len(ranks),
    )


def text_to_video_ranks(similarity: Tensor, own: Tensor) -> Tensor:
    """Float64 ``[captions]``: the rank of every caption's own video among all videos.

    ``rank_i = 1 + #{j: S[i, j] > S[i, own(i)]} + #{j != own(i): S[i, j] = S[i, own(i)]} / 2``

    Raises:
        InputError: shapes that do not fit, NaN or +inf, an index out of range, a video without a caption.
    """
    _check(similarity, own)
    return _row_ranks(similarity, own)


def best_caption_ranks(similarity: Tensor, own: Tensor) -> Tensor:
    """Float64 ``[videos]``: the rank of every video's best own caption among all captions (collaborative-experts).

    ``rank_j = 1 + #{i: S[i, j] > m_j} + #{i: own(i) != j, S[i, j] = m_j} / 2`` with ``m_j`` the best own
    score: own captions that tie, as equal sentences do, never push each other down. Never better than
    ``group_max_ranks``. InputError as ``text_to_video_ranks``.
    """
    _check(similarity, own)
    own_scores = similarity.gather(1, own[:, None]).squeeze(1)
    n_videos = similarity.shape[1]
    best = own_scores.new_full((n_videos,), -math.inf).scatter_reduce(0, own, own_scores, "amax")
    n_higher, n_tied = (torch.zeros(n_videos, dtype=torch.int64, device=similarity.device) for _ in range(2))
    for rows in _blocks(similarity):
        n_higher += (similarity[rows] > best).sum(0)
        n_tied += (similarity[rows] == best).sum(0)
    n_own_tied = own[own_scores == best[own]].bincount(minlength=n_videos)
    return 1 + n_higher.double() + (n_tied - n_own_tied).double() / 2


def group_max_ranks(similarity: Tensor, own: Tensor) -> Tensor:
    """Float64 ``[videos]``: the rank of every video's own captions among the videos' groups of captions (CLIP4Clip).

    A group scores the maximum over its captions. InputError as ``text_to_video_ranks``.
    """
    _check(similarity, own)
    groups = torch.split(own.argsort(stable=True), own.bincount().tolist())
    scores = torch.stack([similarity[group].amax(0) for group in groups])
    return _row_ranks(scores.T, torch.arange(len(groups), device=own.device))


def dual_softmax(similarity: Tensor, temperature: float) -> Tensor:
    """Float64 ``S * softmax over the queries of (temperature * S)`` of ``similarity [queries, gallery]``.

    The temperature multiplies, as in the published figures. The whole set of test queries serves as prior,
    and one query for each gallery item is assumed: print what comes of it in a column of its own, never as
    the result. For video to text pass the transpose and transpose back. -inf stays -inf.

    Raises:
        InputError: NaN or +inf, a temperature that is not positive and finite.
    """
    _check_scores(similarity)
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature = {temperature}", fix="give a positive number, such as 100")
    reranked = torch.empty(similarity.shape, dtype=torch.float64, device=similarity.device)
    for columns in _blocks(similarity.T):
        scores = similarity[:, columns].double()
        weighted = scores * (temperature * scores).softmax(0)
        reranked[:, columns] = torch.where(scores.isneginf(), scores, weighted)
    return reranked


def _row_ranks(scores: Tensor, own: Tensor) -> Tensor:
    ranks = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    for rows in _blocks(scores):
        own_score = scores[rows].gather(1, own[rows, None])
        n_higher, n_tied = ((scores[rows] > own_score).sum(1), (scores[rows] == own_score).sum(1))
        ranks[rows] = 1 + n_higher.double() + (n_tied - 1).double() / 2  # one of the tied is the own item itself
    return ranks


def _blocks(matrix: Tensor) -> Iterator[slice]:
    n_rows = max(1, BLOCK_VALUES // matrix.shape[1])
    return (slice(start, start + n_rows) for start in range(0, len(matrix), n_rows))


def _check_scores(similarity: Tensor) -> None:
    if similarity.ndim != 2 or not similarity.is_floating_point() or similarity.numel() == 0:
        raise InputError(
            f"similarity is {similarity.dtype} of shape {list(similarity.shape)}",
            fix="give a float matrix [captions, videos] with at least one of each",
        )
    for rows in _blocks(similarity):
        is_wrong = similarity[rows].isnan() | similarity[rows].isposinf()
        if is_wrong.any():
            i, j = is_wrong.nonzero()[0].tolist()
            raise InputError(
                f"similarity[{rows.start + i}, {j}] = {float(similarity[rows.start + i, j])}",
                fix="look for a division by zero or an overflow in the embeddings; what could not be read has -inf",
            )


def _check(similarity: Tensor, own: Tensor) -> None:
    _check_scores(similarity)
    n_captions, n_videos = similarity.shape
    if own.shape != (n_captions,) or own.dtype != torch.int64:
        raise InputError(
            f"own is {own.dtype} of shape {list(own.shape)}, similarity has {n_captions} captions",
            fix="give the video of every caption as int64 [captions]",
        )
    is_out = (own < 0) | (own >= n_videos)
    if is_out.any():
        i = int(is_out.nonzero()[0])
        raise InputError(f"own[{i}] = {int(own[i])}, but there are {n_videos} videos", fix="count videos from 0")
    is_bare = own.bincount(minlength=n_videos) == 0
    if is_bare.any():
        raise InputError(
            f"own: video {int(is_bare.nonzero()[0])} has no caption",
            fix="leave its column out, or add its captions",
        )
