"""Questions of people, folders and official files, and the readers over them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import official_questions, packed_folder, shrunk, video_folder, write_questions

from oskar.config import Config
from oskar.data import people_reader
from oskar.data.people import PeopleWorld, generate
from oskar.data.question_reader import AskedClips, QuestionReader, QuestionTexts, QuestionWords
from oskar.data.questions import BENCHMARKS, open_questions
from oskar.data.reader import EvaluationWindow, TrainingDraw
from oskar.errors import InputError
from oskar.tokens.words import train_words

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
WORDS = QuestionWords(train_words(["what is it who runs there"], 64), 16, 3)


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    return replace(config, tokens=replace(config.tokens, modalities=("video", "skeleton"), n_frames=4))


def test_questions_about_people_are_those_of_the_clips(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(people_reader.N_LABELLED, "test", 20)
    opened = open_questions(["people:5:3"], config, "test", "video")
    tokens = config.tokens
    world = PeopleWorld(n_frames=tokens.n_frames, resolution=tokens.resolution, n_people=tokens.n_people)
    clips = generate(world, torch.arange(20), 3, "test")
    expected = [(i, q.question, q.answer, q.kind) for i, asked in enumerate(clips.questions) for q in asked]
    found = [(place, q.question, q.answer, q.kind) for place, q in zip(opened.clip_idx, opened.questions, strict=True)]
    assert found == expected
    assert {q.kind for q in opened.questions} == {"action", "count", "colour", "side", "who"}
    assert len({q.question_id for q in opened.questions}) == len(expected)
    assert not opened.is_composed


def test_a_folder_of_questions(config: Config, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "joints", 4)  # s0, s2 train, s1, s3 test
    rows = [("s0", "what is it?", "a", "q7"), ("s1", "who runs, then?", "b", "q8"), ("s1", "why", "c", "9")]
    write_questions(data, *rows, header="clip_id,question,answer,question_id")
    train, test = (open_questions([str(data)], config, split, "skeleton") for split in ("train", "test"))
    assert [(q.question_id, q.clip_id, q.kind, q.answer) for q in train.questions] == [("q7", "joints/s0", "what", "a")]
    assert [(q.question_id, q.question) for q in test.questions] == [("q8", "who runs, then?"), ("9", "why")]
    assert test.clip_idx == (0, 0)
    assert test.reader.clip_id(0) == "joints/s1"
    assert train.sha256 != test.sha256
    moved = data.rename(tmp_path / "elsewhere")
    assert open_questions([str(moved)], config, "test", "skeleton").sha256 == test.sha256
    write_questions(moved, ("s1", "who runs, then?", "d"), ("s1", "why", "c"))
    named_by_line = open_questions([str(moved)], config, "test", "skeleton")
    assert [q.question_id for q in named_by_line.questions] == ["2", "3"]
    assert named_by_line.sha256 != test.sha256


def test_clips_without_the_modality_keep_their_questions(config: Config, tmp_path: Path) -> None:
    data = video_folder(tmp_path / "videos", 2, split=lambda i: "test", caption=lambda i: "somebody")
    (data / "v1.mkv").unlink()
    index = (data / "index.csv").read_text().replace("v1.mkv", "")
    (data / "index.csv").write_text(index)
    write_questions(data, ("v0", "what", "a"), ("v1", "what", "b"))
    assert open_questions([str(data)], config, "test", "video").clip_idx == (0, None)
    with pytest.raises(InputError, match="no clip has skeleton"):
        open_questions([str(data)], config, "test", "skeleton")


def test_questions_that_cannot_be_used_are_refused(config: Config, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "joints", 4)
    open_test = [str(data)], config, "test", "skeleton"
    with pytest.raises(InputError, match=r"qa\.csv: does not exist.*clip_id, question"):
        open_questions(*open_test)  # type: ignore[arg-type]
    for rows, header, message in (
        ([("s9", "what", "a")], "clip_id,question,answer", r"qa\.csv line 2, clip_id = .*s9.*no such clip"),
        ([("s1", "", "a")], "clip_id,question,answer", r"line 2, question = "),
        ([("s1", "what", "a", "x"), ("s1", "who", "b", "x")], "clip_id,question,answer,question_id", "line 2 too"),
        ([("s1", "what")], "clip_id,question", "answer"),
        ([("s0", "what", "a")], "clip_id,question,answer", "no question about a clip of split 'test'"),
    ):
        write_questions(data, *rows, header=header)
        with pytest.raises(InputError, match=message):
            open_questions(*open_test)  # type: ignore[arg-type]
    for names in ([], ["people", str(data)]):
        with pytest.raises(InputError, match=r"sets of questions.*msrvtt-qa:FOLDER"):
            open_questions(names, config, "test", "skeleton")


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_official_files_with_a_folder_of_videos(config: Config, tmp_path: Path, name: str) -> None:
    folder = official_questions(tmp_path / "official", name)
    train, test = (open_questions([f"{name}:{folder}"], config, split, "video") for split in ("train", "test"))
    assert [(q.question, q.answer) for q in train.questions] == [("what is it", "kite"), ("who runs", "dog")]
    assert (train.clip_idx, test.clip_idx) == ((0, 0), (0, None))
    assert train.n_answers == {"msrvtt-qa": 1500, "msvd-qa": None, "tgif-frameqa": None}[name]
    read = test.reader.read([0], EvaluationWindow())
    assert read.bad == ()
    assert read.clips is not None
    assert read.clips.frames is not None
    assert not any("secret" in str(q) for q in test.questions)
    with pytest.raises(InputError, match="no clip has skeleton"):
        open_questions([f"{name}:{folder}"], config, "test", "skeleton")
    with pytest.raises(InputError, match=rf"official: has no .*{'Val' if name == 'tgif-frameqa' else 'val'}_"):
        open_questions([f"{name}:{folder}"], config, "val", "video")
    for path in (folder / "videos").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="none of the 2 videos of split 'test'"):
        open_questions([f"{name}:{folder}"], config, "test", "video")


def test_items_are_clip_words_and_answer(config: Config, tmp_path: Path) -> None:
    data = video_folder(tmp_path / "videos", 4, split=lambda i: "train")
    rows = [(f"v{i % 4}", ("what is it", "who runs there what")[i % 2], "ab"[i % 2]) for i in range(8)]
    opened = open_questions([str(write_questions(data, *rows))], config, "train", "video")
    (data / "v3.mkv").write_bytes(b"broken")
    reader = QuestionReader(opened, WORDS, range(8), [i % 2 for i in range(8)], ("a", "b"), is_clip_read=True)
    chosen, draw = [5, 1, 3, 0, 4], TrainingDraw(0, 7)
    read = reader.read(chosen, draw)
    assert [name for name, _ in read.bad] == ["videos/v3"]
    assert read.clips is not None
    assert read.clips.frames is not None
    assert read.clips.word_ids is not None
    kept = [5, 1, 0, 4]
    assert read.clips.labels.tolist() == [i % 2 for i in kept]
    for row, i in enumerate(kept):
        alone = opened.reader.read([i % 4], draw).clips
        assert alone is not None
        assert alone.frames is not None
        assert torch.equal(read.clips.frames[row], alone.frames[0])
        ids = WORDS.words.encode(opened.questions[i].question, 3).tolist()  # max_words
        assert read.clips.word_ids[row].tolist() == ids + [-1] * (16 - len(ids))
    bare = QuestionReader(opened, WORDS, range(8), [0] * 8, ("a",), is_clip_read=False).read(chosen, draw)
    assert bare.bad == ()  # nothing of a clip is touched
    assert bare.clips is not None
    assert bare.clips.frames is None
    assert len(bare.clips) == 5


def test_clips_and_texts_are_numbered(config: Config, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "joints", 8)
    write_questions(data, ("s0", "what", "a"))
    opened = open_questions([str(data)], config, "train", "skeleton")
    clips = AskedClips(opened.reader, [3, 1])
    assert [(clips.clip_id(i), clips.label(i)) for i in range(len(clips))] == [("joints/s6", 3), ("joints/s2", 1)]
    one, other = clips.read([1], EvaluationWindow()).clips, opened.reader.read([1], EvaluationWindow()).clips
    assert one is not None
    assert other is not None
    assert torch.equal(one.clip_ids, other.clip_ids)
    texts = QuestionTexts(["who runs", "what"], WORDS).read([1, 0], EvaluationWindow()).clips
    assert texts is not None
    assert texts.word_ids is not None
    assert (texts.word_ids >= 0).sum(1).tolist() == [1, 2]
    assert WORDS.has_word("why")
    assert not WORDS.has_word("\u200b \x07")


def test_real_composed_questions_say_so(config: Config) -> None:
    folder = DATA_DIR / "utd_mhad"
    if not folder.is_dir():
        pytest.skip("shared/data/utd_mhad is not there")
    for split in ("train", "test"):
        opened = open_questions([str(folder)], config, split, "skeleton")
        assert opened.is_composed
        assert Counter(q.kind for q in opened.questions) == {"what": 323, "which": 323}
        assert None not in opened.clip_idx
