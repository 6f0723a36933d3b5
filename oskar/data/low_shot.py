"""Subsets of the training clips with few labels."""

from collections import defaultdict
from collections.abc import Mapping

import torch

from oskar.errors import InputError
from oskar.randomness import clip_keys, hash_id, uniform64

_ORDER_STREAM = 9101


def low_shot_ids(label_of: Mapping[str, int], *, share: float, seed: int) -> tuple[str, ...]:
    """The sorted ids of a random share of each class of ``label_of`` (clip id to label id).

    Of the n_c clips of a class ``max(1, round(share n_c))`` are kept, halves rounded to even. The order in which
    a class gives its clips depends on seed and ids alone, so the subsets of one seed are nested: 5 % lies in 10 %.

    Raises InputError where the share is not in (0, 1] or there is no clip.
    """
    if not 0 < share <= 1:
        raise InputError(f"share = {share}", fix="use a share above 0 and at most 1, such as 0.05")
    if not label_of:
        raise InputError("no labelled clips to take a share of", fix="name data whose training clips have labels")
    ids_of: defaultdict[int, list[str]] = defaultdict(list)
    for clip_id in sorted(label_of):
        ids_of[label_of[clip_id]].append(clip_id)
    kept: list[str] = []
    for ids in ids_of.values():
        keys = clip_keys(seed, 0, torch.tensor([hash_id(clip_id) for clip_id in ids]))
        order = uniform64(keys, _ORDER_STREAM).argsort(stable=True).tolist()
        kept += [ids[i] for i in order[: max(1, round(share * len(ids)))]]
    return tuple(sorted(kept))
