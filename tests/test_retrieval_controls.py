"""Chance against all orders written out, and the ceiling of equal sentences against all rankings."""

from itertools import permutations
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oskar.metrics.retrieval import best_caption_ranks, group_max_ranks
from oskar.metrics.retrieval_controls import ExpectedRanks, expected_of_chance, sentence_ceiling


def orders_written_out(own: list[int]) -> tuple[list[int], list[int]]:
    """Ranks of every video under both conventions over every order of the captions, by counting places."""
    n_videos = max(own) + 1
    first_places, group_places = [], []
    for order in permutations(range(len(own))):
        videos = [own[caption] for caption in order]  # best caption first
        finish = list(dict.fromkeys(videos))
        for video in range(n_videos):
            first_places.append(videos.index(video) + 1)
            group_places.append(finish.index(video) + 1)
    return first_places, group_places


def require_same(expected: ExpectedRanks, ranks: list[int]) -> None:
    for k, found in ((1, expected.r1_percent), (5, expected.r5_percent), (10, expected.r10_percent)):
        assert found == pytest.approx(100 * sum(rank <= k for rank in ranks) / len(ranks), abs=1e-9)
    assert expected.mean_rank == pytest.approx(sum(ranks) / len(ranks))
    assert expected.median_rank == median(ranks)


@pytest.mark.parametrize("own", [[0], [0, 0], [0, 1], [0, 1, 2], [0, 0, 1], [1, 0, 1, 1, 2], [0, 0, 1, 2, 2, 2]])
def test_chance_is_the_mean_over_all_orders(own: list[int]) -> None:
    chance = expected_of_chance(torch.tensor(own))
    first_places, group_places = orders_written_out(own)
    require_same(chance.video_to_text_best_caption, first_places)
    require_same(chance.video_to_text_group_max, group_places)
    n_videos = max(own) + 1
    require_same(chance.text_to_video, list(range(1, n_videos + 1)))


def test_chance_of_large_galleries_is_met_by_random_similarities() -> None:
    """40 videos with 1 to 7 captions; 400 random matrices of the metric's own code."""
    own = torch.arange(40).repeat_interleave(torch.arange(40) % 7 + 1)
    chance = expected_of_chance(own)
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.rand(len(own), 40, generator=draw) for _ in range(400)]
    for expected, ranks_of in (
        (chance.video_to_text_best_caption, best_caption_ranks),
        (chance.video_to_text_group_max, group_max_ranks),
    ):
        ranks = torch.cat([ranks_of(similarity, own) for similarity in drawn])
        error = float(ranks.std()) / len(ranks) ** 0.5
        assert abs(expected.mean_rank - float(ranks.mean())) < 4 * error
        for k, found in ((1, expected.r1_percent), (5, expected.r5_percent), (10, expected.r10_percent)):
            share = found / 100
            error = (share * (1 - share) / len(ranks)) ** 0.5
            assert abs(float((ranks <= k).double().mean()) - share) < 4 * error


def best_possible(sentence: Tensor, own: Tensor, k: int) -> float:
    """The most queries that any choice of one order of videos per sentence gets right."""
    n_videos = int(own.max()) + 1
    n_right = 0
    for number in set(sentence.tolist()):
        videos = own[sentence == number].tolist()
        n_right += max(sum(order.index(v) < k for v in videos) for order in permutations(range(n_videos)))
    return 100 * n_right / len(own)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=7))
def test_the_ceiling_is_the_best_order_of_all(pairs: list[tuple[int, int]]) -> None:
    sentence, own = torch.tensor(pairs).unbind(1)
    ceiling = sentence_ceiling(sentence, own)
    assert ceiling["r1_percent"] == pytest.approx(best_possible(sentence, own, 1))
    assert ceiling["r5_percent"] == ceiling["r10_percent"] == 100.0  # of four videos


def test_the_ceiling_by_hand() -> None:
    """Seven clips with one sentence and one with its own: 2, 6 and all 8 of 8 queries."""
    ceiling = sentence_ceiling(torch.tensor([0] * 7 + [1]), torch.arange(8))
    assert ceiling == {"r1_percent": 25.0, "r5_percent": 75.0, "r10_percent": 100.0}
