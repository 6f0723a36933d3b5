"""Nearest rows against a calculation in float64 that compares with all, and lists whose recall is counted anew."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from oskar.searching import nearest as module
from oskar.searching.nearest import Lists, Space, SpaceQuery, build_lists, nearest


def unit(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values / np.linalg.norm(values, axis=-1, keepdims=True)).float()


def space(vectors: Tensor, name: str = "video", absent: tuple[int, ...] = (), lists: Lists | None = None) -> Space:
    is_present = torch.ones(len(vectors), dtype=torch.bool)
    is_present[list(absent)] = False
    return Space(name=name, vectors=vectors * is_present[:, None], is_present=is_present, lists=lists)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 5.0))
@settings(max_examples=60, deadline=None)
def test_two_spaces_are_summed_over_the_allowed_rows(seed: int, n: int, n_top: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = (unit(rng.normal(size=(n, width))) for width in (5, 3))
    absent = tuple(np.flatnonzero(rng.random(n) < 0.3).tolist())
    absent_too = tuple(np.flatnonzero(rng.random(n) < 0.3).tolist())
    allowed = np.flatnonzero(rng.random(n) < 0.7)
    queries = unit(rng.normal(size=(1, 5)))[0], weight * unit(rng.normal(size=(1, 3)))[0]
    found = nearest(
        [
            SpaceQuery(space(first, absent=absent), queries[0]),
            SpaceQuery(space(second, "text", absent=absent_too), queries[1]),
        ],
        n_top,
        allowed_idx=torch.from_numpy(allowed),
    )
    scores: dict[int, float] = {}
    for row in allowed.tolist():
        if row in absent and row in absent_too:
            continue
        parts = [
            float(np.dot(v[row].double().numpy(), q.double().numpy())) * (row not in gone)
            for v, q, gone in zip((first, second), queries, (absent, absent_too), strict=True)
        ]
        scores[row] = sum(parts)
    wanted = sorted(scores, key=lambda row: -scores[row])[:n_top]
    assert [scores[row] for row in found.row_idx.tolist()] == pytest.approx([scores[row] for row in wanted], abs=1e-5)
    assert found.similarity.tolist() == pytest.approx([scores[row] for row in wanted], abs=1e-5)
    assert not found.is_approximate


def test_equal_rows_come_in_their_order() -> None:
    vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    found = nearest([SpaceQuery(space(vectors), torch.tensor([1.0, 0.0]))], 2)
    assert found.row_idx.tolist() == [1, 2]
    found = nearest([SpaceQuery(space(vectors), torch.tensor([1.0, 0.0]))], 4, allowed_idx=torch.tensor([4, 3, 2]))
    assert found.row_idx.tolist() == [2, 4, 3]
    assert len(nearest([SpaceQuery(space(vectors), vectors[0])], 3, allowed_idx=torch.tensor([]).long()).row_idx) == 0


def clustered(n: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(20, 16))[rng.integers(0, 20, n)] + 0.4 * rng.normal(size=(n, 16)))


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return clustered(1500)


@pytest.fixture(scope="module")
def lists(vectors: Tensor) -> Lists:
    is_present = torch.ones(len(vectors), dtype=torch.bool)
    is_present[7] = False
    return build_lists(vectors, is_present, target=0.9)


def test_every_present_row_is_in_the_list_of_its_nearest_centre(vectors: Tensor, lists: Lists) -> None:
    assert sorted(lists.row_idx.tolist()) == [row for row in range(1500) if row != 7]
    assert len(lists.centres) == round(1499**0.5)
    assert lists.centres.norm(dim=1).tolist() == pytest.approx([1.0] * len(lists.centres), abs=1e-5)
    for c in range(len(lists.centres)):
        for row in lists.row_idx[lists.offsets[c] : lists.offsets[c + 1]].tolist():
            products = lists.centres.double() @ vectors[row].double()
            assert products[c] >= products.max() - 1e-6


def test_the_stated_recall_is_what_searching_finds(vectors: Tensor, lists: Lists) -> None:
    """Over 400 other rows; the two samples differ by their noise alone."""
    assert 0.9 <= lists.recall <= 1.0
    assert 1 <= lists.n_probes < len(lists.centres)
    assert lists.n_queries == 128
    with_lists, products = space(vectors, absent=(7,), lists=lists), (vectors.double() @ vectors.double().T).numpy()
    n_found = 0
    for row in range(100, 500):
        found = nearest([SpaceQuery(with_lists, vectors[row])], 11)
        assert found.is_approximate
        true = [other for other in np.argsort(-products[row]).tolist() if other not in (row, 7)][:10]
        n_found += len(set(found.row_idx.tolist()) & set(true))
    assert n_found / 4000 == pytest.approx(lists.recall, abs=0.06)
    exact = nearest([SpaceQuery(with_lists, vectors[3])], 11, is_exact=True)
    assert not exact.is_approximate
    assert set(exact.row_idx.tolist()) == set([r for r in np.argsort(-products[3]).tolist() if r != 7][:11])


def test_a_higher_target_looks_into_more_lists(vectors: Tensor, lists: Lists) -> None:
    is_present = torch.ones(len(vectors), dtype=torch.bool)
    all_of_them = build_lists(vectors, is_present, target=1.0)
    assert all_of_them.n_probes > lists.n_probes
    again = build_lists(vectors, is_present, target=1.0)
    assert torch.equal(again.row_idx, all_of_them.row_idx)
    assert torch.equal(again.centres, all_of_them.centres)


def test_filtered_rows_are_compared_exactly_or_stay_allowed(
    vectors: Tensor, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [SpaceQuery(space(vectors, absent=(7,), lists=lists), vectors[3])]
    allowed = torch.arange(0, 1500, 3)
    few = nearest(queries, 5, allowed_idx=allowed)
    assert not few.is_approximate
    monkeypatch.setattr(module, "APPROXIMATE_ABOVE", 10)
    many = nearest(queries, 5, allowed_idx=allowed)
    assert many.is_approximate
    assert not many.row_idx.remainder(3).any()
    assert few.row_idx[0] == many.row_idx[0] == 3
    assert not nearest(queries, 500, allowed_idx=allowed).is_approximate  # the near lists hold fewer
