"""RoIAlign: by hand, against a reference that reads sample by sample, and its gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.roi_align import roi_align_plane
from torch import Tensor

from oskar.model.roi_align import roi_align


def one(features: Tensor, box: list[float], **options: bool | int | None) -> Tensor:
    """The only box of the only clip, ``[C, output_size, output_size]``."""
    boxes = torch.tensor([box], dtype=features.dtype)
    return roi_align(features[None], boxes, torch.tensor([0]), **{"is_aligned": True, **options})[0]  # type: ignore[arg-type]


def ramps(n_rows: int, n_columns: int) -> Tensor:
    """Two channels that hold their own row and column, so that a sample has the value of its place."""
    grid = torch.meshgrid(torch.arange(n_rows), torch.arange(n_columns), indexing="ij")
    return torch.stack(grid).double()


@pytest.mark.parametrize("samples_per_bin", [None, 1, 2, 3])
def test_on_ramps_a_bin_has_the_value_of_its_centre(samples_per_bin: int | None) -> None:
    """A box of 7 x 14 cells has bins of 1 x 2: centres at start + (k + 1 / 2) times that, minus half a cell."""
    rows, columns = one(ramps(20, 16), [3.0, 2.0, 10.0, 16.0], samples_per_bin=samples_per_bin)
    centre = torch.arange(7).double() + 0.5
    torch.testing.assert_close(columns, (3 + centre - 0.5).expand(7, 7))
    torch.testing.assert_close(rows, (2 + 2 * centre - 0.5)[:, None].expand(7, 7))
    shifted = one(ramps(20, 16), [3.0, 2.0, 10.0, 16.0], samples_per_bin=samples_per_bin, is_aligned=False)
    torch.testing.assert_close(shifted, torch.stack([rows, columns]) + 0.5)


def test_four_samples_by_hand() -> None:
    """The box of one cell around the corner of four, one bin, two samples a side: a quarter off that corner."""
    corner = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 8.0, 16.0]]])
    # samples at 1.25 and 1.75 both ways: shares of the four cells (9, 3, 3, 1) / 16, then (3, 9, 1, 3) and so on
    expected = (0 * 9 + 4 * 3 + 8 * 3 + 16) + (0 * 3 + 4 * 9 + 8 + 16 * 3) + (0 * 3 + 4 + 8 * 9 + 16 * 3)
    expected += 0 + 4 * 3 + 8 * 3 + 16 * 9
    found = one(corner, [1.0, 1.0, 2.0, 2.0], is_aligned=False, samples_per_bin=2, output_size=1)
    assert found.item() == pytest.approx(expected / 64)
    aligned = one(corner, [1.5, 1.5, 2.5, 2.5], samples_per_bin=2, output_size=1)
    assert aligned.item() == pytest.approx(expected / 64)
    assert found.item() == pytest.approx(7.0)  # on a surface linear both ways: the value in the middle


def test_samples_follow_the_size_of_the_box() -> None:
    """7 cells take one sample a bin, a little more takes two, each direction by itself."""
    spike = torch.zeros(1, 30, 30, dtype=torch.float64)
    spike[0, 10, 10] = 1.0
    for side, n_samples in ((7.0, 1), (7.01, 2), (14.0, 2), (14.01, 3)):
        box = [10.0, 10.0, 10.0 + side, 17.0]
        adaptive = one(spike, box)
        across = [10 + (j + 0.5) / n_samples * side / 7 - 0.5 for j in range(n_samples)]
        by_hand = sum(max(1 - abs(x - 10), 0) for x in across) / n_samples
        assert adaptive[0, 0, 0].item() == pytest.approx(by_hand, abs=1e-12)


def test_small_boxes_grow_to_a_cell_only_without_alignment() -> None:
    features = ramps(8, 8)
    small, cell = [3.2, 3.2, 3.3, 3.3], [3.2, 3.2, 4.2, 4.2]
    torch.testing.assert_close(one(features, small, is_aligned=False), one(features, cell, is_aligned=False))
    assert one(features, small)[0].max().item() == pytest.approx(2.8, abs=0.01)
    point = one(features, [3.2, 4.2, 3.2, 4.2])
    torch.testing.assert_close(point, torch.tensor([3.7, 2.7]).double()[:, None, None].expand(2, 7, 7))


def test_outside_the_grid() -> None:
    """Up to one cell outside is the edge, further off is zero, and zeros count in the mean."""
    ones = torch.ones(1, 4, 4, dtype=torch.float64)
    inside = one(ones, [0.0, 0.0, 4.0, 4.0])
    torch.testing.assert_close(inside, torch.ones_like(inside))
    half = one(ones, [-14.0, 0.0, 14.0, 4.0], is_aligned=False, samples_per_bin=4, output_size=2)
    # left bin: samples at -12.25, -8.75, -5.25, -1.75, none counts; right bin: only 1.75 of 1.75 .. 12.25
    torch.testing.assert_close(half[0], torch.tensor([[0.0, 0.25], [0.0, 0.25]]).double())
    assert one(ones, [9.0, 9.0, 12.0, 12.0]).abs().max() == 0


ends = st.floats(-6, 14, width=32)
random_boxes = st.lists(st.tuples(ends, ends, ends, ends), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    drawn=random_boxes,
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    is_aligned=st.booleans(),
    samples_per_bin=st.sampled_from([None, None, 1, 2, 3]),
    output_size=st.integers(1, 7),
    seed=st.integers(0, 999),
)
def test_it_is_the_reference(
    drawn: list[tuple[float, float, float, float]],
    size: tuple[int, int],
    is_aligned: bool,
    samples_per_bin: int | None,
    output_size: int,
    seed: int,
) -> None:
    """Boxes inside, outside, across the edge and without area; two clips of two channels."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in drawn]
    clip_idx = torch.randint(0, 2, (len(boxes),), generator=generator)
    found = roi_align(
        features,
        torch.tensor(boxes, dtype=torch.float64),
        clip_idx,
        is_aligned=is_aligned,
        samples_per_bin=samples_per_bin,
        output_size=output_size,
    )
    assert found.shape == (len(boxes), 2, output_size, output_size)
    for i, box in enumerate(boxes):
        planes = features[clip_idx[i]].tolist()
        if is_on_an_edge(box, size, is_aligned, samples_per_bin, output_size):
            continue
        expected = [
            roi_align_plane(plane, box, is_aligned=is_aligned, samples_per_bin=samples_per_bin, output_size=output_size)
            for plane in planes
        ]
        torch.testing.assert_close(found[i], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def is_on_an_edge(
    box: tuple[float, ...], size: tuple[int, int], is_aligned: bool, samples_per_bin: int | None, output_size: int
) -> bool:
    """Some sample lies where counting ends, within rounding: either answer is right there."""
    for low, high, n_cells in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        length = high - low if is_aligned else max(high - low, 1.0)
        n = output_size * (samples_per_bin or max(math.ceil(length / output_size), 1))
        places = (low - 0.5 * is_aligned + (k + 0.5) / n * length for k in range(n))
        if any(min(abs(place + 1), abs(place - n_cells)) < 1e-9 for place in places):
            return True
    return False


@pytest.mark.parametrize("is_aligned", [True, False])
@pytest.mark.parametrize("samples_per_bin", [None, 2])
def test_gradients_of_features_and_boxes(is_aligned: bool, samples_per_bin: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    corners = [[0.37, 0.61, 3.43, 4.29], [-1.33, 1.27, 2.61, 7.13], [1.13, 0.21, 4.77, 5.83]]
    boxes = torch.tensor(corners, dtype=torch.float64, requires_grad=True)
    clip_idx = torch.tensor([1, 0, 1])

    def pooled(features: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(
            features, boxes, clip_idx, is_aligned=is_aligned, samples_per_bin=samples_per_bin, output_size=3
        )

    assert torch.autograd.gradcheck(pooled, (features, boxes))


def test_no_box_and_a_batch_that_is_its_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 4, 14, 14, generator=generator)
    corners = 14 * torch.rand(9, 2, 2, generator=generator).sort(dim=1).values
    boxes, clip_idx = corners.flatten(1), torch.arange(9) % 3
    together = roi_align(features, boxes, clip_idx, is_aligned=False)
    for i in range(9):
        alone = roi_align(features, boxes[i : i + 1], clip_idx[i : i + 1], is_aligned=False)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-5, atol=1e-5)
    nothing = roi_align(features, boxes[:0], clip_idx[:0], is_aligned=True)
    assert nothing.shape == (0, 4, 7, 7)
    half = roi_align(features.bfloat16(), boxes, clip_idx, is_aligned=False)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), together, rtol=0.05, atol=0.05)
