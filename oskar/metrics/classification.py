"""Top-k accuracy and how uncertain it is."""

import torch
from torch import Tensor


def is_top_k(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Bool ``[n]``: the true class is among the k largest scores of ``[n, classes]``.

    Ties go to the lower class index, so that a constant score vector does not count as right for
    every class.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (order[:, :k] == labels[:, None]).any(1)


def accuracy_percent(is_right: Tensor, n_expected: int) -> float:
    """Share of ``n_expected`` items that are right, in percent; items that could not be read are wrong."""
    return 100.0 * float(is_right.double().sum()) / n_expected


def chance_percent(labels: Tensor) -> float:
    """Accuracy of always naming the most frequent class of the test labels, in percent."""
    return 100.0 * float(torch.bincount(labels).max()) / len(labels)
