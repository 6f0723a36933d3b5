"""Shapes of the chosen sets: tubes, the one that is cut, spans of words, single tokens, allocation by token count."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from drawing import draw, drawn_clips, full_clips
from oracles import masks

from oskar.config import MaskingConfig, TokensConfig
from oskar.masking.shapes import choose_random, choose_tubes, span_ids
from oskar.randomness import clip_keys

PAPER = MaskingConfig()


@pytest.mark.parametrize(("tube_len", "tube_hw"), [(None, 1), (4, 1), (3, 2), (None, 3), (1, 1)])
def test_chosen_tubes_are_whole_but_for_one_contiguous_run(
    make_clips: MakeClips, paper_tokens: TokensConfig, tube_len: int | None, tube_hw: int
) -> None:
    masking = replace(PAPER, tube_len=tube_len, tube_hw=tube_hw, n_visible=100)
    tubes = {name: masks.tubes_of(name, paper_tokens, tube_len, tube_hw) for name in ("video", "skeleton")}
    clips = make_clips(24, paper_tokens, absent={"video": {3, 4, 5}, "skeleton": {0, 3}, "text": {0, 1}})
    n_partial = 0
    for i, clip in enumerate(drawn_clips(draw(clips, paper_tokens, masking), paper_tokens)):
        available = masks.available_tokens(clips, i, paper_tokens)
        cells = masks.cells_of_joints(clips, i, paper_tokens)
        given = {cells[j] for j in clip.visible["skeleton"]}
        left = {
            "video": available["video"] - clip.visible["video"] - given,
            "skeleton": {
                j for j in available["skeleton"] - clip.visible["skeleton"] if cells[j] not in clip.visible["video"]
            },
        }
        for name in ("video", "skeleton"):
            for chosen, pool in ((clip.visible[name], available[name]), (clip.target[name], left[name])):
                partial = masks.partial_tubes(tubes[name], pool, chosen)
                assert len(partial) <= 1
                assert all(masks.is_one_run(members) for members in partial)
                n_partial += len(partial)
    assert n_partial > 0 or (tube_len, tube_hw) == (1, 1)


def test_a_video_tube_shows_all_eight_steps_of_its_cell(make_clips: MakeClips, paper_tokens: TokensConfig) -> None:
    for clip in drawn_clips(draw(make_clips(32, paper_tokens), paper_tokens, PAPER), paper_tokens):
        steps = Counter(token % 196 for token in clip.visible["video"])
        assert sum(n != 8 for n in steps.values()) <= 1
        assert len(steps) == math.ceil(len(clip.visible["video"]) / 8)


def test_tubes_and_starts_of_the_cut_one_are_uniform() -> None:
    n = 20_000
    keys = clip_keys(0, 0, torch.arange(n))
    ids = torch.arange(5).repeat_interleave(4).expand(n, 20)
    chosen = choose_tubes(torch.ones(n, 20, dtype=torch.bool), ids, 5, torch.full((n,), 6), keys, 1).view(n, 5, 4)
    sizes = chosen.sum(2)
    assert {tuple(sorted(row)) for row in sizes.tolist()} == {(0, 0, 0, 2, 4)}
    for value in (2, 4):  # each of the five tubes is equally often whole, and equally often cut
        share = (sizes == value).double().mean(0)
        assert float((share - 0.2).abs().max()) < 5 * math.sqrt(0.16 / n)
    runs = Counter(tuple(row) for row in chosen[sizes == 2].long().tolist())
    assert set(runs) == {(1, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 1)}
    assert all(abs(count / n - 1 / 3) < 5 * math.sqrt(0.222 / n) for count in runs.values())


def test_random_tokens_are_uniform_among_the_available() -> None:
    n = 20_000
    keys = clip_keys(0, 0, torch.arange(n))
    is_available = torch.tensor([True, False, True, True, True, False, True]).expand(n, 7)
    chosen = choose_random(is_available, torch.full((n,), 2), keys, 1)
    assert set(chosen.sum(1).tolist()) == {2}
    expected = torch.tensor([0.4, 0, 0.4, 0.4, 0.4, 0, 0.4], dtype=torch.float64)
    assert float((chosen.double().mean(0) - expected).abs().max()) < 5 * math.sqrt(0.24 / n)
    everything = choose_random(is_available, torch.full((n,), 9), keys, 1)
    assert torch.equal(everything, is_available)


def test_span_lengths_are_geometric_and_cut_at_the_longest() -> None:
    ids = span_ids(clip_keys(0, 0, torch.arange(3000)), 1, 256, span_mean=3.0, span_max=10)
    assert bool((ids[:, 0] == 0).all())
    assert bool(((ids[:, 1:] - ids[:, :-1]) >> 1 == 0).all())  # steps of 0 or 1
    lengths: Counter[int] = Counter()
    for row in ids.tolist():
        counts = Counter(row)
        del counts[row[-1]]  # the last span is cut by the table's end
        lengths.update(counts.values())
    total = sum(lengths.values())
    for k in range(1, 11):
        expected = (2 / 3) ** (k - 1) * (1 / 3 if k < 10 else 1)
        assert lengths[k] / total == pytest.approx(expected, abs=0.004)
    assert max(lengths) == 10


def test_words_are_chosen_in_spans(make_clips: MakeClips) -> None:
    tokens = TokensConfig(modalities=("text",), n_words=256)
    masking = MaskingConfig(n_visible=64, n_target=64)
    clips = make_clips(60, tokens, min_words=200)
    n_words, n_runs = 0, 0
    for clip in drawn_clips(draw(clips, tokens, masking), tokens):
        n_words += len(clip.visible["text"])
        n_runs += sum(word - 1 not in clip.visible["text"] for word in clip.visible["text"])
    assert 3.0 < n_words / n_runs < 5.0  # mean 2.95 for cut geometric spans, longer where two touch


def test_uniform_allocation_follows_the_number_of_tokens(paper_tokens: TokensConfig) -> None:
    clips = full_clips(300)
    maskings = (replace(PAPER, allocation="uniform"), replace(replace(PAPER, allocation="uniform"), style="random"))
    for masking in maskings:
        view = draw(clips, paper_tokens, replace(masking, exclusivity="none"))
        for index in (view.visible_idx, view.target_idx):
            shares = torch.bincount(index.modality_idx.flatten(), minlength=3) / (300 * 128)
            assert shares.tolist() == pytest.approx([1568 / 2640, 816 / 2640, 256 / 2640], abs=0.02)
        assert bool((view.visible_idx.modality_idx >= 0).all())
