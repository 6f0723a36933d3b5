"""Top-k accuracy, mean accuracy of the classes, and the merging of several views of a video."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.errors import InputError


@dataclass(frozen=True, slots=True)
class MergedViews:
    """Probabilities float64 ``[n, classes]`` of n videos; ``video_ids`` int64 ``[n]``, rising, each once."""

    video_ids: Tensor
    probabilities: Tensor


def merge_views(logits: Tensor, video_ids: Tensor, view_ids: Tensor) -> MergedViews:
    """The mean over the views of each video of the softmax of ``logits`` ``[m, classes]``.

    ``video_ids`` and ``view_ids`` int64 ``[m]`` say what each row shows. Rows may come in any order and videos may
    have different numbers of views; a view that comes again, as from a sampler that pads its last batch, counts once.

    Raises InputError where a logit is not finite.
    """
    logits, video_ids, view_ids = logits.detach().double().cpu(), video_ids.cpu(), view_ids.cpu()
    is_finite = logits.isfinite().all(dim=1)
    if not bool(is_finite.all()):
        row = int((~is_finite).int().argmax())
        raise InputError(
            f"view {int(view_ids[row])} of video {int(video_ids[row])} has scores that are not finite",
            fix="check the weights and the precision, or count the video as wrong",
        )
    order = view_ids.argsort(stable=True)
    order = order[video_ids[order].argsort(stable=True)]
    pairs = torch.stack([video_ids[order], view_ids[order]], dim=1)
    is_new = torch.ones(len(order), dtype=torch.bool)
    is_new[1:] = (pairs[1:] != pairs[:-1]).any(dim=1)
    order = order[is_new]
    videos, video_idx, n_views = torch.unique_consecutive(video_ids[order], return_inverse=True, return_counts=True)
    sums = torch.zeros(len(videos), logits.shape[1], dtype=torch.float64)
    sums.index_add_(0, video_idx, logits[order].softmax(dim=1))
    return MergedViews(video_ids=videos, probabilities=sums / n_views[:, None])


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


def mean_class_accuracy_percent(is_right: Tensor, labels: Tensor) -> float:
    """Mean over the classes among ``labels`` of the share of their items that are right, in percent.

    Items that could not be read belong in both, as wrong ones. Raises InputError without any item.
    """
    if not len(labels):
        raise InputError("no item to take the accuracy of", fix="name data with labelled clips")
    n_items = torch.bincount(labels)
    n_right = torch.bincount(labels, weights=is_right.double())
    is_there = n_items > 0
    return 100.0 * float((n_right[is_there] / n_items[is_there]).mean())


def chance_percent(labels: Tensor) -> float:
    """Accuracy of always naming the most frequent class of the test labels, in percent."""
    return 100.0 * float(torch.bincount(labels).max()) / len(labels)
