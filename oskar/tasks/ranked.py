"""From similarities of captions and clips to ranks, figures and the rows of ``predictions.csv``."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oskar.metrics.retrieval import (
    RetrievalMetrics,
    best_caption_ranks,
    dual_softmax,
    group_max_ranks,
    summarise_ranks,
    text_to_video_ranks,
)

N_LISTED = 10  # of the best items of a query, and the largest k of the recalls
_ROWS_AT_ONCE = 512
_COLUMNS = ("weights", "direction", "query", "rank", *(f"top{i + 1}" for i in range(N_LISTED)), "caption", "not_read")


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Float64 ranks ``[captions]``, ``[clips]`` and ``[clips]`` of the queries of ``RetrievalMetrics``.

    A clip that could not be read is wrong whatever is asked: its queries rank behind the gallery and behind
    the largest k of the recalls, where ties of what nobody could compare would be given a middle rank.
    """

    text_to_video: Tensor
    video_to_text_best_caption: Tensor
    video_to_text_group_max: Tensor

    def metrics(self) -> RetrievalMetrics:
        return RetrievalMetrics(
            text_to_video=summarise_ranks(self.text_to_video),
            video_to_text_best_caption=summarise_ranks(self.video_to_text_best_caption),
            video_to_text_group_max=summarise_ranks(self.video_to_text_group_max),
        )


def rank(similarity: Tensor, own: Tensor) -> Ranks:
    """Ranks of ``similarity [captions, clips]``, -inf in the columns of clips that could not be read."""
    return _ranks(similarity, similarity, own)


def rank_by_dual_softmax(similarity: Tensor, own: Tensor, temperature: float) -> Ranks:
    """Ranks after re-weighting by all test queries of each direction: never a headline figure."""
    return _ranks(dual_softmax(similarity, temperature), dual_softmax(similarity.T, temperature).T, own)


def _ranks(text_to_video: Tensor, video_to_text: Tensor, own: Tensor) -> Ranks:
    n_captions, n_clips = text_to_video.shape
    is_unread = text_to_video.isneginf().all(0)
    behind_clips, behind_captions = (float(max(n, N_LISTED) + 1) for n in (n_clips, n_captions))
    return Ranks(
        text_to_video_ranks(text_to_video, own).masked_fill(is_unread[own], behind_clips),
        best_caption_ranks(video_to_text, own).masked_fill(is_unread, behind_captions),
        group_max_ranks(video_to_text, own).masked_fill(is_unread, behind_clips),
    )


def flat(figures: RetrievalMetrics | Any) -> dict[str, Any]:
    """Figures of several directions under one name each, such as ``text_to_video_r1_percent``."""
    return {f"{way}_{name}": value for way, values in asdict(figures).items() for name, value in values.items()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Queries:
    """What ``predictions.csv`` calls the rows and columns of a similarity; ``own [captions]`` is the clip of each."""

    clip_ids: Sequence[str]
    captions: Sequence[str]
    own: Tensor
    bad: Mapping[str, str]

    def caption_ids(self) -> list[str]:
        """``clip#0``, ``clip#1`` ... in the order of a clip's captions."""
        seen = [0] * len(self.clip_ids)
        names = []
        for clip in self.own.tolist():
            names.append(f"{self.clip_ids[clip]}#{seen[clip]}")
            seen[clip] += 1
        return names


def write_predictions(path: Path, similarity_of: Mapping[str, Tensor], queries: Queries) -> None:
    """One row per query of either direction and convention: its rank and the ids of the best ten, ties by place."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for weights, similarity in similarity_of.items():
            writer.writerows([weights, *row] for row in _rows(similarity, queries))


def _rows(similarity: Tensor, queries: Queries) -> Iterator[list[object]]:
    ranks, own, clip_ids, caption_ids = (
        rank(similarity, queries.own),
        queries.own,
        queries.clip_ids,
        queries.caption_ids(),
    )
    reasons = [queries.bad.get(name, "") for name in clip_ids]
    listed = zip(caption_ids, ranks.text_to_video.tolist(), _best(similarity, clip_ids), strict=True)
    for clip, text, (query, place, best) in zip(own.tolist(), queries.captions, listed, strict=True):
        yield ["text_to_video", query, f"{place:g}", *best, text, reasons[clip]]
    groups = torch.full((len(clip_ids), len(clip_ids)), -math.inf, dtype=similarity.dtype)
    groups.scatter_reduce_(0, own[:, None].expand_as(similarity), similarity, "amax")
    for way, places, scores, names in (
        ("video_to_text_best_caption", ranks.video_to_text_best_caption, similarity.T, caption_ids),
        ("video_to_text_group_max", ranks.video_to_text_group_max, groups.T, clip_ids),
    ):
        listed = zip(clip_ids, places.tolist(), _best(scores, names), strict=True)
        for (query, place, best), reason in zip(listed, reasons, strict=True):
            yield [way, query, f"{place:g}", *best, "", reason]


def _best(scores: Tensor, names: Sequence[str]) -> Iterator[list[str]]:
    """The names of each row's best columns; empty behind those that could be compared."""
    for rows in torch.split(scores, _ROWS_AT_ONCE):
        values, places = rows.sort(dim=1, descending=True, stable=True)
        for some, where in zip(values[:, :N_LISTED].tolist(), places[:, :N_LISTED].tolist(), strict=True):
            best = [names[i] for value, i in zip(some, where, strict=True) if value > -math.inf]
            yield best + [""] * (N_LISTED - len(best))
