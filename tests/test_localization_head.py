"""The localization head by hand: grids of available tokens, the loss, the boxes it learns from, chance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.boxes import LabelledBoxes, PersonBoxes
from oskar.pretraining import MaskedPrediction
from oskar.randomness import hash_id
from oskar.tasks.features import tokens_of
from oskar.tasks.localization_head import MOST_BOXES, ActionLocalization, BoxBatch, boxes_to_learn_from, feature_grids
from oskar.tasks.localization_results import chance
from oskar.tasks.task import Backbone
from oskar.tasks.transfer import Transfer

SIDE, STEPS = 4, 2  # the grid of 4 frames of 32 x 32 in tubelets of 2 x 8 x 8


@pytest.fixture
def contrast_config(small_config: Config) -> Config:
    return replace(small_config, tokens=replace(small_config.tokens, min_contrast=0.1, modalities=("video",)))


def clips_with_blanks(is_blank: torch.Tensor) -> ClipBatch:
    """Noise, but one grey where ``is_blank`` ``[B, steps, side, side]``."""
    n = len(is_blank)
    frames = torch.randint(0, 256, (n, 4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    blank = is_blank.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    frames[blank[:, :, None].expand_as(frames)] = 100
    has_video = torch.ones(n, dtype=torch.bool)
    return ClipBatch(clip_ids=torch.arange(n), labels=torch.full((n,), -1), frames=frames, has_video=has_video)


def test_grids_are_means_over_the_steps_at_which_a_token_is_available(contrast_config: Config) -> None:
    """Against loops; clip 2 is all blank."""
    is_blank = torch.rand(3, STEPS, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) < 0.4
    is_blank[2] = True
    packed = tokens_of(clips_with_blanks(is_blank), contrast_config, "video")
    latents = torch.randn(3, packed.segments.shape[1], 5, generator=torch.Generator().manual_seed(2))
    grids = feature_grids(latents, packed, contrast_config.tokens)
    assert grids.shape == (3, 5, SIDE, SIDE)
    for clip in range(3):
        order = [p for p in np.ndindex(STEPS, SIDE, SIDE) if not is_blank[(clip, *p)]]  # slots hold these in order
        for row, column in np.ndindex(SIDE, SIDE):
            slots = [i for i, (_, y, x) in enumerate(order) if (y, x) == (row, column)]
            expected = latents[clip, slots].mean(0) if slots else torch.zeros(5)
            torch.testing.assert_close(grids[clip, :, row, column], expected)


@pytest.mark.parametrize("is_trained", [False, True])
def test_clips_without_a_token_have_finite_scores_and_gradients(contrast_config: Config, is_trained: bool) -> None:
    is_blank = torch.zeros(2, STEPS, SIDE, SIDE, dtype=torch.bool)
    is_blank[1] = True
    module = made_module(contrast_config, is_trained=is_trained)
    for blank in (is_blank, is_blank[1:]):
        packed = tokens_of(clips_with_blanks(blank), contrast_config, "video")
        n = len(blank)
        boxes, clip_idx = torch.tensor([[0.1, 0.1, 0.6, 0.9]]).expand(n, 4), torch.arange(n)
        loss = module(BoxBatch(packed, boxes, clip_idx, torch.ones(n, 3), n))["loss"]
        module.zero_grad()
        loss.backward()
        assert loss.isfinite()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert all(g.isfinite().all() for g in gradients)


def made_module(config: Config, *, is_trained: bool = False, sees_box: bool = True) -> ActionLocalization:
    torch.manual_seed(0)
    transfer = Transfer(config, None, "", MaskedPrediction(config))
    return ActionLocalization(Backbone(transfer, ("video",), is_trained=is_trained), 3, sees_box=sees_box)


def test_the_head_starts_near_zero_and_its_loss_is_that_of_a_calculation(small_config: Config) -> None:
    module = made_module(small_config)
    assert 0 < module.head.weight.abs().max() <= 4e-5
    assert module.head.bias.tolist() == [0, 0, 0]
    with torch.no_grad():
        module.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    grids = torch.randn(2, 32, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]])
    clip_idx, has_class = torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1, 1]])
    with torch.no_grad():
        scores = module.classify(grids, boxes, clip_idx)
    terms = [
        math.log1p(math.exp(-s if is_so else s))
        for row, truth in zip(scores.tolist(), has_class.tolist(), strict=True)
        for s, is_so in zip(row, truth, strict=True)
    ]
    boxes_per_clip = 3 / 2
    expected = sum(terms) / len(terms) * boxes_per_clip
    loss = module(BoxBatch(grids, boxes, clip_idx, has_class, 2))["loss"].item()
    assert loss == pytest.approx(expected, rel=1e-5)
    halves = [
        BoxBatch(grids[:1], boxes[:2], clip_idx[:2], has_class[:2], 1),
        BoxBatch(grids[1:], boxes[2:], clip_idx[:1], has_class[2:], 1),
    ]
    weighed = sum(module(half)["loss"].item() * half.weight for half in halves) / 2  # as the loop accumulates
    assert weighed == pytest.approx(expected, rel=1e-5)


def test_a_box_sees_its_own_cells_and_the_control_all(small_config: Config) -> None:
    """A grid that is 0 but in its upper left quarter: its maximum is seen there, and by everybody without a box."""
    module, blind = made_module(small_config), made_module(small_config, sees_box=False)
    for m in (module, blind):
        with torch.no_grad():
            m.head.weight.fill_(1.0)
    grids = torch.zeros(1, 32, SIDE, SIDE)
    grids[:, :, :2, :2] = 1.0
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.7, 0.7, 1.0, 1.0]])
    idx = torch.zeros(2, dtype=torch.int64)
    assert module.classify(grids, boxes, idx)[:, 0].tolist() == pytest.approx([32.0, 0.0])
    seen = blind.classify(grids, boxes, idx)[:, 0].tolist()
    assert seen[0] == seen[1] == pytest.approx(32.0)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), seed=st.integers(0, 99), step=st.integers(0, 999))
def test_boxes_to_learn_from(counts: list[int], seed: int, step: int) -> None:
    """Sides move by the shares of the protocol, stay in the picture, and are a clip's own whatever the batch."""
    n = sum(counts)
    generator = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(n, 2, generator=generator) * 0.5, 0.1 + torch.rand(n, 2, generator=generator) * 0.4
    boxes = torch.cat([corner, corner + size], 1)
    clip_ids = torch.tensor([hash_id(f"clip{i}") for i in range(len(counts))])
    clip_idx = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    moved, is_kept = boxes_to_learn_from(boxes, clip_idx, clip_ids, seed=seed, step=step)
    assert is_kept.all()
    assert ((moved >= 0) & (moved <= 1)).all()
    outwards = (moved - boxes) * torch.tensor([-1.0, -1, 1, 1]) / size.repeat(1, 2)
    assert (outwards <= torch.tensor([0.2, 0.1, 0.2, 0.1]) + 1e-5).all()
    is_cut = (moved == 0) | (moved == 1)
    assert ((outwards >= -torch.tensor([0.1, 0.05, 0.1, 0.05]) - 1e-5) | is_cut).all()
    for clip in range(len(counts)):
        own = clip_idx == clip
        alone, _ = boxes_to_learn_from(
            boxes[own], torch.zeros(counts[clip], dtype=torch.int64), clip_ids[clip : clip + 1], seed=seed, step=step
        )
        assert torch.equal(alone, moved[own])
    if n:
        other, _ = boxes_to_learn_from(boxes, clip_idx, clip_ids, seed=seed, step=step + 1)
        assert not torch.equal(other, moved)


def test_at_most_100_people_of_a_clip_are_learnt_from() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).expand(150, 4)
    clip_idx = torch.tensor([0] * 130 + [1] * 20)
    moved, is_kept = boxes_to_learn_from(boxes, clip_idx, torch.tensor([5, 6]), seed=0, step=0)
    assert is_kept.tolist() == [i < MOST_BOXES or i >= 130 for i in range(150)]
    assert len(moved) == 120


class SortedData:
    """Ground truth of 300 images sorted by class, one person each."""

    name, sha256, n_left_out, excluded, n_classes, is_cropped = "sorted", "", 0, frozenset[str](), 3, True
    classes = {0: "a", 1: "b", 2: "c"}  # noqa: RUF012
    truth = LabelledBoxes(
        images=tuple(f"v,{i:04d}" for i in range(300)),
        image_idx=np.arange(300),
        boxes=np.tile([0.1, 0.1, 0.5, 0.5], (300, 1)),
        box_idx=np.arange(300),
        class_idx=np.repeat([0, 1, 2], [150, 100, 50]),
        person_ids=np.zeros(300, dtype=np.int64),
    )


def test_chance_knows_nothing_even_of_the_order_of_a_file() -> None:
    """AP of a random ranking is near the share of the class: 1/2, 1/3, 1/6 have the mean 1/3."""
    data = SortedData()
    people = PersonBoxes(
        images=data.truth.images, image_idx=data.truth.image_idx, boxes=data.truth.boxes, scores=np.ones(300)
    )
    drawn = [chance(data.truth, people, data, data, seed) for seed in range(5)]  # type: ignore[arg-type]
    for name in ("chance", "class_prior"):
        found = [values[name]["map"] for values in drawn]
        assert np.mean(found) == pytest.approx(100 / 3, abs=4)
        assert len(set(found)) == 5
    assert chance(data.truth, people, data, data, 3) == drawn[3]  # type: ignore[arg-type]
