"""MSRVTT-QA, MSVD-QA and TGIF-FrameQA: one question, one answer, nothing else that could give it away."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from oskar.data.formats.annotations import (
    Record,
    check_unique,
    read_columns,
    read_json,
    read_json_lines,
    read_object,
    records,
)
from oskar.data.formats.msvd import read_youtube_mapping
from oskar.data.formats.video_text import VideoQuestion
from oskar.errors import InputError

TGIF_KINDS = ("object", "number", "colour", "location")


def read_msrvtt_qa(path: Path, *, split: str) -> tuple[VideoQuestion, ...]:
    """The questions of ``<split>_qa.json``, or of a ``.jsonl`` whose videos are named and whose ids are line numbers.

    Video 7 is ``video7``; the kind is the first word of the question.

    Raises:
        InputError: a malformed file, a question id that is there twice.
    """
    if path.suffix == ".jsonl":
        named = [(record, str(i + 1), record.text("video_id")) for i, record in enumerate(read_json_lines(path))]
    else:
        entries = records(read_json(path), str(path))
        named = [(entry, str(entry.number("id")), f"video{entry.number('video_id')}") for entry in entries]
    return _checked((_question(record, name, clip, (clip,), split), record.where) for record, name, clip in named)


def read_msvd_qa(path: Path, *, split: str, mapping: Path | None = None) -> tuple[VideoQuestion, ...]:
    """The questions of ``<split>_qa.json``; the kind is the first word of the question.

    ``mapping`` (``youtube_mapping.txt``) names the clip of video 7, whose file may also be called ``vid7``;
    without it the clip is ``vid7``.

    Raises:
        InputError: a malformed file, a video that the mapping lacks, a question id that is there twice.
    """
    clip_of = read_youtube_mapping(mapping) if mapping else None
    entries = records(read_json(path), str(path))
    return _checked((_msvd_question(entry, clip_of, split), entry.where) for entry in entries)


def read_tgif_frameqa(path: Path, *, split: str) -> tuple[VideoQuestion, ...]:
    """The questions of ``<Split>_frameqa_question.csv``, which is separated by tabs and knows no quotes.

    The kind is one of ``TGIF_KINDS``. The id is the cell ``vid_id``, where the official files have the
    question's key. ``description`` holds the answer and is not read.

    Raises:
        InputError: a malformed file, a type other than 0 to 3, a question id that is there twice.
    """
    rows = read_columns(path, ("gif_name", "question", "answer", "type", "vid_id"), separator="\t")
    return _checked((_tgif_question(row, split), row.where) for row in rows)


def read_answer_list(path: Path) -> tuple[str, ...]:
    """The answers of a JSON file ``{answer: index}`` in the order of their indices.

    Raises:
        InputError: indices other than 0, 1, 2 ..., each once.
    """
    index_of = read_object(path)
    answers = {Record(where=str(path), values=index_of).number(answer): answer for answer in index_of}
    if not answers or sorted(answers) != list(range(len(index_of))):
        raise InputError(
            f"{path}: {len(index_of)} answers with {len(answers)} indices up to {max(answers, default=None)}",
            fix="number the answers 0, 1, 2 ... without a gap",
        )
    return tuple(answers[i] for i in range(len(answers)))


def _question(
    record: Record, question_id: str, clip_id: str, file_stems: tuple[str, ...], split: str, kind: str | None = None
) -> VideoQuestion:
    question = record.text("question")
    return VideoQuestion(
        question_id=question_id,
        clip_id=clip_id,
        file_stems=file_stems,
        question=question,
        answer=record.text("answer"),
        kind=question.split()[0] if kind is None else kind,
        split=split,
    )


def _msvd_question(entry: Record, clip_of: Mapping[str, str] | None, split: str) -> VideoQuestion:
    video = f"vid{entry.number('video_id')}"
    if clip_of is not None and video not in clip_of:
        raise entry.error("video_id", f"the mapping has no {video}", "use files of one release")
    clip = video if clip_of is None else clip_of[video]
    stems = (video,) if clip_of is None else (clip, video)
    return _question(entry, str(entry.number("id")), clip, stems, split)


def _tgif_question(row: Record, split: str) -> VideoQuestion:
    number = row.text("type")
    if number not in ("0", "1", "2", "3"):
        raise row.error("type", f"not 0 to 3 ({', '.join(TGIF_KINDS)})")
    name = row.text("gif_name")
    return _question(row, row.text("vid_id"), name, (name,), split, TGIF_KINDS[int(number)])


def _checked(questions: Iterable[tuple[VideoQuestion, str]]) -> tuple[VideoQuestion, ...]:
    listed = list(questions)
    check_unique(((question.question_id, where) for question, where in listed), "question")
    return tuple(question for question, _ in listed)
