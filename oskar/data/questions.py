"""Questions about clips: those of the people, of a folder's ``qa.csv``, of the official benchmarks."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oskar.config import Config
from oskar.data.folder_reader import FolderReader
from oskar.data.formats.annotations import Record, check_unique, read_columns
from oskar.data.formats.video_qa import read_msrvtt_qa, read_msvd_qa, read_tgif_frameqa
from oskar.data.formats.video_text import VideoQuestion, find_videos
from oskar.data.manifest import Manifest, fingerprint, select
from oskar.data.official import read_named
from oskar.data.people_reader import PeopleReader, parse_people
from oskar.data.reader import ClipReader
from oskar.data.rows import Row
from oskar.errors import AbsentError, InputError
from oskar.modalities import Modality

QUESTIONS_FILE = "qa.csv"
VIDEOS_FOLDER = "videos"


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """An official data set: how a split's questions are read, how many answers its list has (None: all of training)."""

    read: Callable[[Path, str], tuple[VideoQuestion, ...]]
    n_answers: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedQuestions:
    """The questions of one split, and the reader of their clips.

    ``clip_idx`` is the place of each question's clip in ``reader``, None where the clip is not there or lacks
    the modality. ``n_answers`` is the size of the benchmark's answer list, None for all training answers.
    ``is_composed`` says that questions were made from class labels.
    """

    name: str
    questions: tuple[VideoQuestion, ...]
    clip_idx: tuple[int | None, ...]
    reader: ClipReader
    sha256: str
    n_answers: int | None = None
    is_composed: bool = False


def open_questions(data: Sequence[str], config: Config, split: str, modality: Modality) -> OpenedQuestions:
    """Open the questions of one split of one data set.

    ``data`` is ``people[:CLIPS[:SEED]]``, a folder or manifest with a ``qa.csv`` beside it (columns ``clip_id``,
    ``question``, ``answer``, and if wanted ``question_id``, ``kind``, ``source``), or ``NAME:FOLDER`` with a name
    of ``BENCHMARKS``: the official files in the folder, the videos in its ``videos`` or beside them.

    Raises:
        InputError: naming file and line or key, value and fix; no clip of the split has the modality.
    """
    if len(data) != 1:
        official = " or ".join(f"{name}:FOLDER" for name in BENCHMARKS)
        raise InputError(
            f"--data {' '.join(data) or 'is missing'}: {len(data)} sets of questions, with answers of their own",
            fix=f"name one: people, a folder with a {QUESTIONS_FILE}, or {official}",
        )
    people = parse_people(data[0])
    if people is not None:
        reader = PeopleReader(people, config, None, split, is_labelled=True)
        return _opened("people", reader.questions(), reader, reader.identity)
    name, separator, folder = data[0].partition(":")
    if separator and name in BENCHMARKS:
        return _open_benchmark(name, Path(folder), config, split, modality)
    return _open_folder(data[0], config, split, modality)


def _opened(
    name: str,
    questions: tuple[VideoQuestion, ...],
    reader: ClipReader,
    identity: str,
    *,
    id_prefix: str = "",
    n_answers: int | None = None,
    is_composed: bool = False,
) -> OpenedQuestions:
    place = {reader.clip_id(i): i for i in range(len(reader))}
    asked = [(q.question_id, q.clip_id.removeprefix(id_prefix), q.question, q.answer, q.kind) for q in questions]
    entries = json.dumps([identity, sorted(asked)])
    return OpenedQuestions(
        name=name,
        questions=questions,
        clip_idx=tuple(place.get(question.clip_id) for question in questions),
        reader=reader,
        sha256=hashlib.sha256(entries.encode()).hexdigest(),
        n_answers=n_answers,
        is_composed=is_composed,
    )


def _open_folder(data: str, config: Config, split: str, modality: Modality) -> OpenedQuestions:
    (manifest,) = read_named([data])
    chosen = select(manifest, split=split)
    path = manifest.folder / QUESTIONS_FILE
    if not path.is_file():
        raise AbsentError(f"{path}: does not exist", fix="write one with the columns clip_id, question and answer")
    rows = read_columns(path, ("clip_id", "question", "answer"), separator=",")
    split_of = {row.clip_id.removeprefix(manifest.id_prefix): row.split for row in manifest.rows}
    named = [(_question(row, manifest.id_prefix, split_of), row) for row in rows]
    check_unique(((question.question_id, row.where) for question, row in named), "question")
    kept = [(question, row) for question, row in named if question.split == split]
    if not kept:
        raise AbsentError(f"{path}: no question about a clip of split {split!r}", fix="add some, or use another split")
    return _opened(
        manifest.name,
        tuple(question for question, _ in kept),
        FolderReader(chosen, config, None, modality),
        fingerprint(chosen),
        id_prefix=manifest.id_prefix,
        is_composed=any(str(row.values.get("source", "")).startswith("composed") for _, row in kept),
    )


def _question(row: Record, id_prefix: str, split_of: dict[str, str | None]) -> VideoQuestion:
    clip, question = row.text("clip_id"), row.text("question")
    if clip not in split_of:
        raise row.error("clip_id", "the index has no such clip", "correct the id, or add the clip to the index")
    return VideoQuestion(
        question_id=row.text("question_id") if "question_id" in row.values else row.where.rpartition(" ")[2],
        clip_id=id_prefix + clip,
        file_stems=(),
        question=question,
        answer=row.text("answer"),
        kind=row.text("kind") if "kind" in row.values else question.split()[0],
        split=split_of[clip] or "",
    )


def _open_benchmark(name: str, folder: Path, config: Config, split: str, modality: Modality) -> OpenedQuestions:
    benchmark = BENCHMARKS[name]
    questions = benchmark.read(folder, split)
    videos = folder / VIDEOS_FOLDER if (folder / VIDEOS_FOLDER).is_dir() else folder
    found = find_videos(questions, videos)
    if not found.paths:
        raise InputError(
            f"{videos}: has none of the {found.n_expected} videos of split {split!r}, such as {found.missing[0]}",
            fix=f"put the video files into {folder / VIDEOS_FOLDER}",
        )
    rows = tuple(Row(clip_id=clip_id, video_path=path, split=split) for clip_id, path in found.paths.items())
    reader = FolderReader(Manifest(name=name, folder=folder, rows=rows), config, None, modality)
    return _opened(name, questions, reader, name, n_answers=benchmark.n_answers)


def _first_file(folder: Path, *names: str) -> Path:
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder}: has no {' or '.join(names)}", fix="put the official file there, or use another split"
        )
    return path


def _msrvtt(folder: Path, split: str) -> tuple[VideoQuestion, ...]:
    return read_msrvtt_qa(_first_file(folder, f"{split}_qa.json", f"{split}.jsonl"), split=split)


def _msvd(folder: Path, split: str) -> tuple[VideoQuestion, ...]:
    mapping = folder / "youtube_mapping.txt"
    path = _first_file(folder, f"{split}_qa.json")
    return read_msvd_qa(path, split=split, mapping=mapping if mapping.is_file() else None)


def _tgif(folder: Path, split: str) -> tuple[VideoQuestion, ...]:
    return read_tgif_frameqa(_first_file(folder, f"{split.capitalize()}_frameqa_question.csv"), split=split)


# Answer lists: MSRVTT-QA as ClipBERT, the other two as Just-Ask and HCRN.
BENCHMARKS = {
    "msrvtt-qa": Benchmark(read=_msrvtt, n_answers=1500),
    "msvd-qa": Benchmark(read=_msvd, n_answers=None),
    "tgif-frameqa": Benchmark(read=_tgif, n_answers=None),
}
