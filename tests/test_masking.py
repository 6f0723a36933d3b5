"""The plan of a batch: published probabilities, and every property checked clip by clip in plain Python."""

from dataclasses import replace

import pytest
import torch
from conftest import MakeClips, made_clips
from drawing import draw, drawn_clips, full_clips, size
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import masks
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import MaskingConfig, TokensConfig
from oskar.masking.allocation import allocate, largest_remainder, visible_capacities
from oskar.randomness import clip_keys, log_dirichlet
from oskar.tokens import token_sources

PAPER = MaskingConfig()
ABSENT = {"video": {3, 4, 5, 9}, "skeleton": {0, 3, 6}, "text": {0, 1, 4, 7}}  # clip 0: only video; 3: only text ...


# ---- allocation -------------------------------------------------------------------------------------------


def test_budgets_have_the_published_probabilities() -> None:
    n_draws, n = 200_000, 128
    keys = clip_keys(0, 0, torch.arange(n_draws))
    log_r = log_dirichlet(keys, 1, 0.5, torch.ones(n_draws, 3, dtype=torch.bool))
    is_floor_zero = (log_r.exp() * n).floor() == 0
    assert float(is_floor_zero.double().mean()) == pytest.approx(0.088, abs=0.002)
    assert float(is_floor_zero.any(1).double().mean()) == pytest.approx(0.251, abs=0.003)
    counts = allocate(log_r, n, torch.full((n_draws, 3), 10_000))
    assert bool((counts.sum(1) == n).all())
    is_empty = counts == 0
    assert float(is_empty.double().mean()) == pytest.approx(0.062, abs=0.002)
    assert float(is_empty.any(1).double().mean()) == pytest.approx(0.180, abs=0.003)
    largest = log_r.exp().amax(1)
    assert float(largest.mean()) == pytest.approx(0.70, abs=0.005)
    assert float((largest > 0.95).double().mean()) == pytest.approx(0.08, abs=0.005)


@given(
    weights=st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=4),
    n=st.integers(0, 300),
    data=st.data(),
)
def test_allocation_equals_sharing_out_one_by_one(weights: list[float], n: int, data: st.DataObject) -> None:
    capacities = data.draw(st.lists(st.integers(0, 200), min_size=len(weights), max_size=len(weights)))
    fractions = [w / sum(weights) for w in weights]
    counts = allocate(torch.tensor([fractions], dtype=torch.float64).log(), n, torch.tensor([capacities]))[0].tolist()
    assert sum(counts) == min(n, sum(capacities))
    assert all(c <= capacity for c, capacity in zip(counts, capacities, strict=True))
    expected = masks.allocate(fractions, n, capacities)
    assert max(abs(a - b) for a, b in zip(counts, expected, strict=True)) <= 1  # rounding of equal remainders


def test_largest_remainder_by_hand() -> None:
    fractions = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], dtype=torch.float64)
    # 7: 3.5, 2.1, 1.4 -> 3, 2, 1 and one more for .5;   8: 4, 2.4, 1.6 -> 4, 2, 1 and one more for .6
    assert largest_remainder(fractions, torch.tensor([7, 8, 9])).tolist() == [[4, 2, 1], [4, 2, 2], [9, 0, 0]]


def test_excess_goes_to_those_with_room_in_proportion() -> None:
    log_r = torch.tensor([[0.8, 0.15, 0.05]], dtype=torch.float64).log()
    assert allocate(log_r, 100, torch.tensor([[20, 1000, 1000]])).tolist() == [[20, 60, 20]]
    assert allocate(log_r, 100, torch.tensor([[20, 30, 10]])).tolist() == [[20, 30, 10]]  # then slots stay empty
    assert allocate(log_r, 100, torch.tensor([[0, 0, 0]])).tolist() == [[0, 0, 0]]


def test_vanishing_fractions_still_take_what_nobody_else_can() -> None:
    log_r = torch.tensor([[0.0, -800.0, -1000.0]], dtype=torch.float64)  # exp underflows
    assert allocate(log_r, 100, torch.tensor([[10, 50, 1000]])).tolist() == [[10, 50, 40]]


def test_min_tokens_forbids_an_empty_modality() -> None:
    n = 2000
    keys = clip_keys(0, 0, torch.arange(n))
    capacities = torch.tensor([1440, 400, 3]).expand(n, 3)
    counts = allocate(log_dirichlet(keys, 1, 0.5, capacities > 0), 128, capacities, min_tokens=8)
    assert bool((counts.sum(1) == 128).all())
    assert counts.amin(0).tolist() == [8, 8, 3]
    assert allocate(torch.zeros(1, 3), 4, torch.tensor([[9, 9, 9]]), min_tokens=8).sum().item() == 4


def test_short_modalities_keep_half_for_prediction() -> None:
    available = torch.tensor([0, 1, 2, 7, 256, 257, 1568])
    assert visible_capacities(available, 128).tolist() == [0, 1, 1, 4, 128, 129, 1440]


# ---- properties of whole plans ----------------------------------------------------------------------------

STYLES = {
    "paper": PAPER,
    "random": replace(PAPER, style="random"),
    "uniform": replace(PAPER, allocation="uniform"),
    "short tubes": replace(PAPER, tube_len=3, tube_hw=3),
    "even": replace(PAPER, alpha=5.0, min_tokens=4, n_visible=64, n_target=256),
    "wide": replace(PAPER, exclusivity_radius=1),
    "huge": replace(PAPER, n_visible=700, n_target=700),
}


@pytest.mark.parametrize("name", STYLES)
def test_every_plan_is_disjoint_available_exclusive_and_within_budget(
    make_clips: MakeClips, paper_tokens: TokensConfig, name: str
) -> None:
    masking = STYLES[name]
    assert masking.n_visible is not None
    assert masking.n_target is not None
    clips = make_clips(24, paper_tokens, seed=len(name), absent=ABSENT)
    for step in range(2):
        drawn = drawn_clips(draw(clips, paper_tokens, masking, step=step), paper_tokens)
        for i, clip in enumerate(drawn):
            available = masks.available_tokens(clips, i, paper_tokens)
            for modality, tokens in available.items():
                assert clip.visible[modality] | clip.target[modality] <= tokens
                assert not clip.visible[modality] & clip.target[modality]
            cells = masks.cells_of_joints(clips, i, paper_tokens)
            assert masks.exclusivity_violations(clip, cells, masking.exclusivity_radius, 14) == (0, 0)
            capacity = sum(len(a) - min(len(a) // 2, masking.n_target) for a in available.values())
            assert size(clip.visible) == min(masking.n_visible, capacity)
            if available["video"] and name != "huge":
                assert size(clip.visible) == masking.n_visible
                assert size(clip.target) == masking.n_target
            else:
                assert size(clip.target) <= masking.n_target


def test_targets_are_only_short_when_nothing_allowed_is_left(make_clips: MakeClips, paper_tokens: TokensConfig) -> None:
    clips = make_clips(12, paper_tokens, absent={"video": range(12), "skeleton": range(6)}, min_words=1)
    for i, clip in enumerate(drawn_clips(draw(clips, paper_tokens, PAPER), paper_tokens)):
        left = size(masks.available_tokens(clips, i, paper_tokens)) - size(clip.visible)
        assert size(clip.target) == min(128, left)


@pytest.mark.parametrize("radius", [0, 2])
@pytest.mark.parametrize("exclusivity", ["both", "video_to_joints", "joints_to_video", "none"])
def test_exclusivity_holds_in_the_directions_asked_for_and_no_others(
    make_clips: MakeClips, paper_tokens: TokensConfig, exclusivity: str, radius: int
) -> None:
    values = {"exclusivity": exclusivity, "exclusivity_radius": radius, "alpha": 3.0}
    masking = replace(PAPER, **values)  # type: ignore[arg-type]
    clips = make_clips(24, paper_tokens, absent=ABSENT)
    joints_seen, cells_seen = 0, 0
    for i, clip in enumerate(drawn_clips(draw(clips, paper_tokens, masking), paper_tokens)):
        joints, cells = masks.exclusivity_violations(clip, masks.cells_of_joints(clips, i, paper_tokens), radius, 14)
        joints_seen, cells_seen = joints_seen + joints, cells_seen + cells
    assert (joints_seen == 0) == (exclusivity in ("both", "video_to_joints"))
    assert (cells_seen == 0) == (exclusivity in ("both", "joints_to_video"))


def test_exclusivity_reaches_every_frame_of_a_joint_token(make_clips: MakeClips) -> None:
    """Tokens of four frames lie in several cells; none of those may be given away, nor shown as a target."""
    tokens = TokensConfig(n_frames=8, resolution=32, patch_size=4, n_people=2, segment_frames=4, n_words=8)
    masking = MaskingConfig(n_visible=48, n_target=48, alpha=3.0)
    clips = make_clips(24, tokens, share_confident=0.8)
    cells = {name: source.cells for name, source in token_sources(clips, tokens).items()}["skeleton"].tolist()
    n_joints = 0
    for i, clip in enumerate(drawn_clips(draw(clips, tokens, masking), tokens)):
        lies_in = [{cell for cell in token if cell >= 0} for token in cells[i]]
        assert not any(lies_in[j] & clip.visible["video"] for j in clip.target["skeleton"])
        given = {cell for j in clip.visible["skeleton"] for cell in lies_in[j]}
        assert not given & clip.target["video"]
        n_joints += len(clip.target["skeleton"])
    assert n_joints > 100


def test_exclusivity_takes_nothing_more_than_it_must(make_clips: MakeClips) -> None:
    """With a budget above everything, the targets are exactly what is available, unseen and not given away."""
    tokens = TokensConfig(n_frames=4, resolution=12, patch_size=2, n_people=2, n_words=12)
    masking = MaskingConfig(n_visible=40, n_target=10_000, exclusivity_radius=1)
    clips = make_clips(20, tokens, absent=ABSENT)
    for i, clip in enumerate(drawn_clips(draw(clips, tokens, masking), tokens)):
        available = masks.available_tokens(clips, i, tokens)
        cells = masks.cells_of_joints(clips, i, tokens)
        seen = {c for v in clip.visible["video"] for c in masks.near_cells(v, 1, 6)}
        given = {c for j in clip.visible["skeleton"] for c in masks.near_cells(cells[j], 1, 6)}
        assert clip.target["video"] == available["video"] - clip.visible["video"] - given
        assert clip.target["skeleton"] == {
            j for j in available["skeleton"] - clip.visible["skeleton"] if cells[j] not in seen
        }
        assert clip.target["text"] == available["text"] - clip.visible["text"]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_visible=st.integers(1, 80),
    n_target=st.integers(1, 80),
    alpha=st.floats(0.05, 5),
    style=st.sampled_from(["tube", "random"]),
    absent=st.fixed_dictionaries({m: st.sets(st.integers(0, 3)) for m in ("video", "skeleton", "text")}),
)
def test_any_budget_and_any_absence(
    seed: int,
    n_visible: int,
    n_target: int,
    alpha: float,
    style: str,
    absent: dict[str, set[int]],
) -> None:
    if all(len(clips) == 4 for clips in absent.values()):
        absent["text"] = set()
    tokens = TokensConfig(n_frames=4, resolution=16, patch_size=4, n_people=1, n_words=9, vocabulary_size=30)
    values = {"n_visible": n_visible, "n_target": n_target, "alpha": alpha, "style": style}
    clips = made_clips(4, tokens, seed=seed, absent=absent, min_words=1)
    view = draw(clips, tokens, MaskingConfig(**values))  # type: ignore[arg-type]
    assert view.visible_idx.modality_idx.shape == (4, n_visible)
    assert view.target_idx.modality_idx.shape == (4, n_target)
    for i, clip in enumerate(drawn_clips(view, tokens)):
        available = masks.available_tokens(clips, i, tokens)
        capacity = sum(len(a) - min(len(a) // 2, n_target) for a in available.values())
        assert size(clip.visible) == min(n_visible, capacity)
        for modality, found in available.items():
            assert clip.visible[modality] | clip.target[modality] <= found
            assert not clip.visible[modality] & clip.target[modality]
        assert masks.exclusivity_violations(clip, masks.cells_of_joints(clips, i, tokens), 0, 4) == (0, 0)


def test_slots_follow_modalities_and_tokens_and_empty_ones_come_last(
    make_clips: MakeClips, paper_tokens: TokensConfig
) -> None:
    view = draw(make_clips(12, paper_tokens, absent=ABSENT), paper_tokens, PAPER)
    for index in (view.visible_idx, view.target_idx):
        for modalities, tokens in zip(index.modality_idx.tolist(), index.token_idx.tolist(), strict=True):
            n_real = sum(m >= 0 for m in modalities)
            assert all(m == -1 for m in modalities[n_real:])
            real = list(zip(modalities, tokens, strict=True))[:n_real]
            assert real == sorted(real)


# ---- reproducibility --------------------------------------------------------------------------------------


def pick(clips: ClipBatch, rows: list[int]) -> ClipBatch:
    """A batch of some of the clips in another order, as it would be collated: absent modalities are None."""

    def flagged(values: Tensor | None, has: Tensor | None) -> Tensor | None:
        return None if values is None or has is None or not bool(has[rows].any()) else values[rows]

    has_text = None if clips.word_ids is None else (clips.word_ids >= 0).any(1)
    return ClipBatch(
        clip_ids=clips.clip_ids[rows],
        labels=clips.labels[rows],
        frames=flagged(clips.frames, clips.has_video),
        has_video=flagged(clips.has_video, clips.has_video),
        joints=flagged(clips.joints, clips.has_skeleton),
        boxes=flagged(clips.boxes, clips.has_skeleton),
        has_skeleton=flagged(clips.has_skeleton, clips.has_skeleton),
        word_ids=flagged(clips.word_ids, has_text),
    )


@pytest.mark.parametrize("name", ["paper", "random", "uniform"])
def test_a_clips_plan_does_not_depend_on_its_batch(
    make_clips: MakeClips, paper_tokens: TokensConfig, name: str
) -> None:
    clips = make_clips(10, paper_tokens, absent=ABSENT)
    whole = draw(clips, paper_tokens, STYLES[name], seed=5, step=9)
    for rows in ([9, 2, 7, 0], [0], [3], [4], [6], [0, 3], [8, 8]):
        part = draw(pick(clips, rows), paper_tokens, STYLES[name], seed=5, step=9)
        for a, b in ((whole.visible_idx, part.visible_idx), (whole.target_idx, part.target_idx)):
            assert torch.equal(a.modality_idx[rows], b.modality_idx)
            assert torch.equal(a.token_idx[rows], b.token_idx)


def test_another_step_or_seed_gives_another_plan(make_clips: MakeClips, paper_tokens: TokensConfig) -> None:
    clips = make_clips(4, paper_tokens)
    plans = [
        draw(clips, paper_tokens, PAPER, seed, step).visible_idx.token_idx for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    for i in range(4):
        assert len({tuple(plan[i].tolist()) for plan in plans}) == 3


def test_visible_and_target_fractions_are_independent() -> None:
    view = draw(full_clips(400), TokensConfig(resolution=28, patch_size=2), replace(PAPER, exclusivity="none"))
    counts = torch.stack([(idx.modality_idx == 0).sum(1) for idx in (view.visible_idx, view.target_idx)])
    assert abs(float(torch.corrcoef(counts.double())[0, 1])) < 0.2  # standard error 0.05
