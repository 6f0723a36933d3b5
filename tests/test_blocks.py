"""V-JEPA's multi-block masks: published context shares, block sizes, and cutting to the shortest clip."""

import math
import random
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips

from oskar.config import BlockConfig, MaskingConfig, TokensConfig
from oskar.errors import InputError
from oskar.masking.blocks import block_size, cut_to_shortest, draw_blocks, union_of_blocks
from oskar.masking.plan import View, draw_views
from oskar.modalities import modality_specs
from oskar.randomness import clip_keys
from oskar.tokens import token_sources

GRID = (8, 14, 14)
SHORT = BlockConfig(n_blocks=8, spatial_scale=0.15)
LONG = BlockConfig(n_blocks=2, spatial_scale=0.7)
TOKENS = TokensConfig(modalities=("video",), resolution=28, patch_size=2)
VJEPA = MaskingConfig(style="blocks", blocks=(SHORT, LONG), n_visible=None, n_target=None)


def views_of(make_clips: MakeClips, masking: MaskingConfig, n: int = 6, **made: object) -> tuple[View, ...]:
    clips = make_clips(n, TOKENS, **made)
    sources, specs = token_sources(clips, TOKENS), modality_specs(TOKENS)
    return draw_views(sources, specs, masking, seed=0, step=3, clip_ids=clips.clip_ids)


def chosen_tokens(view: View, i: int) -> tuple[list[int], list[int]]:
    visible, target = (
        idx.token_idx[i][idx.modality_idx[i] >= 0].tolist() for idx in (view.visible_idx, view.target_idx)
    )
    return visible, target


@pytest.mark.parametrize(("block", "expected", "low", "high"), [(SHORT, 0.373, 0.25, 0.50), (LONG, 0.188, 0.07, 0.29)])
def test_mean_context_share_is_the_published_one(block: BlockConfig, expected: float, low: float, high: float) -> None:
    shares = []
    for step in range(400):
        keys = clip_keys(0, step, torch.arange(1, 17))
        is_target = draw_blocks(block, GRID, clip_keys(0, step, torch.zeros(1, dtype=torch.int64)), keys, 300)
        shares.append(1 - is_target.double().mean(1))
    share = torch.cat(shares)
    assert float(share.mean()) == pytest.approx(expected, abs=0.01)
    assert float(share.quantile(0.05)) == pytest.approx(low, abs=0.015)
    assert float(share.quantile(0.95)) == pytest.approx(high, abs=0.015)


def test_a_simulation_in_plain_python_agrees() -> None:
    """The oracle of the oracle: the published shares follow from the published algorithm."""
    rng = random.Random(0)
    for block, expected in ((SHORT, 0.373), (LONG, 0.188)):
        total, n = 0, 1500
        for _ in range(n):
            aspect = rng.uniform(0.75, 1.5)
            patches = int(196 * block.spatial_scale)
            height = min(round(math.sqrt(patches * aspect)), 14)
            width = min(round(math.sqrt(patches / aspect)), 14)
            covered = set()
            for _ in range(block.n_blocks):
                top, left = rng.randint(0, 14 - height), rng.randint(0, 14 - width)
                covered |= {(y, x) for y in range(top, top + height) for x in range(left, left + width)}
            total += 196 - len(covered)
        assert total / n / 196 == pytest.approx(expected, abs=0.01)


def test_block_sizes_of_the_paper() -> None:
    # 29 of 196 patches: sqrt(29 * 0.75) = 4.66, sqrt(29 / 0.75) = 6.22; 137: sqrt(137) = 11.70
    assert block_size(SHORT, GRID, 0.0) == (8, 5, 6)
    assert block_size(SHORT, GRID, 1.0) == (8, 7, 4)  # sqrt(43.5) = 6.60, sqrt(19.3) = 4.40
    assert block_size(LONG, GRID, 1 / 3) == (8, 12, 12)
    assert block_size(LONG, GRID, 1.0) == (8, 14, 10)  # sqrt(205.5) = 14.3 is cut to the grid, sqrt(91.3) = 9.56
    half = BlockConfig(n_blocks=1, spatial_scale=0.15, temporal_scale=0.5)
    assert block_size(half, GRID, 0.0)[0] == 4


def test_a_union_of_blocks_holds_boxes_of_the_right_size_anywhere() -> None:
    one = replace(SHORT, n_blocks=1)
    keys = clip_keys(0, 0, torch.arange(3000))
    covered = union_of_blocks(one, GRID, (8, 5, 6), keys, 1).view(-1, 8, 14, 14)
    assert set(covered.flatten(1).sum(1).tolist()) == {8 * 5 * 6}
    starts = set()
    for clip in covered[:, 0]:
        rows, columns = clip.any(1).nonzero().flatten().tolist(), clip.any(0).nonzero().flatten().tolist()
        assert rows == list(range(rows[0], rows[0] + 5))
        assert columns == list(range(columns[0], columns[0] + 6))
        starts.add((rows[0], columns[0]))
    assert starts == {(y, x) for y in range(10) for x in range(9)}
    assert torch.equal(covered[:, 0], covered[:, 7])


def test_clips_never_lose_all_of_their_context() -> None:
    nearly_all = BlockConfig(n_blocks=6, spatial_scale=0.75)
    for step in range(20):
        keys = clip_keys(0, step, torch.arange(64))
        is_target = draw_blocks(nearly_all, GRID, keys[:1], keys, 300)
        assert not bool(is_target.all(1).any())


def test_sets_are_cut_to_the_shortest_clip_of_the_batch(make_clips: MakeClips) -> None:
    for view in views_of(make_clips, VJEPA):
        sizes = {tuple(map(len, chosen_tokens(view, i))) for i in range(6)}
        assert len(sizes) == 1  # every clip has the same numbers, and no slot is empty
        n_visible, n_target = sizes.pop()
        assert view.visible_idx.modality_idx.shape == (6, n_visible)
        assert view.target_idx.modality_idx.shape == (6, n_target)
        for i in range(6):
            visible, target = chosen_tokens(view, i)
            assert not set(visible) & set(target)
            assert not {v % 196 for v in visible} & {t % 196 for t in target}  # blocks span all time steps


def test_the_first_in_token_order_are_kept_or_random_ones() -> None:
    chosen = torch.tensor([[1, 0, 1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0, 1]]).bool()
    keys = clip_keys(0, 0, torch.arange(2))
    first = cut_to_shortest(chosen, None, keys, 1, keep_first=True)
    assert first.nonzero().tolist() == [[0, 0], [0, 2], [0, 3], [1, 2], [1, 4], [1, 7]]
    kept = set()
    for step in range(200):
        cut = cut_to_shortest(chosen, 2, clip_keys(0, step, torch.arange(2)), 1, keep_first=False)
        assert bool((cut & ~chosen).sum() == 0)
        assert cut.sum(1).tolist() == [2, 2]
        kept.add(tuple(cut[0].nonzero().flatten().tolist()))
    assert len(kept) == 10  # all pairs of five


def test_budgets_cut_further(make_clips: MakeClips) -> None:
    for view in views_of(make_clips, replace(VJEPA, n_visible=32, n_target=64)):
        assert view.visible_idx.modality_idx.shape == (6, 32)
        assert view.target_idx.modality_idx.shape == (6, 64)


def test_a_clip_without_video_does_not_empty_the_batch(make_clips: MakeClips) -> None:
    for view in views_of(make_clips, VJEPA, absent={"video": {2}}):
        assert chosen_tokens(view, 2) == ([], [])
        assert len({tuple(map(len, chosen_tokens(view, i))) for i in (0, 1, 3, 4, 5)}) == 1
        assert len(chosen_tokens(view, 0)[1]) > 100


def test_block_sizes_change_with_the_step_and_are_shared_by_the_batch() -> None:
    sizes = set()
    for step in range(60):
        batch_key = clip_keys(0, step, torch.zeros(1, dtype=torch.int64))
        one = replace(SHORT, n_blocks=1)
        counts = draw_blocks(one, GRID, batch_key, clip_keys(0, step, torch.arange(5)), 300).sum(1).tolist()
        assert len(set(counts)) == 1
        sizes.add(counts[0])
    assert {8 * 25, 8 * 28, 8 * 30} <= sizes <= {8 * 24, 8 * 25, 8 * 28, 8 * 30}  # 6x4, 5x5, 7x4, 5x6 and 6x5


def test_blocks_need_a_video_in_the_batch(make_clips: MakeClips) -> None:
    with pytest.raises(InputError, match="video"):
        views_of(make_clips, VJEPA, absent={"video": set(range(6))})
