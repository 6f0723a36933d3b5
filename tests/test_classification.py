"""Top-k accuracy by hand and against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from oskar.metrics.classification import accuracy_percent, chance_percent, is_top_k


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
