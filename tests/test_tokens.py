"""Token sources against plain loops over the clips, and the proof that nothing else is touched."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from oracles import masks
from torch import Tensor

from oskar.clip import Clip, ClipBatch, collate_clips
from oskar.config import TokensConfig
from oskar.errors import InputError
from oskar.modalities import modality_specs
from oskar.randomness import hash_id
from oskar.tokens import SkeletonTokens, TextTokens, TokenSource, VideoTokens, token_sources
from oskar.tokens.skeleton import in_person_frame, person_squares
from oskar.tokens.video import PIXEL_MEAN, PIXEL_STD, normalise_pixels

TOKENS = TokensConfig(n_frames=4, resolution=24, patch_size=6, n_people=2, n_words=7, vocabulary_size=20)


def video_of(clips: ClipBatch, tokens: TokensConfig = TOKENS) -> VideoTokens:
    source = token_sources(clips, tokens)["video"]
    assert isinstance(source, VideoTokens)
    return source


def tubelet(frames: Tensor, token: int, tokens: TokensConfig) -> list[int]:
    """The pixels of one tubelet of one clip, gathered one by one: frame, channel, row, column."""
    side, patch = tokens.resolution // tokens.patch_size, tokens.patch_size
    step, row, column = token // side**2, token // side % side, token % side
    return [
        int(frames[step * tokens.tubelet_frames + t, channel, row * patch + y, column * patch + x])
        for t in range(tokens.tubelet_frames)
        for channel in range(3)
        for y in range(patch)
        for x in range(patch)
    ]


@pytest.mark.parametrize("patch_size", [4, 6, 8])
def test_tubelets_are_the_pixels_of_their_place(make_clips: MakeClips, patch_size: int) -> None:
    tokens = TokensConfig(n_frames=6, tubelet_frames=3, resolution=24, patch_size=patch_size, n_people=1, n_words=4)
    clips = make_clips(3, tokens)
    assert clips.frames is not None
    n_tokens = modality_specs(tokens)["video"].n_tokens
    clip_idx, token_idx = torch.tensor([0, 2, 2, 1]), torch.tensor([0, n_tokens - 1, 7, 3])
    taken = video_of(clips, tokens).take(clip_idx, token_idx)
    assert taken.dtype == torch.uint8
    for n, (clip, token) in enumerate(zip(clip_idx.tolist(), token_idx.tolist(), strict=True)):
        assert taken[n].tolist() == tubelet(clips.frames[clip], token, tokens)


def test_taking_video_reads_the_chosen_tubelets_only(make_clips: MakeClips) -> None:
    clips = make_clips(2, TOKENS)
    assert clips.frames is not None
    clip_idx, token_idx = torch.tensor([0, 1]), torch.tensor([5, 30])
    before = video_of(clips).take(clip_idx, token_idx)
    poisoned = 255 - clips.frames
    side, patch = 4, TOKENS.patch_size
    for clip, token in ((0, 5), (1, 30)):
        t, y, x = token // side**2 * 2, token // side % side * patch, token % side * patch
        place = (clip, slice(t, t + 2), slice(None), slice(y, y + patch), slice(x, x + patch))
        poisoned[place] = clips.frames[place]
    clips.frames.copy_(poisoned)
    assert torch.equal(video_of(clips).take(clip_idx, token_idx), before)


def test_the_raw_video_is_a_view_until_tokens_are_taken(make_clips: MakeClips) -> None:
    clips = make_clips(2, TOKENS)
    assert clips.frames is not None
    source = video_of(clips)
    clips.frames.fill_(9)  # after the source was made: a copy would not notice
    assert set(source.take(torch.tensor([1]), torch.tensor([4])).flatten().tolist()) == {9}


def test_a_video_token_is_its_own_cell_and_valid_where_the_clip_has_video(make_clips: MakeClips) -> None:
    source = token_sources(make_clips(3, TOKENS, absent={"video": {1}}), TOKENS)["video"]
    assert source.cells.tolist() == [[[n] for n in range(32)]] * 3
    assert source.is_valid.all(1).tolist() == [True, False, True]
    assert not bool(source.is_valid[1].any())
    assert source.boxes(torch.tensor([0]), torch.tensor([0])) is None


def test_blank_tubelets_are_unavailable_where_contrast_is_asked_for() -> None:
    tokens = TokensConfig(n_frames=4, resolution=24, patch_size=6, min_contrast=0.1)
    frames = torch.full((2, 4, 3, 24, 24), 100, dtype=torch.uint8)
    frames[0, 1, 2, 7, 13] = 100 + 26  # 26 / 255 is above a tenth: one bright pixel in token (0, 1, 2)
    frames[1, 2, 0, 0, 0] = 100 - 25  # 25 / 255 is not
    source = VideoTokens(frames, torch.tensor([True, True]), tokens)
    assert source.is_valid.nonzero().tolist() == [[0, 6]]


def test_pixels_are_normalised_per_channel() -> None:
    values = torch.arange(2 * 3 * 4, dtype=torch.uint8)[None] * 10
    normalised = normalise_pixels(values, patch_size=2)
    for p in range(24):
        channel = p // 4 % 3
        expected = (p * 10 / 255 - PIXEL_MEAN[channel]) / PIXEL_STD[channel]
        assert math.isclose(float(normalised[0, p]), expected, rel_tol=1e-5, abs_tol=1e-6)


def test_joints_validity_cells_and_boxes_match_loops(make_clips: MakeClips) -> None:
    clips = make_clips(4, TOKENS, absent={"skeleton": {2}}, share_confident=0.6)
    source = token_sources(clips, TOKENS)["skeleton"]
    assert clips.joints is not None
    assert clips.boxes is not None
    for i in range(4):
        available = masks.available_tokens(clips, i, TOKENS)["skeleton"]
        assert set(source.is_valid[i].nonzero().flatten().tolist()) == available
        cells = masks.cells_of_joints(clips, i, TOKENS)
        expected = [[cell if n in available else -1] for n, cell in enumerate(cells)]
        assert source.cells[i].tolist() == expected
    token = (1 * 4 + 3) * 17 + 5  # person 1, frame 3, joint 5
    where = (torch.tensor([3]), torch.tensor([token]))
    assert torch.equal(source.take(*where)[0], clips.joints[3, 1, 3, 5])
    boxes = source.boxes(*where)
    assert boxes is not None
    assert torch.equal(boxes[0], clips.boxes[3, 1, 3])


def test_joints_at_the_edges_of_the_crop() -> None:
    below_one = float(torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)))
    places = [(0.0, 0.0), (below_one, below_one), (1.0, 0.5), (0.5, -1e-9), (math.nan, 0.5)]
    joints = torch.tensor([[x, y, 1.0] for x, y in places])[None, None, None]
    tokens = TokensConfig(n_frames=1, tubelet_frames=1, resolution=28, patch_size=2, n_people=1)
    source = SkeletonTokens(joints, torch.zeros(1, 1, 1, 4), torch.tensor([True]), tokens)
    assert source.cells.tolist() == [[[0], [14 * 14 - 1], [-1], [-1], [-1]]]


def test_a_token_of_several_frames_matches_loops(make_clips: MakeClips) -> None:
    """One joint over two frames: their values, cells and box; a missing frame has the mean place and no confidence."""
    tokens = replace(TOKENS, segment_frames=2)
    clips = make_clips(3, tokens, absent={"skeleton": {1}}, share_confident=0.6)
    source = token_sources(clips, tokens)["skeleton"]
    assert clips.joints is not None
    assert clips.boxes is not None
    n_segments, n_seen = 2, 0
    assert source.cells.shape == (3, 2 * n_segments * 17, 2)
    for i, person, segment, joint in itertools.product(range(3), range(2), range(n_segments), range(17)):
        token = (person * n_segments + segment) * 17 + joint
        frames = range(2 * segment, 2 * segment + 2)
        places = [clips.joints[i, person, t, joint].tolist() for t in frames]
        is_there = [i != 1 and c >= tokens.min_confidence and 0 <= x < 1 and 0 <= y < 1 for x, y, c in places]
        cells = [masks.joint_cell(x, y, t, tokens) for (x, y, _), t in zip(places, frames, strict=True)]
        assert source.cells[i, token].tolist() == [c if ok else -1 for c, ok in zip(cells, is_there, strict=True)]
        assert bool(source.is_valid[i, token]) == any(is_there)
        if not any(is_there):
            continue
        n_seen += not all(is_there)
        seen = [place for place, ok in zip(places, is_there, strict=True) if ok]
        held = [*[sum(values) / len(seen) for values in zip(*seen, strict=True)][:2], 0.0]
        expected = [place if ok else held for place, ok in zip(places, is_there, strict=True)]
        where = (torch.tensor([i]), torch.tensor([token]))
        torch.testing.assert_close(source.take(*where)[0], torch.tensor(expected).flatten())
        boxes = source.boxes(*where)
        assert boxes is not None
        assert torch.equal(boxes[0], clips.boxes[i, person, 2 * segment + 1])
    assert n_seen > 10  # tokens with a missing frame were among them


def test_a_joint_of_confidence_zero_is_absent_even_where_no_confidence_is_asked_for() -> None:
    joints = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 1e-3]])[None, None, None]
    tokens = TokensConfig(n_frames=1, tubelet_frames=1, min_confidence=0.0, n_people=1)
    source = SkeletonTokens(joints, torch.zeros(1, 1, 1, 4), torch.tensor([True]), tokens)
    assert source.is_valid.tolist() == [[False, True]]


def test_words_end_where_the_caption_ends() -> None:
    source: TokenSource = TextTokens(torch.tensor([[4, 0, 9], [7, -1, -1]]))
    assert source.is_valid.tolist() == [[True, True, True], [True, False, False]]
    assert source.take(torch.tensor([0, 1]), torch.tensor([2, 0])).tolist() == [[9], [7]]
    assert set(source.cells.flatten().tolist()) == {-1}
    assert source.boxes(torch.tensor([0]), torch.tensor([0])) is None


def test_sources_follow_the_recipe_and_the_batch(make_clips: MakeClips) -> None:
    clips = make_clips(2, TOKENS, absent={"text": {0, 1}})
    assert list(token_sources(clips, TOKENS)) == ["video", "skeleton"]
    only_video = TokensConfig(modalities=("video",), n_frames=4, resolution=24, patch_size=6)
    assert list(token_sources(clips, only_video)) == ["video"]


def test_without_presence_flags_every_clip_counts_as_present(make_clips: MakeClips) -> None:
    made = make_clips(2, TOKENS)
    clips = ClipBatch(
        clip_ids=made.clip_ids, labels=made.labels, frames=made.frames, joints=made.joints, boxes=made.boxes
    )
    sources = token_sources(clips, TOKENS)
    assert list(sources) == ["video", "skeleton"]
    assert bool(sources["video"].is_valid.all())


@pytest.mark.parametrize(
    ("name", "built_for"),
    [
        ("frames", TokensConfig(n_frames=4, resolution=30, patch_size=6, n_people=2, n_words=7)),
        ("joints", TokensConfig(n_frames=4, resolution=24, patch_size=6, n_people=3, n_words=7)),
        ("word_ids", TokensConfig(n_frames=4, resolution=24, patch_size=6, n_people=2, n_words=9)),
    ],
)
def test_clips_of_another_size_are_refused(make_clips: MakeClips, name: str, built_for: TokensConfig) -> None:
    with pytest.raises(InputError, match=name):
        token_sources(make_clips(1, built_for), TOKENS)


def test_a_batch_without_any_of_the_recipes_modalities_is_refused(make_clips: MakeClips) -> None:
    clips = make_clips(1, TOKENS, absent={"text": {0}})
    with pytest.raises(InputError, match="text"):
        token_sources(clips, TokensConfig(modalities=("text",)))


def test_collating_mixes_clips_with_and_without_modalities() -> None:
    frames = torch.full((4, 3, 24, 24), 7, dtype=torch.uint8)
    joints, boxes = torch.rand(3, 4, 17, 3), torch.rand(3, 4, 4)
    clips = [
        Clip(clip_id="a", frames=frames, label=4),
        Clip(clip_id="b", joints=joints, boxes=boxes),
        Clip(clip_id="c", joints=joints[:1], boxes=boxes[:1], word_ids=torch.arange(10)),
    ]
    batch = collate_clips(clips, n_words=7, n_people=2)
    assert len(batch) == 3
    assert batch.clip_ids.tolist() == [hash_id(name) for name in "abc"]
    assert batch.labels.tolist() == [4, -1, -1]
    assert batch.frames is not None
    assert batch.has_video is not None
    assert torch.equal(batch.frames[0], frames)
    assert batch.has_video.tolist() == [True, False, False]
    assert batch.joints is not None
    assert batch.has_skeleton is not None
    assert torch.equal(batch.joints[1], joints[:2])  # the third person is dropped
    assert torch.equal(batch.joints[2, 0], joints[0])
    assert float(batch.joints[2, 1].abs().max()) == 0  # the second is padded as unavailable
    assert batch.has_skeleton.tolist() == [False, True, True]
    assert batch.word_ids is not None
    assert batch.word_ids.tolist() == [[-1] * 7, [-1] * 7, list(range(7))]


def test_collating_refuses_clips_of_different_lengths() -> None:
    long, short = (Clip(clip_id=f"clip{n}", frames=torch.zeros(n, 3, 8, 8, dtype=torch.uint8)) for n in (4, 1))
    with pytest.raises(InputError, match="clip1"):
        collate_clips([long, short], n_words=4, n_people=1)


def test_joints_relative_to_their_person_by_hand() -> None:
    """The square around all boxes of a person: here 0.2 wide and 0.4 high, so 0.4 a side, from x 0.1 and y 0.2."""
    joints = torch.zeros(1, 1, 2, 17, 3)
    joints[0, 0, :, 3] = torch.tensor([0.3, 0.4, 0.9])
    boxes = torch.tensor([[[[0.2, 0.2, 0.3, 0.5], [0.25, 0.3, 0.4, 0.6]]]])
    squares = person_squares(boxes)
    torch.testing.assert_close(squares, torch.tensor([[[[0.1, 0.2, 0.5, 0.6]]]]))
    moved = in_person_frame(joints, squares)[0, 0, 0, 3]
    torch.testing.assert_close(moved, torch.tensor([0.5, 0.5, 0.9]))
    shift = torch.tensor([0.1, 0.2, 0.1, 0.2])
    shifted = in_person_frame(joints + torch.tensor([0.1, 0.2, 0.0]), person_squares(boxes + shift))
    torch.testing.assert_close(shifted[0, 0, 0, 3], moved)


def test_in_the_persons_frame_the_box_is_the_square_over_the_whole_clip(make_clips: MakeClips) -> None:
    """The box of a frame would tell how far the arms reach."""
    tokens = replace(TOKENS, joint_frame="person", segment_frames=2)
    clips = make_clips(2, tokens)
    source = token_sources(clips, tokens)["skeleton"]
    assert clips.boxes is not None
    squares = person_squares(clips.boxes)
    for person, segment, joint in itertools.product(range(2), range(2), (0, 16)):
        token = torch.tensor([(person * 2 + segment) * 17 + joint])
        boxes = source.boxes(torch.tensor([1]), token)
        assert boxes is not None
        assert torch.equal(boxes[0], squares[1, person, 0])
