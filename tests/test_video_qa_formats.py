"""MSRVTT-QA, MSVD-QA and TGIF-FrameQA: invented files in the official layouts, the real ones, broken ones."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from oskar.data.formats.video_qa import TGIF_KINDS, read_answer_list, read_msrvtt_qa, read_msvd_qa, read_tgif_frameqa
from oskar.data.formats.video_text import VideoQuestion, find_videos
from oskar.errors import InputError
from oskar.metrics.question_answering import answer_accuracy, answer_list

SHARED = Path(__file__).parents[2] / "shared"
FIXTURES = SHARED / "spec" / "fixtures"
REAL = SHARED / "data" / "text_annotations"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="shared/spec/fixtures is not there")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data/text_annotations is not there")

HEADER = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription"
QUESTIONS = [
    {"answer": "kite", "category_id": 14, "id": 7, "question": "what is flying?", "video_id": 0},
    {"answer": "wman", "category_id": 14, "id": 3, "question": "who runs?", "video_id": 12},
]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def test_msrvtt_videos_are_numbers_and_answers_stay_as_they_are(tmp_path: Path) -> None:
    first, second = read_msrvtt_qa(write(tmp_path / "test_qa.json", QUESTIONS), split="test")
    assert first == VideoQuestion(
        question_id="7",
        clip_id="video0",
        file_stems=("video0",),
        question="what is flying?",
        answer="kite",
        kind="what",
        split="test",
    )
    assert (second.clip_id, second.kind, second.answer) == ("video12", "who", "wman")


def test_msrvtt_questions_one_a_line(tmp_path: Path) -> None:
    lines = [
        {"answer": q["answer"], "question": q["question"], "video_id": f"video{q['video_id']}", "answer_type": "what"}
        for q in QUESTIONS
    ]
    text = json.dumps(lines[0]) + "\n\n" + json.dumps(lines[1])
    questions = read_msrvtt_qa(write(tmp_path / "val.jsonl", text), split="val")
    in_json = read_msrvtt_qa(write(tmp_path / "val_qa.json", QUESTIONS), split="val")
    assert [q.question_id for q in questions] == ["1", "2"]
    assert [dataclasses.replace(q, question_id="") for q in questions] == [
        dataclasses.replace(q, question_id="") for q in in_json
    ]


def test_msvd_videos_are_found_through_the_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "test_qa.json", QUESTIONS)
    mapping = write(tmp_path / "youtube_mapping.txt", "a_b_0_10 vid12\nc_3_9 vid0\n")
    questions = read_msvd_qa(path, split="test", mapping=mapping)
    assert [(q.question_id, q.clip_id, q.kind) for q in questions] == [("7", "c_3_9", "what"), ("3", "a_b_0_10", "who")]
    assert [q.clip_id for q in read_msvd_qa(path, split="test")] == ["vid0", "vid12"]
    for name in ("c_3_9.avi", "vid12.avi"):
        write(tmp_path / name, "")
    found = find_videos(questions, tmp_path)
    assert {clip: path.name for clip, path in found.paths.items()} == {"c_3_9": "c_3_9.avi", "a_b_0_10": "vid12.avi"}


def test_tgif_is_separated_by_tabs_and_knows_no_quotes(tmp_path: Path) -> None:
    rows = [
        'tumblr_a\twhat does the sign say , " stop ?\tstop\t0\tFRAMEQA1\t11\ta sign says stop .',
        'tumblr_a\t"how many\tthree\t1\tFRAMEQA2\t11\tthree birds .',
        "tumblr_b\twhat is the color ?\tred\t2\tFRAMEQA3\t12\ta red hat .",
        "tumblr_b\twhere is it ?\tkitchen\t3\tFRAMEQA4\t12\tin a kitchen .",
    ]
    path = write(tmp_path / "Test_frameqa_question.csv", "\r\n".join([HEADER, *rows]) + "\r\n")
    questions = read_tgif_frameqa(path, split="test")
    assert [q.kind for q in questions] == list(TGIF_KINDS) == ["object", "number", "colour", "location"]
    assert [q.question_id for q in questions] == ["FRAMEQA1", "FRAMEQA2", "FRAMEQA3", "FRAMEQA4"]
    assert questions[0].question == 'what does the sign say , " stop ?'
    assert questions[1].question == '"how many'
    assert [q.clip_id for q in questions] == ["tumblr_a", "tumblr_a", "tumblr_b", "tumblr_b"]


def test_the_description_is_nowhere(tmp_path: Path) -> None:
    assert {field.name for field in dataclasses.fields(VideoQuestion)} == {
        *("question_id", "clip_id", "file_stems", "question", "answer", "kind", "split"),
    }
    text = f"{HEADER}\ntumblr_a\twhat is it ?\tball\t0\tFRAMEQA1\t1\tthe secret ball .\n"
    (question,) = read_tgif_frameqa(write(tmp_path / "t.csv", text), split="test")
    assert "secret" not in repr(dataclasses.asdict(question))
    without = "\n".join(line.rpartition("\t")[0] for line in text.splitlines())
    assert read_tgif_frameqa(write(tmp_path / "u.csv", without), split="test") == (question,)


def test_answers_are_in_the_order_of_their_indices(tmp_path: Path) -> None:
    assert read_answer_list(write(tmp_path / "a.json", {"dog": 1, "two": 2, "a": 0})) == ("a", "dog", "two")


@needs_fixtures
def test_the_fixtures_give_the_worked_examples() -> None:
    folder = FIXTURES / "msrvtt_qa"
    train, test = (read_msrvtt_qa(folder / f"{split}_qa.json", split=split) for split in ("train", "test"))
    assert [q.clip_id for q in test] == ["video7010", "video7010", "video7011"]
    known = answer_list((q.answer for q in train), 1500)
    assert known == ("kite", "someone", "dog", "two")
    result = answer_accuracy(["kite"] * 3, [q.answer for q in test], [q.kind for q in test], known)
    assert result.accuracy_percent == result.coverage_percent == pytest.approx(100 / 3)
    folder = FIXTURES / "msvd_qa"
    train, test = (read_msvd_qa(folder / f"{split}_qa.json", split=split) for split in ("train", "test"))
    known = answer_list((q.answer for q in train), None)
    assert known == ("ball", "boy")
    result = answer_accuracy(["ball"] * 2, [q.answer for q in test], [q.kind for q in test], known)
    assert result.accuracy_percent == result.coverage_percent == 50
    mapped = read_msvd_qa(folder / "train_qa.json", split="train", mapping=FIXTURES / "msvd" / "youtube_mapping.txt")
    assert {q.clip_id for q in mapped} == {"exclipAAAA_0_10"}
    tgif = [read_tgif_frameqa(FIXTURES / "tgif_qa" / f"{s}_frameqa_question.csv", split=s) for s in ("Train", "Test")]
    assert [[q.kind for q in questions] for questions in tgif] == [["colour", "number"], ["location", "object"]]


@needs_real
def test_the_real_files_have_the_published_sizes() -> None:
    questions = read_tgif_frameqa(REAL / "tgif_qa" / "Test_frameqa_question.csv", split="test")
    assert len(questions) == 13_691
    assert len({q.clip_id for q in questions}) == 7_132
    assert len({q.answer for q in questions}) == 933
    kinds = Counter(q.kind for q in questions)
    assert kinds == {"object": 5_586, "number": 3_148, "colour": 3_904, "location": 1_053}
    val = read_msrvtt_qa(REAL / "msrvtt_qa" / "val.jsonl", split="val")
    assert len(val) == 12_278
    assert Counter(q.kind for q in val) == {"what": 8337, "who": 3439, "how": 344, "when": 106, "where": 52}
    known = read_answer_list(REAL / "msrvtt_qa" / "train_ans2label.json")
    assert len(known) == 1500
    result = answer_accuracy([q.answer for q in val], [q.answer for q in val], [q.kind for q in val], known)
    assert result.accuracy_percent == result.coverage_percent == pytest.approx(93.0037, abs=5e-5)
    with pytest.raises(InputError, match="without type"):
        read_tgif_frameqa(REAL / "tgif_qa" / "Test_count_question.csv", split="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"qa\.json line 1: not JSON"),
        ({}, r"qa\.json: a dict, not a list of objects"),
        ([{**QUESTIONS[0], "video_id": "video0"}], r"qa\.json\[0\], video_id = .*not a whole number of at least 0"),
        ([{**QUESTIONS[0], "video_id": True}], r"qa\.json\[0\], video_id = 'True': not a whole number"),
        ([{**QUESTIONS[0], "id": -1}], r"qa\.json\[0\], id = '-1': not a whole number"),
        ([{**QUESTIONS[0], "answer": ""}], r"qa\.json\[0\], answer = .*an empty one. Fix: fetch"),
        ([QUESTIONS[1], {"id": 1, "video_id": 1, "answer": "x"}], r"qa\.json\[1\]: has no 'question', only"),
        ([*QUESTIONS, QUESTIONS[0]], r"qa\.json\[2\]: question '7' is in .*qa\.json\[0\] too"),
    ],
)
def test_broken_questions(tmp_path: Path, content: object, message: str) -> None:
    path = write(tmp_path / "qa.json", content)
    with pytest.raises(InputError, match=message):
        read_msrvtt_qa(path, split="test")
    with pytest.raises(InputError, match=message):
        read_msvd_qa(path, split="test")


def test_a_video_that_the_mapping_lacks(tmp_path: Path) -> None:
    path, mapping = write(tmp_path / "qa.json", QUESTIONS), write(tmp_path / "map.txt", "a vid0\n")
    with pytest.raises(InputError, match=r"qa\.json\[1\], video_id = '12': the mapping has no vid12.*Fix: use files"):
        read_msvd_qa(path, split="test", mapping=mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"v\.jsonl: lists nothing"),
        ("{}\n", r"v\.jsonl line 1: has no 'video_id'"),
        ('\n{"video_id": "v"\n', r"v\.jsonl line 2: not JSON"),
        ("[1]\n", r"v\.jsonl line 1: holds a list, not an object"),
        ('{"video_id": 3, "answer": "a", "question": "q"}', r"v\.jsonl line 1, video_id = '3': not a text"),
    ],
)
def test_broken_lines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_msrvtt_qa(write(tmp_path / "v.jsonl", text), split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "\n", r"t\.csv: lists nothing"),
        (HEADER.replace("\t", ",") + "\na,b,c,0,e,f,g\n", r"t\.csv line 1: the header is .*separated by tabs"),
        (HEADER + "\na\tq\tx\t4\tF1\t1\td\n", r"t\.csv line 2, type = .*4.*: not 0 to 3 \(object, number"),
        (HEADER + "\na\tq\tx\t0\tF1\t1\n", r"t\.csv line 2: 6 cells, the header has 7"),
        (HEADER + "\na\tq\t \t0\tF1\t1\td\n", r"t\.csv line 2, answer = .*empty"),
        (
            HEADER + "\na\tq\tx\t0\tF1\t1\td\n\na\tq\tx\t0\tF1\t1\td\n",
            r"t\.csv line 4: question 'F1' is in .*line 2 too",
        ),
    ],
)
def test_broken_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tgif_frameqa(write(tmp_path / "t.csv", text), split="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"a\.json: holds a list"),
        ({}, r"a\.json: 0 answers with 0 indices"),
        ({"a": 0, "b": 2}, r"a\.json: 2 answers with 2 indices up to 2.*Fix: number the answers 0, 1, 2"),
        ({"a": 0, "b": 0}, r"a\.json: 2 answers with 1 indices up to 0"),
        ({"a": 1, "b": 2}, r"a\.json: 2 answers with 2 indices up to 2"),
        ({"a": "0"}, r"a\.json, a = .*not a whole number"),
    ],
)
def test_broken_answer_lists(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_answer_list(write(tmp_path / "a.json", content))
