"""Low-shot subsets: how many of each class, nested, and a function of ids and seed alone."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.data.low_shot import low_shot_ids
from oskar.errors import InputError

labelled = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(0, 5), min_size=1, max_size=120)
shares = st.sampled_from([0.05, 0.1, 0.5, 1.0])


@settings(max_examples=40, deadline=None)
@given(label_of=labelled, share=shares, seed=st.integers(0, 2), order=st.randoms(use_true_random=False))
def test_counts_order_and_repetition(label_of: dict[str, int], share: float, seed: int, order: Random) -> None:
    kept = low_shot_ids(label_of, share=share, seed=seed)
    n_all = Counter(label_of.values())
    assert Counter(label_of[name] for name in kept) == {c: max(1, round(share * n)) for c, n in n_all.items()}
    assert list(kept) == sorted(set(kept))
    items = list(label_of.items())
    order.shuffle(items)
    assert low_shot_ids(dict(items), share=share, seed=seed) == kept


@settings(max_examples=40, deadline=None)
@given(label_of=labelled, seed=st.integers(0, 2))
def test_subsets_of_a_seed_are_nested(label_of: dict[str, int], seed: int) -> None:
    few, some, half, everything = (set(low_shot_ids(label_of, share=s, seed=seed)) for s in (0.05, 0.1, 0.5, 1.0))
    assert few <= some <= half <= everything == set(label_of)


@settings(max_examples=40, deadline=None)
@given(label_of=labelled, seed=st.integers(0, 2))
def test_other_classes_do_not_matter(label_of: dict[str, int], seed: int) -> None:
    kept = low_shot_ids(label_of, share=0.5, seed=seed)
    alone = {name: label for name, label in label_of.items() if label == label_of[min(label_of)]}
    assert set(low_shot_ids(alone, share=0.5, seed=seed)) == set(kept) & set(alone)


def test_halves_go_to_the_even_number_and_a_class_keeps_one() -> None:
    sizes = {0: 1, 1: 10, 2: 30, 3: 50, 4: 70, 5: 580}  # times 0.05: 0.05, 0.5, 1.5, 2.5, 3.5, 29
    label_of = {f"{label}/{i}": label for label, n in sizes.items() for i in range(n)}
    kept = low_shot_ids(label_of, share=0.05, seed=0)
    assert Counter(label_of[name] for name in kept) == {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 29}


def test_every_clip_is_as_likely_and_seeds_differ() -> None:
    """Over many seeds each of 40 clips comes up in a tenth of the subsets, and pairs are not tied together."""
    label_of = {f"clip{i}": 0 for i in range(40)}
    subsets = [low_shot_ids(label_of, share=0.1, seed=seed) for seed in range(2000)]
    n_kept = Counter(name for subset in subsets for name in subset)
    assert sum(n_kept.values()) == 2000 * 4
    # 200 expected, standard deviation 13.4: 5 of them on each side
    assert max(abs(n_kept[name] - 200) for name in label_of) < 67
    n_both = sum("clip0" in subset and "clip1" in subset for subset in subsets)
    assert abs(n_both - 2000 * 4 * 3 / (40 * 39)) < 5 * 3.9
    assert len({subsets[seed] for seed in range(3)}) == 3


def test_what_cannot_be_shared_is_an_input_error() -> None:
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=rf"share = {share}\. Fix: use a share above 0"):
            low_shot_ids({"a": 0}, share=share, seed=0)
    with pytest.raises(InputError, match="no labelled clips"):
        low_shot_ids({}, share=0.5, seed=0)
