"""Ranks of text-video retrieval against all orders of tied items, by hand, and under permutations."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oskar.errors import InputError
from oskar.metrics import retrieval
from oskar.metrics.retrieval import (
    best_caption_ranks,
    dual_softmax,
    group_max_ranks,
    retrieval_metrics,
    summarise_ranks,
    text_to_video_ranks,
)

Rule = Callable[[Tensor, Tensor], Tensor]
WORKED = torch.tensor(
    [
        [0.95, 0.90, 0.10],
        [0.85, 0.80, 0.20],
        [0.30, 0.50, 0.40],
        [0.70, 0.10, 0.70],
        [0.50, 0.45, 0.40],
        [0.1, 0.2, 0.9],
    ]
)
WORKED_OWN = torch.tensor([0, 0, 1, 2, 2, 2])


def places_over_all_orders(scores: Sequence[float], is_own: Sequence[bool]) -> list[int]:
    """The place of the first own item in each sorting of the gallery that its ties allow."""
    places = []
    for order in itertools.permutations(range(len(scores))):
        ranking = sorted(range(len(scores)), key=lambda item: (-scores[item], order[item]))
        places.append(1 + next(place for place, item in enumerate(ranking) if is_own[item]))
    return places


def by_all_orders(rows: list[list[float]], own: list[int]) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
    """Ranks text to video, best caption and group maximum: midway between the best and the worst place."""
    n_videos = len(rows[0])
    videos = range(n_videos)

    def middle(scores: Sequence[float], is_own: Sequence[bool]) -> Fraction:
        places = places_over_all_orders(scores, is_own)
        if sum(is_own) == 1:  # then this is the mean over all orders too
            assert Fraction(sum(places), len(places)) == Fraction(min(places) + max(places), 2)
        return Fraction(min(places) + max(places), 2)

    to_video = [middle(row, [j == own[i] for j in videos]) for i, row in enumerate(rows)]
    captions = [middle([row[j] for row in rows], [k == j for k in own]) for j in videos]
    groups = [
        middle(
            [max(row[j] for row, k in zip(rows, own, strict=True) if k == g) for g in videos], [g == j for g in videos]
        )
        for j in videos
    ]
    return to_video, captions, groups


@st.composite
def tied_problems(draw: st.DrawFn, max_captions: int = 6, max_videos: int = 4) -> tuple[list[list[float]], list[int]]:
    """A matrix of few different scores, and captions in any order, every video having one at least."""
    n_videos = draw(st.integers(1, max_videos))
    n_more = draw(st.integers(0, max_captions - n_videos))
    more = draw(st.lists(st.integers(0, n_videos - 1), min_size=n_more, max_size=n_more))
    own = draw(st.permutations([*range(n_videos), *more]))
    score = st.sampled_from([-math.inf, -1.0, 0.0, 1.0, 2.0])
    row = st.lists(score, min_size=n_videos, max_size=n_videos)
    return draw(st.lists(row, min_size=len(own), max_size=len(own))), list(own)


def as_tensors(problem: tuple[list[list[float]], list[int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor(problem[0]), torch.tensor(problem[1])


def test_the_worked_example() -> None:
    assert text_to_video_ranks(WORKED, WORKED_OWN).tolist() == [1, 1, 1, 1.5, 3, 1]
    assert group_max_ranks(WORKED, WORKED_OWN).tolist() == [1, 2, 1]
    assert best_caption_ranks(WORKED, WORKED_OWN).tolist() == [1, 3, 1]
    metrics = retrieval_metrics(WORKED, WORKED_OWN)
    to_video = metrics.text_to_video
    assert to_video.r1_percent == pytest.approx(66.67, abs=0.005)
    assert (to_video.r5_percent, to_video.r10_percent, to_video.median_rank) == (100, 100, 1)
    assert to_video.mean_rank == pytest.approx(1.4167, abs=5e-5)
    assert to_video.n_queries == 6
    for summary, mean_rank in (
        (metrics.video_to_text_group_max, 1.3333),
        (metrics.video_to_text_best_caption, 1.6667),
    ):
        assert summary.r1_percent == pytest.approx(66.67, abs=0.005)
        assert summary.mean_rank == pytest.approx(mean_rank, abs=5e-5)
        assert summary.n_queries == 3


@settings(max_examples=60, deadline=None)
@given(tied_problems())
def test_ranks_are_those_of_all_orders_of_what_is_tied(problem: tuple[list[list[float]], list[int]]) -> None:
    similarity, own = as_tensors(problem)
    to_video, captions, groups = by_all_orders(*problem)
    assert text_to_video_ranks(similarity, own).tolist() == to_video
    assert best_caption_ranks(similarity, own).tolist() == captions
    assert group_max_ranks(similarity, own).tolist() == groups


@settings(max_examples=100, deadline=None)
@given(tied_problems(max_captions=30, max_videos=9), st.integers(0, 2**31))
def test_order_is_of_no_account(problem: tuple[list[list[float]], list[int]], seed: int) -> None:
    similarity, own = as_tensors(problem)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(own), generator=generator)
    columns = torch.randperm(similarity.shape[1], generator=generator)
    moved, moved_own = similarity[rows][:, columns], columns.argsort()[own[rows]]
    assert torch.equal(text_to_video_ranks(moved, moved_own), text_to_video_ranks(similarity, own)[rows])
    for rule in (best_caption_ranks, group_max_ranks):
        assert torch.equal(rule(moved, moved_own), rule(similarity, own)[columns])
    stretched = similarity.double().exp() * 3 - 7  # any rising function
    stretched = torch.where(similarity.isneginf(), similarity.double(), stretched)
    assert retrieval_metrics(stretched, own) == retrieval_metrics(similarity, own)


@settings(max_examples=100, deadline=None)
@given(tied_problems(max_captions=30, max_videos=9))
def test_groups_are_never_worse_and_one_caption_each_is_the_transpose(
    problem: tuple[list[list[float]], list[int]],
) -> None:
    similarity, own = as_tensors(problem)
    assert (group_max_ranks(similarity, own) <= best_caption_ranks(similarity, own)).all()
    n = similarity.shape[1]
    one_each, order = similarity[:n], torch.arange(n)
    transposed = text_to_video_ranks(one_each.T, order)
    assert torch.equal(best_caption_ranks(one_each, order), transposed)
    assert torch.equal(group_max_ranks(one_each, order), transposed)


@pytest.mark.parametrize("n_videos", [2, 7, 300])
@pytest.mark.parametrize("n_captions", [1, 5])
def test_a_constant_matrix_is_never_right(n_videos: int, n_captions: int) -> None:
    own = torch.arange(n_videos).repeat(n_captions)
    similarity = torch.full((len(own), n_videos), 0.25)
    metrics = retrieval_metrics(similarity, own)
    assert metrics.text_to_video.r1_percent == 0
    assert metrics.text_to_video.mean_rank == metrics.text_to_video.median_rank == (n_videos + 1) / 2
    assert metrics.video_to_text_group_max == retrieval_metrics(similarity[:n_videos], own[:n_videos]).text_to_video
    assert metrics.video_to_text_best_caption.r1_percent == 0
    if n_videos == 300:
        assert metrics.text_to_video.r10_percent == metrics.video_to_text_best_caption.r10_percent == 0


def test_equal_sentences_of_one_video_do_not_push_each_other_down() -> None:
    similarity, own = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0, 1])
    assert best_caption_ranks(similarity, own).tolist() == [1, 1]
    similarity[2, 0] = 0.9  # one foreign caption ties with the two
    assert best_caption_ranks(similarity, own).tolist() == [1.5, 1]


@pytest.mark.parametrize("rule", [text_to_video_ranks, best_caption_ranks, group_max_ranks])
def test_blocks_change_nothing(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    similarity = torch.randint(-4, 5, (101, 13), generator=generator).float()
    own = torch.cat([torch.arange(13), torch.randint(0, 13, (88,), generator=generator)])
    whole, reranked = rule(similarity, own), dual_softmax(similarity, 2.0)
    for n_values in (1, 40, 13 * 100):
        monkeypatch.setattr(retrieval, "BLOCK_VALUES", n_values)
        assert torch.equal(rule(similarity, own), whole)
        torch.testing.assert_close(dual_softmax(similarity, 2.0), reranked, rtol=1e-12, atol=0)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest tensor that any operation makes, views of the given one aside."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storage = given.untyped_storage().data_ptr()
        self.n_values = 0

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        made = func(*args, **(kwargs if isinstance(kwargs, dict) else {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.storage:
                self.n_values = max(self.n_values, tensor.numel())
        return made


@pytest.mark.parametrize("rule", [text_to_video_ranks, best_caption_ranks, group_max_ranks])
def test_nothing_of_the_size_of_the_matrix_is_made(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a block, a value for each caption, or one for each pair of videos."""
    n_captions, n_videos = 3000, 40
    monkeypatch.setattr(retrieval, "BLOCK_VALUES", 2000)
    similarity = torch.rand(n_captions, n_videos)
    with Largest(similarity) as largest:
        rule(similarity, torch.arange(n_captions) % n_videos)
    assert 2000 <= largest.n_values <= n_captions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_compared_exactly(dtype: torch.dtype) -> None:
    similarity = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    own = torch.arange(40) % 8
    assert retrieval_metrics(similarity, own) == retrieval_metrics(similarity.double(), own)
    if dtype == torch.float64:  # a difference that float32 does not see
        close = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=dtype).expand(2, 2)
        assert text_to_video_ranks(close, torch.tensor([0, 1])).tolist() == [2, 1]


@given(st.lists(st.integers(2, 60).map(lambda halves: halves / 2), min_size=1, max_size=40))
def test_summaries_are_those_of_the_statistics_module(ranks: list[float]) -> None:
    summary = summarise_ranks(torch.tensor(ranks))
    assert summary.median_rank == statistics.median(ranks)
    assert summary.mean_rank == pytest.approx(statistics.fmean(ranks))
    shares = [100 * statistics.fmean(rank <= k for rank in ranks) for k in (1, 5, 10)]
    assert [summary.r1_percent, summary.r5_percent, summary.r10_percent] == pytest.approx(shares)


def test_a_rank_between_two_counts_as_the_later() -> None:
    assert summarise_ranks(torch.tensor([1.5, 5.5, 10.5, 1.0])).r1_percent == 25
    assert summarise_ranks(torch.tensor([1.5, 5.5, 10.5, 1.0])).r5_percent == 50
    assert summarise_ranks(torch.tensor([1.5, 5.5, 10.5, 1.0])).median_rank == 3.5


def test_an_unreadable_video_is_last_for_its_captions_and_in_nobodys_way() -> None:
    similarity = torch.rand(60, 30, generator=torch.Generator().manual_seed(1))
    own = torch.arange(60) % 30
    kept = text_to_video_ranks(similarity, own)
    similarity[:, 4] = -math.inf
    ranks = text_to_video_ranks(similarity, own)
    assert ranks[own == 4].tolist() == [30, 30]
    assert (ranks[own != 4] <= kept[own != 4]).all()


def test_dual_softmax_by_hand() -> None:
    similarity = torch.tensor([[0.2, -0.4], [0.1, 0.3]])
    weight = [[math.exp(t) for t in row] for row in ((1.0, -2.0), (0.5, 1.5))]  # five times the similarity
    expected = [
        [0.2 * weight[0][0] / (weight[0][0] + weight[1][0]), -0.4 * weight[0][1] / (weight[0][1] + weight[1][1])],
        [0.1 * weight[1][0] / (weight[0][0] + weight[1][0]), 0.3 * weight[1][1] / (weight[0][1] + weight[1][1])],
    ]
    reranked = dual_softmax(similarity, 5.0)
    assert reranked.dtype == torch.float64
    torch.testing.assert_close(reranked, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_dual_softmax_uses_the_other_queries() -> None:
    """Video 0 draws every query to itself; the prior over the queries takes that away."""
    similarity, own = torch.tensor([[0.9, 0.1], [0.6, 0.5]]), torch.tensor([0, 1])
    assert text_to_video_ranks(similarity, own).tolist() == [1, 2]
    assert text_to_video_ranks(dual_softmax(similarity, 100.0), own).tolist() == [1, 1]


def test_dual_softmax_keeps_what_could_not_be_read() -> None:
    similarity = torch.tensor([[0.9, -math.inf], [0.6, -math.inf]])
    reranked = dual_softmax(similarity, 10.0)
    assert reranked[:, 1].isneginf().all()
    assert reranked[:, 0].isfinite().all()


@pytest.mark.parametrize(
    ("similarity", "own", "message"),
    [
        (torch.tensor([[0.1, 0.2], [math.nan, 0.3]]), [0, 1], r"similarity\[1, 0\] = nan.*Fix: look for"),
        (torch.tensor([[0.1, math.inf]]), [0], r"similarity\[0, 1\] = inf"),
        (torch.zeros(3), [0, 0, 0], r"similarity is torch.float32 of shape \[3\]"),
        (torch.zeros(2, 2, dtype=torch.int64), [0, 1], r"similarity is torch.int64 of shape \[2, 2\]"),
        (torch.zeros(0, 2), [], r"of shape \[0, 2\]"),
        (torch.zeros(2, 2), [0, 1, 1], r"own is torch.int64 of shape \[3\], similarity has 2 captions"),
        (torch.zeros(2, 2), [0.0, 1.0], r"own is torch.float32"),
        (torch.zeros(2, 2), [0, 2], r"own\[1\] = 2, but there are 2 videos"),
        (torch.zeros(2, 2), [-1, 1], r"own\[0\] = -1"),
        (torch.zeros(2, 3), [0, 2], r"own: video 1 has no caption"),
    ],
)
@pytest.mark.parametrize("rule", [text_to_video_ranks, best_caption_ranks, group_max_ranks])
def test_wrong_input_is_refused(rule: Rule, similarity: Tensor, own: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rule(similarity, torch.tensor(own))


def test_a_nan_beyond_the_first_block_is_named_by_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK_VALUES", 4)
    similarity = torch.zeros(9, 2)
    similarity[7, 1] = math.nan
    with pytest.raises(InputError, match=r"similarity\[7, 1\] = nan"):
        text_to_video_ranks(similarity, torch.arange(9) % 2)
    with pytest.raises(InputError, match=r"similarity\[7, 1\] = nan"):
        dual_softmax(similarity, 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_positive_and_finite(temperature: float) -> None:
    with pytest.raises(InputError, match=r"temperature = .*Fix: give a positive number"):
        dual_softmax(WORKED, temperature)


def test_no_query_is_no_result() -> None:
    with pytest.raises(InputError, match="there is no query"):
        summarise_ranks(torch.empty(0))
