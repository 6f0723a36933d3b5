"""The nearest vectors: by comparing with all of them, or with those of the lists whose centres are near.

Vectors have length 1, so that a product is a cosine. Comparing with all is one matrix product over a memory-mapped
file, which memory bandwidth bounds: below ``approximate_above`` rows nothing else is needed. Above, the rows are in
lists around centres of spherical k-means (an inverted file: Sivic and Zisserman 2003; Jégou et al. 2011, without the
compression), and a query looks into the nearest lists only. How many lists is chosen by the recall that is measured
against comparing with all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.progress import Progress
from oskar.randomness import hash_id, integers

RECALL_AT = 10
RECALL_TARGET = 0.95
APPROXIMATE_ABOVE = 250_000  # rows; see docs/search.md for the times below and above
_ITERATIONS, _SAMPLE_PER_LIST = 8, 64
_ROWS_AT_ONCE, _QUERIES_AT_ONCE = 8192, 32
_N_QUERIES = 128  # to choose the number of lists looked into, and as many again to measure the recall
_SAMPLE_STREAM, _QUERY_STREAM = 9201, 9202


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lists:
    """Rows by their nearest centre: list c is ``row_idx[offsets[c] : offsets[c + 1]]``.

    ``centres`` float32 ``[C, D]`` of length 1, ``offsets`` int64 ``[C + 1]``, ``row_idx`` int64 ``[n]`` without the
    rows that are 0. ``n_probes`` lists are looked into; ``recall`` is the share of the true ten nearest found so,
    over ``n_queries`` rows of the index that had no part in choosing ``n_probes``.
    """

    centres: Tensor
    offsets: Tensor
    row_idx: Tensor
    n_probes: int
    recall: float
    n_queries: int

    def candidates(self, query: Tensor, n_probes: int | None = None) -> Tensor:
        """The rows of the lists that are nearest to ``query`` ``[D]``."""
        wanted = min(self.n_probes if n_probes is None else n_probes, len(self.centres))
        chosen = (self.centres @ query).topk(wanted).indices.tolist()
        ends = self.offsets.tolist()
        return torch.cat([self.row_idx[ends[c] : ends[c + 1]] for c in chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The nearest rows in falling order of similarity: ``row_idx`` int64 and ``similarity`` float32, ``[k]``."""

    row_idx: Tensor
    similarity: Tensor
    is_approximate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Space:
    """Vectors ``[n, D]`` of length 1, or 0 where ``is_present`` bool ``[n]`` is not set; ``lists`` above some size."""

    name: str
    vectors: Tensor
    is_present: Tensor
    lists: Lists | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SpaceQuery:
    """A vector ``[D]`` to look for in one space; its length is the weight of that space in the sum."""

    space: Space
    vector: Tensor


def nearest(
    queries: Sequence[SpaceQuery], n_top: int, *, allowed_idx: Tensor | None = None, is_exact: bool = False
) -> Found:
    """The ``n_top`` rows with the largest sum of products over the queried spaces.

    A row that has a vector in none of these spaces is never found; one that lacks some of them gets 0 for each.
    ``allowed_idx`` int64 are the rows to choose among, all by default. With lists in every queried space, and no
    more rows allowed than an exact search takes, only the lists near the query are looked into, unless ``is_exact``
    or they hold fewer than ``n_top`` allowed rows.
    """
    n_rows = len(queries[0].space.vectors)
    near = None
    if not is_exact and all(q.space.lists is not None for q in queries):
        near = _near(queries, n_top, allowed_idx, n_rows)
    row_idx = allowed_idx if near is None else near
    scores = torch.zeros(n_rows if row_idx is None else len(row_idx))
    is_present = torch.zeros(len(scores), dtype=torch.bool)
    for query in queries:
        space = query.space
        scores += (space.vectors if row_idx is None else space.vectors[row_idx]) @ query.vector
        is_present |= space.is_present if row_idx is None else space.is_present[row_idx]
    scores.masked_fill_(~is_present, -torch.inf)
    found = _top(scores, row_idx, n_top)
    return Found(found.row_idx, found.similarity, is_approximate=near is not None)


def _near(queries: Sequence[SpaceQuery], n_top: int, allowed_idx: Tensor | None, n_rows: int) -> Tensor | None:
    """Candidates of all queried spaces; None where few rows are allowed or too few of them are near."""
    if allowed_idx is not None and len(allowed_idx) <= APPROXIMATE_ABOVE:
        return None
    is_near = torch.zeros(n_rows, dtype=torch.bool)
    for query in queries:
        if query.space.lists is not None:
            is_near[query.space.lists.candidates(query.vector)] = True
    found = is_near.nonzero()[:, 0] if allowed_idx is None else allowed_idx[is_near[allowed_idx]]
    return found if len(found) >= n_top else None


def _top(scores: Tensor, row_idx: Tensor | None, n_top: int) -> Found:
    """The best by score, equal ones in the order of their rows."""
    n_found = min(n_top, int(scores.isfinite().sum()))
    if n_found == 0:
        return Found(torch.empty(0, dtype=torch.int64), torch.empty(0))
    least = scores.topk(n_found).values[-1]
    places = (scores >= least).nonzero()[:, 0]
    rows = places if row_idx is None else row_idx[places]
    places = places[rows.argsort(stable=True)]
    places = places[scores[places].argsort(descending=True, stable=True)][:n_found]
    return Found(places if row_idx is None else row_idx[places], scores[places])


def build_lists(
    vectors: Tensor, is_present: Tensor, *, n_lists: int | None = None, target: float = RECALL_TARGET
) -> Lists:
    """Cluster the unit vectors that are present among ``[n, D]`` and choose how many lists a query looks into.

    The number of lists is the square root of that of the rows. The sample and the queries depend on the number of
    rows alone, so that an index is the same however often it is built.
    """
    present_idx = is_present.nonzero()[:, 0]
    n_lists = n_lists or max(round(len(present_idx) ** 0.5), 1)
    centres = _centres(vectors, present_idx, n_lists)
    nearest_centre = torch.empty(len(present_idx), dtype=torch.int64)
    with Progress(len(present_idx), unit="rows") as progress:
        for start in range(0, len(present_idx), _ROWS_AT_ONCE):
            some = present_idx[start : start + _ROWS_AT_ONCE]
            nearest_centre[start : start + len(some)] = (vectors[some] @ centres.T).argmax(1)
            progress.advance(0.0, len(some))
    order = nearest_centre.argsort(stable=True)
    sizes = torch.bincount(nearest_centre, minlength=n_lists)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    lists = Lists(
        centres=centres, offsets=offsets, row_idx=present_idx[order], n_probes=n_lists, recall=1.0, n_queries=0
    )
    return _calibrated(lists, vectors, present_idx, target)


def _centres(vectors: Tensor, present_idx: Tensor, n_lists: int) -> Tensor:
    """Spherical k-means (Dhillon and Modha 2001) on a sample; a centre that loses all its rows takes a new one."""
    n_sample = min(len(present_idx), _SAMPLE_PER_LIST * n_lists)
    sample = vectors[present_idx[_drawn(len(present_idx), n_sample, _SAMPLE_STREAM)]]
    centres = sample[:n_lists].clone()
    for _ in range(_ITERATIONS):
        assigned = torch.cat([(some @ centres.T).argmax(1) for some in torch.split(sample, _ROWS_AT_ONCE)])
        sums = torch.zeros_like(centres).index_add_(0, assigned, sample)
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp_min(1e-12), sample[-n_lists:])
    return centres


def _drawn(n: int, n_wanted: int, stream: int) -> Tensor:
    """``n_wanted`` different numbers below ``n``, in an order that depends on ``n`` alone."""
    keys = torch.arange(n) + hash_id(f"oskar-index/{n}")
    return integers(keys, stream, 2**62).argsort(stable=True)[:n_wanted]


def _calibrated(lists: Lists, vectors: Tensor, present_idx: Tensor, target: float) -> Lists:
    """The fewest lists, doubling from one, that reach ``target`` on some rows; the recall is measured on others."""
    query_idx = present_idx[_drawn(len(present_idx), 2 * _N_QUERIES, _QUERY_STREAM)]
    choosing, measuring = query_idx[::2], query_idx[1::2]
    true = _true_neighbours(vectors, query_idx)
    n_probes = 1
    while n_probes < len(lists.centres) and _recall(lists, vectors, choosing, true, n_probes) < target:
        n_probes = min(2 * n_probes, len(lists.centres))
    return Lists(
        centres=lists.centres,
        offsets=lists.offsets,
        row_idx=lists.row_idx,
        n_probes=n_probes,
        recall=_recall(lists, vectors, measuring, true, n_probes),
        n_queries=len(measuring),
    )


def _true_neighbours(vectors: Tensor, query_idx: Tensor) -> dict[int, set[int]]:
    true: dict[int, set[int]] = {}
    for some in torch.split(query_idx, _QUERIES_AT_ONCE):
        scores = vectors @ vectors[some].T
        best = scores.topk(min(RECALL_AT + 1, len(scores)), dim=0).indices.T.tolist()
        true |= {row: _without(row, near) for row, near in zip(some.tolist(), best, strict=True)}
    return true


def _without(row: int, near: Sequence[int]) -> set[int]:
    """The ten nearest rows, the row itself left out."""
    return set([other for other in near if other != row][:RECALL_AT])


def _recall(lists: Lists, vectors: Tensor, query_idx: Tensor, true: dict[int, set[int]], n_probes: int) -> float:
    n_found = n_true = 0
    for row in query_idx.tolist():
        among = lists.candidates(vectors[row], n_probes)
        near = _top(vectors[among] @ vectors[row], among, RECALL_AT + 1).row_idx.tolist()
        n_found += len(_without(row, near) & true[row])
        n_true += len(true[row])
    return n_found / n_true if n_true else 1.0
