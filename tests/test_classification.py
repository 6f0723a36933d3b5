"""Top-k and mean class accuracy, and merged views, by hand and against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from oskar.errors import InputError
from oskar.metrics.classification import (
    accuracy_percent,
    chance_percent,
    is_top_k,
    mean_class_accuracy_percent,
    merge_views,
)


def test_ties_go_to_the_lower_class() -> None:
    """A constant score vector names class 0, never every class."""
    scores, labels = torch.zeros(4, 4), torch.arange(4)
    assert is_top_k(scores, labels, 1).tolist() == [True, False, False, False]
    assert is_top_k(scores, labels, 2).tolist() == [True, True, False, False]
    assert is_top_k(scores, labels, 4).tolist() == [True] * 4
    tied = torch.tensor([[0.1, 0.7, 0.7, 0.2]]).expand(4, -1)
    assert is_top_k(tied, labels, 1).tolist() == [False, True, False, False]
    assert is_top_k(tied, labels, 2).tolist() == [False, True, True, False]
    assert is_top_k(tied, labels, 3).tolist() == [False, True, True, True]


def test_the_first_of_the_top_is_the_argmax_of_predictions() -> None:
    scores = torch.randint(0, 3, (500, 7), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(500) % 7
    assert torch.equal(is_top_k(scores, labels, 1), scores.argmax(1) == labels)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 40), classes=st.integers(3, 12), seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_without_ties_it_is_scikit_learns(n: int, classes: int, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.arange(classes * n).reshape(n, classes), axis=1).astype(np.float32)
    labels = rng.integers(0, classes, n)
    right = is_top_k(torch.from_numpy(scores), torch.from_numpy(labels), k)
    k = min(k, classes - 1)  # scikit-learn warns where every class is in the top
    expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(classes))
    ours = is_top_k(torch.from_numpy(scores), torch.from_numpy(labels), k)
    assert accuracy_percent(ours, n) == pytest.approx(100 * expected)
    assert bool((right | ~ours).all())  # a larger k never loses one
    one = is_top_k(torch.from_numpy(scores), torch.from_numpy(labels), 1)
    assert accuracy_percent(one, n) == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))


def test_more_places_than_classes_are_all_classes() -> None:
    assert is_top_k(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), 5).all()


def test_what_could_not_be_read_is_wrong() -> None:
    is_right = torch.tensor([True, True, False])
    assert accuracy_percent(is_right, 3) == pytest.approx(200 / 3)
    assert accuracy_percent(is_right, 4) == 50.0
    assert accuracy_percent(torch.empty(0, dtype=torch.bool), 4) == 0.0


def test_chance_is_the_most_frequent_class() -> None:
    assert chance_percent(torch.tensor([2, 2, 0, 5])) == 50.0
    assert chance_percent(torch.tensor([1])) == 100.0
    assert chance_percent(torch.arange(8)) == 12.5


def test_views_merge_by_hand() -> None:
    """Logarithms of probabilities are logits; video 5 has two views, video 3 one, which came twice."""
    rows = [
        (5, 1, [0.2, 0.8, 0.0]),
        (3, 0, [0.5, 0.25, 0.25]),
        (5, 0, [0.6, 0.0, 0.4]),
        (3, 0, [0.5, 0.25, 0.25]),
    ]
    logits = torch.tensor([p for _, _, p in rows]).clamp_min(1e-30).log()
    videos, views = (torch.tensor([row[i] for row in rows]) for i in (0, 1))
    merged = merge_views(logits, videos, views)
    assert merged.video_ids.tolist() == [3, 5]
    assert merged.probabilities.dtype == torch.float64
    expected = torch.tensor([[0.5, 0.25, 0.25], [0.4, 0.4, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(merged.probabilities, expected, atol=1e-7, rtol=0)
    assert is_top_k(merged.probabilities, torch.tensor([0, 2]), 1).tolist() == [True, False]


def test_probabilities_are_averaged_not_logits() -> None:
    """One sure view outvotes two lukewarm ones among logits, but not among probabilities."""
    logits = torch.tensor([[100.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    merged = merge_views(logits, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert int(merged.probabilities.argmax()) == 1
    assert int(logits.mean(0).argmax()) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_videos=st.integers(1, 12), n_padded=st.integers(0, 5))
def test_merging_knows_no_order_no_number_and_no_repetition(seed: int, n_videos: int, n_padded: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.iinfo(np.int64).max, n_videos, replace=False)
    pairs = [(video, view) for video in ids for view in rng.choice(15, rng.integers(1, 8), replace=False)]
    logits = {pair: rng.normal(0, 3, 6) for pair in pairs}
    expected = {}
    for video in ids:
        exps = [np.exp(logits[pair]) for pair in pairs if pair[0] == video]
        expected[int(video)] = np.mean([e / e.sum() for e in exps], axis=0)
    shuffled = [pairs[i] for i in rng.permutation(len(pairs))]
    padded = shuffled + [pairs[i] for i in rng.integers(0, len(pairs), n_padded)]
    results = []
    for rows in (pairs, padded):
        videos, views = (torch.tensor([int(pair[i]) for pair in rows]) for i in (0, 1))
        results.append(merge_views(torch.tensor(np.array([logits[pair] for pair in rows])), videos, views))
    assert torch.equal(results[0].probabilities, results[1].probabilities)
    for merged in results:
        assert merged.video_ids.tolist() == sorted(expected)
        for video, found in zip(merged.video_ids.tolist(), merged.probabilities, strict=True):
            np.testing.assert_allclose(found.numpy(), expected[video], rtol=1e-12)


def test_merged_views_score_as_scikit_learn_scores_their_means() -> None:
    rng = np.random.default_rng(3)
    logits, labels = torch.from_numpy(rng.normal(size=(40 * 15, 7))), torch.from_numpy(rng.integers(0, 7, 40))
    merged = merge_views(logits, torch.arange(40).repeat_interleave(15), torch.arange(15).repeat(40))
    means = torch.softmax(logits, 1).view(40, 15, 7).mean(1)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels.numpy(), means.numpy(), k=k, labels=np.arange(7))
        assert accuracy_percent(is_top_k(merged.probabilities, labels, k), 40) == pytest.approx(100 * expected)


def test_half_precision_is_summed_in_double() -> None:
    logits = torch.full((4096, 2), 5.0).bfloat16()
    merged = merge_views(logits, torch.zeros(4096, dtype=torch.int64), torch.arange(4096))
    assert merged.probabilities.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    logits = torch.zeros(3, 2)
    logits[1, 1] = value
    with pytest.raises(InputError, match=r"view 4 of video 8 has scores that are not finite\. Fix: "):
        merge_views(logits, torch.tensor([7, 8, 9]), torch.tensor([3, 4, 5]))


def test_mean_class_accuracy_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 5])
    is_right = torch.tensor([True, True, True, False, True, False, False])
    assert mean_class_accuracy_percent(is_right, labels) == pytest.approx(100 * (3 / 4 + 1 / 2 + 0) / 3)
    assert mean_class_accuracy_percent(torch.tensor([True]), torch.tensor([9])) == 100.0
    with pytest.raises(InputError, match="no item"):
        mean_class_accuracy_percent(torch.empty(0, dtype=torch.bool), torch.empty(0, dtype=torch.int64))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(2, 9))
def test_mean_class_accuracy_is_scikit_learns_balanced_accuracy(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    guesses = labels[rng.permutation(n)]  # of classes that are there: scikit-learn warns about others
    found = mean_class_accuracy_percent(torch.from_numpy(guesses == labels), torch.from_numpy(labels))
    if len(set(labels)) > 1:
        assert found == pytest.approx(100 * balanced_accuracy_score(labels, guesses))
