"""Pairs to train on: which sentence a clip gets, what is left out, means against loops, the loss by hand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeClips

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.captioned import CaptionedSplit, open_captioned
from oskar.data.people import PeopleWorld, describe, generate
from oskar.data.reader import Draw, EvaluationWindow, ReadClips
from oskar.data.stream import MemoryStream
from oskar.errors import InputError
from oskar.pretraining import MaskedPrediction
from oskar.randomness import hash_id
from oskar.tasks.dual_encoder import DualEncoder
from oskar.tasks.pairs import (
    MeanPairs,
    PairBatch,
    PairBuilder,
    SentenceDraw,
    clip_means,
    mean_latents,
    number_sentences,
    text_means,
)
from oskar.tasks.retrieval import RetrievalConfig
from oskar.tasks.retrieval_data import open_sides
from oskar.tasks.task import Backbone
from oskar.tasks.transfer import Transfer
from oskar.tokens.words import train_words
from oskar.train.precision import PrecisionChoice

FLOAT32 = PrecisionChoice(dtype=torch.float32, reason="test")
CPU = torch.device("cpu")
DATA = Path(__file__).parents[2] / "shared" / "data"
CAPTIONS = [("a b", "c", "a b"), ("c",), ("d a", "b")]
IDS = ["x", "y", "z"]


def transfer_of(config: Config) -> Transfer:
    torch.manual_seed(0)
    return Transfer(config, train_words(["a b c d"], 50), "sha", MaskedPrediction(config))


def test_sentences_are_numbered_once_each() -> None:
    words = train_words(["a b c d"], 50)
    sentences = number_sentences(CAPTIONS, IDS, words, n_words=4, max_words=1)
    assert len(sentences) == 4
    assert sentences.of_clip == ((0, 1, 0), (1,), (2, 3))
    a, b, c, d = (int(words.encode(text, 1)) for text in "abcd")
    assert sentences.word_ids.tolist() == [[i, -1, -1, -1] for i in (a, c, d, b)]
    alike = number_sentences([("A b", "a  b"), ("a b c d", "á b c")], ["x", "y"], words, n_words=4, max_words=3)
    assert alike.of_clip == ((0, 0), (1, 1))  # lower case, white space, what is cut off
    with pytest.raises(InputError, match="clip y: caption '\\\\u200b' holds no word"):
        number_sentences([("a",), ("\N{ZERO WIDTH SPACE}",)], ["x", "y"], words, n_words=4, max_words=4)


def draw_of(seed: int = 0) -> SentenceDraw:
    return SentenceDraw.of(
        number_sentences(CAPTIONS, IDS, train_words(["a b c d"], 50), n_words=4, max_words=4), IDS, seed
    )


def test_the_sentence_of_a_step_is_drawn_evenly_and_from_the_clip_alone() -> None:
    ids = torch.tensor([hash_id(name) for name in IDS])
    draw = draw_of()
    drawn = torch.stack([draw(ids, step) for step in range(3000)])
    assert torch.equal(draw(ids.flip(0), 7), drawn[7].flip(0))
    assert torch.equal(draw(ids[[1, 1, 2]], 7), drawn[7][[1, 1, 2]])
    counts = [Counter(column.tolist()) for column in drawn.T]
    assert set(counts[1]) == {1}
    assert counts[0][0] == pytest.approx(2000, abs=4 * 26)  # of its three captions two are equal
    assert counts[2][2] == pytest.approx(1500, abs=4 * 28)
    assert not torch.equal(torch.stack([draw_of(1)(ids, step) for step in range(20)]), drawn[:20])


def test_a_batch_of_means_holds_no_clip_twice_and_every_clip_in_an_epoch() -> None:
    ids = torch.tensor([hash_id(name) for name in IDS])
    means, texts = torch.eye(3), torch.arange(4.0)[:, None]
    for size, per_epoch in ((1, 3), (2, 1), (3, 1), (64, 1)):
        pairs = MeanPairs(means, texts, ids, draw_of())
        stream = MemoryStream(len(pairs), pairs.batch, n_steps=30, batch_size=size, seed=0)
        batches = [part for step in stream.batches(0) for part in step.parts]
        assert len(batches) == 30
        clips = [batch.clips.argmax(1).tolist() for batch in batches]
        assert all(len(set(some)) == len(some) == min(size, 3) for some in clips)
        if per_epoch * min(size, 3) == 3:
            for start in range(0, 30, per_epoch):
                assert sorted(i for some in clips[start : start + per_epoch] for i in some) == [0, 1, 2]
        for batch, some in zip(batches, clips, strict=True):
            assert torch.equal(batch.texts, texts[batch.sentence_idx])
            assert all(int(n) in draw_of().of_clip[int(ids[i])] for n, i in zip(batch.sentence_idx, some, strict=True))
        rest = [part for step in stream.batches(11) for part in step.parts]
        assert [b.sentence_idx.tolist() for b in rest] == [b.sentence_idx.tolist() for b in batches[11:]]


def test_means_are_over_what_exists(make_clips: MakeClips, small_config: Config) -> None:
    latents = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    is_valid = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()
    found = mean_latents(latents, is_valid)
    for row, valid, mean in zip(latents, is_valid, found, strict=True):
        torch.testing.assert_close(mean, torch.stack([v for v, ok in zip(row, valid, strict=True) if ok]).mean(0))


class MadeReader:
    """Five made clips, of which one is not read, one has no usable joint; rows come in another order."""

    classes = ()

    def __init__(self, clips: ClipBatch) -> None:
        assert clips.joints is not None
        clips.joints[3] = 0.0
        self.clips = replace(clips, clip_ids=torch.tensor([hash_id(self.clip_id(i)) for i in range(5)]), word_ids=None)

    def __len__(self) -> int:
        return 5

    def clip_id(self, index: int) -> str:
        return f"clip{index}"

    def label(self, index: int) -> int:
        return -1

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        assert draw == EvaluationWindow()
        rows = torch.tensor([i for i in reversed(indices) if i != 1])
        values: dict[str, Any] = {name: getattr(self.clips, name) for name in self.clips.__dataclass_fields__}
        chosen = {name: value[rows] for name, value in values.items() if value is not None}
        return ReadClips(replace(self.clips, **chosen), (("clip1", "broken"),) if 1 in indices else ())


def test_each_clip_has_its_own_mean_or_a_reason(make_clips: MakeClips, small_config: Config) -> None:
    reader = MadeReader(make_clips(5, small_config.tokens))
    transfer = transfer_of(small_config)
    backbones = [Backbone(transfer, ("skeleton",), is_trained=False, random_seed=seed) for seed in (None, 1)]
    found = clip_means(backbones, reader, small_config, "skeleton", precision=FLOAT32, device=CPU)
    assert found.is_read.tolist() == [True, False, True, False, True]
    assert found.bad == {"clip1": "broken", "clip3": "no usable token of skeleton"}
    for backbone, means in zip(backbones, found.by_encoder, strict=True):
        assert not means[[1, 3]].any()
        for i in (0, 2, 4):
            read = reader.read([i], EvaluationWindow())
            (alone,) = clip_means(
                [backbone], Alone(read), small_config, "skeleton", precision=FLOAT32, device=CPU
            ).by_encoder
            torch.testing.assert_close(means[i], alone[0], rtol=1e-5, atol=1e-6)
    first, second = found.by_encoder
    assert not torch.allclose(first, second)


class Alone:
    """One clip that was read."""

    classes = ()

    def __init__(self, read: ReadClips) -> None:
        assert read.clips is not None
        self._clips = replace(read.clips, clip_ids=torch.tensor([hash_id("alone")]))

    def __len__(self) -> int:
        return 1

    def clip_id(self, index: int) -> str:
        return "alone"

    def label(self, index: int) -> int:
        return -1

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        return ReadClips(self._clips)


def test_tokens_and_means_of_a_frozen_encoder_give_one_loss(make_clips: MakeClips, small_config: Config) -> None:
    """A clip without a usable joint is left out of its batch, and the loss is that of a sum written out."""
    reader = MadeReader(make_clips(5, small_config.tokens))
    transfer = transfer_of(small_config)
    backbone = Backbone(transfer, ("skeleton", "text"), is_trained=False)
    captions = [("a",), ("b",), ("c",), ("d",), ("a",)]
    ids = [reader.clip_id(i) for i in range(5)]
    assert transfer.words is not None
    sentences = number_sentences(captions, ids, transfer.words, n_words=small_config.tokens.n_words, max_words=8)
    draw = SentenceDraw.of(sentences, ids, 0)
    batch = PairBuilder(small_config, "skeleton", sentences.word_ids, draw)(reader.clips, 0)
    assert batch.sentence_idx.tolist() == [0, 1, 2, 0]  # not the fourth clip
    assert batch.weight == len(batch) == 4
    torch.manual_seed(0)
    module = DualEncoder(backbone, "skeleton", 6)
    loss = float(module(batch)["loss"].detach())
    means = clip_means([backbone], reader, small_config, "skeleton", precision=FLOAT32, device=CPU).by_encoder[0]
    texts = text_means([backbone], sentences.word_ids, small_config, precision=FLOAT32, device=CPU)[0]
    clips = torch.stack([means[0], transferred(backbone, reader, small_config), means[2], means[4]])
    numbers = torch.tensor([0, 1, 2, 0])
    assert float(module(PairBatch(clips, texts[numbers], numbers))["loss"].detach()) == pytest.approx(loss, rel=1e-4)
    with torch.no_grad():
        logits = module.embed("skeleton", clips) @ module.embed("text", texts[numbers]).T / 0.07
    total = 0.0
    for matrix in (logits, logits.T):
        for i in range(4):
            others = [j for j in range(4) if j == i or numbers[j] != numbers[i]]  # an equal sentence is no negative
            total += float(matrix[i, others].logsumexp(0) - matrix[i, i])
    assert loss == pytest.approx(total / 8, rel=1e-4)
    empty = PairBuilder(small_config, "skeleton", sentences.word_ids, draw)(
        replace(reader.clips, joints=None, boxes=None, has_skeleton=None), 0
    )
    assert empty.weight == 0.0


def transferred(backbone: Backbone, reader: MadeReader, config: Config) -> torch.Tensor:
    """The mean of clip 1, which the reader refuses."""
    one = {name: v[[1]] for name in reader.clips.__dataclass_fields__ if (v := getattr(reader.clips, name)) is not None}
    alone = Alone(ReadClips(replace(reader.clips, **one)))
    return clip_means([backbone], alone, config, "skeleton", precision=FLOAT32, device=CPU).by_encoder[0][0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_people_are_described_without_being_drawn(split: Any) -> None:
    indices = torch.tensor([3, 40, 41, 900, 5])
    for n_people in (2, 3):
        world = PeopleWorld(n_frames=4, resolution=32, n_people=n_people)
        assert describe(world, indices, 5, split) == generate(world, indices, 5, split).captions


def read_config(config: Config) -> Config:
    return replace(config, tokens=replace(config.tokens, modalities=("video",)))


def test_real_sentences_of_silhouettes(small_config: Config) -> None:
    """Clips of the official split 1, less the seven classes that have none."""
    if not (DATA / "jhmdb_masks").is_dir():
        pytest.skip("shared/data/jhmdb_masks is not there")
    data = [str(DATA / "jhmdb_masks")]
    sides = [
        open_captioned(data, read_config(small_config), "video", CaptionedSplit(split=split, is_test=split == "test"))
        for split in ("train", "test")
    ]
    assert [len(side.ids) for side in sides] == [336, 135]
    assert not set(sides[0].ids) & set(sides[1].ids)
    assert all(len(texts) == 1 for side in sides for texts in side.captions)
    assert sides[0].sha256 != sides[1].sha256


def test_real_descriptions_by_subject(small_config: Config) -> None:
    if not (DATA / "gmdcsa24").is_dir():
        pytest.skip("shared/data/gmdcsa24 is not there")
    data = [str(DATA / "gmdcsa24")]
    texts = [
        text
        for is_test in (True, False)
        for some in open_captioned(
            data,
            read_config(small_config),
            "video",
            CaptionedSplit(split="all", is_test=is_test, test_subjects=("1",)),
        ).captions
        for text in some
    ]
    transfer = replace(transfer_of(small_config), words=train_words(texts, 400))
    train, test = open_sides(data, transfer, "video", RetrievalConfig(test_subjects=("1",)))
    assert (len(train.ids), len(train.sentences), len(test.ids), len(test.sentences)) == (10, 10, 5, 5)
    assert all("s1_" in name for name in test.ids)
    backbone = Backbone(transfer, ("video",), is_trained=False)
    means = clip_means([backbone], test.clips.reader, small_config, "video", precision=FLOAT32, device=CPU)
    assert means.is_read.all()
