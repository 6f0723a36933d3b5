"""Video question answering: one answer out of those of training, beside what blind models answer."""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oskar.data.question_reader import QuestionWords
from oskar.data.questions import OpenedQuestions, open_questions
from oskar.errors import AbsentError, InputError
from oskar.metrics.question_answering import AnswerAccuracy, answer_accuracy, answer_list
from oskar.modalities import Modality
from oskar.tasks.question_fitting import (
    Answered,
    QuestionAnsweringConfig,
    Study,
    Variant,
    answer_finetuned,
    answer_frozen,
)
from oskar.tasks.task import Evaluation, Protocol
from oskar.tasks.transfer import (
    Transfer,
    load_transfer,
    require_modality,
    require_words,
    what_is_read,
    whole_clips,
)
from oskar.train.device import choose_device
from oskar.train.precision import choose_precision
from oskar.train.record import prepare_run_folder, write_json_atomic

TASK = "video-question-answering"
NOTE_COMPOSED = "questions and answers are composed from class labels: this is action recognition put into words"


def evaluate_question_answering(
    run: Path, data: list[str], modality: Modality, out: Path, config: QuestionAnsweringConfig, protocol: Protocol
) -> dict[str, Any]:
    """Answer a data set's test questions from clips; writes and returns ``summary.json``.

    Beside it: the same head on random weights, on questions alone, on clips alone, and the most frequent training
    answer, overall and of the question's kind. Also writes ``answers.json``, the answers there are, and
    ``predictions.csv``, from which every accuracy can be computed again. A test question whose answer is not in
    the list is wrong. So is one whose clip cannot be read, which is listed; what needs no clip still answers it.

    Raises:
        InputError: wrong run, data, split or modality; a run without text.
    """
    transfer = load_transfer(run)
    prepare_run_folder(out, resume=False)
    require_modality(transfer.config, modality)
    words = QuestionWords(require_words(transfer), transfer.config.tokens.n_words, config.max_words)
    read_config = whole_clips(what_is_read(transfer.config, modality), (0.5, 1.0))
    if config.split == read_config.data.split:
        raise InputError(f"split = {config.split!r} is what the heads learn on", fix="test on another split")
    train, test = (open_questions(data, read_config, s, modality) for s in (read_config.data.split, config.split))
    study = _study(transfer, train, test, words, modality, protocol, config)
    write_json_atomic(out / "answers.json", {answer: i for i, answer in enumerate(study.answers)})
    variants = {
        "prediction": Variant(),
        "random_weights": Variant(is_random=True),
        "language_only": Variant(sees_clip=False),
        f"{modality}_only": Variant(sees_question=False),
    }
    answer = answer_frozen if protocol == "frozen" else answer_finetuned
    answered = answer(study, variants, out / "heads")
    answered.by_variant |= _most_frequent(train, test, study.answers)
    _write_predictions(out / "predictions.csv", test, answered)
    summary = _evaluation(study, answered).to_json()
    write_json_atomic(out / "summary.json", summary)
    return summary


def _study(
    transfer: Transfer,
    train: OpenedQuestions,
    test: OpenedQuestions,
    words: QuestionWords,
    modality: Modality,
    protocol: Protocol,
    config: QuestionAnsweringConfig,
) -> Study:
    """The answer list, and the training questions it answers that have a clip and a word."""
    sizes = {"benchmark": train.n_answers, "all": None}
    n_most_frequent = config.n_answers if isinstance(config.n_answers, int) else sizes[config.n_answers]
    answers = answer_list((q.answer for q in train.questions), n_most_frequent)
    place = {answer: i for i, answer in enumerate(answers)}
    chosen = tuple(
        i
        for i, (q, clip) in enumerate(zip(train.questions, train.clip_idx, strict=True))
        if clip is not None and q.answer.strip() in place and words.has_word(q.question)
    )
    if not chosen:
        raise AbsentError(f"data {train.name}: no training question has a clip with {modality}", fix="add the clips")
    device = choose_device(config.device)
    return Study(
        transfer=transfer,
        train=train,
        test=test,
        words=words,
        answers=answers,
        chosen=chosen,
        answer_idx=tuple(place[train.questions[i].answer.strip()] for i in chosen),
        modality=modality,
        protocol=protocol,
        config=config,
        precision=choose_precision(config.precision, device),
        device=device,
    )


def _most_frequent(
    train: OpenedQuestions, test: OpenedQuestions, answers: Sequence[str]
) -> dict[str, list[str | None]]:
    """The first of the list to all questions, and the most frequent training answer of each question's kind."""
    known = set(answers)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in train.questions:
        if question.answer.strip() in known:
            counts[question.kind][question.answer.strip()] += 1
    of_kind = {kind: count.most_common(1)[0][0] for kind, count in counts.items()}
    return {
        "most_frequent": [answers[0] for _ in test.questions],
        "most_frequent_of_kind": [of_kind.get(question.kind, answers[0]) for question in test.questions],
    }


def _evaluation(study: Study, answered: Answered) -> Evaluation:
    test, train, config = study.test, study.train, study.config
    truth, kinds = [q.answer for q in test.questions], [q.kind for q in test.questions]
    accuracy = {
        name: answer_accuracy(given, truth, kinds, study.answers) for name, given in answered.by_variant.items()
    }
    known = set(study.answers)
    facts = {
        "counts_are_of": "questions",
        "n_clips": len({q.clip_id for q in test.questions}),
        "n_questions_of_kind": {kind: a.n_questions for kind, a in accuracy["prediction"].by_kind.items()},
        "n_answers": len(study.answers),
        "n_train_questions": len(study.chosen),
        "n_train_answers_outside_list": sum(q.answer.strip() not in known for q in train.questions),
        "bad_train_clips": answered.bad_train,
        "train_data_sha256": train.sha256,
        "frames": f"{study.transfer.config.tokens.n_frames} evenly over the clip, one view",
        "settings": asdict(config),
    }
    if test.is_composed:
        facts["note"] = NOTE_COMPOSED
    return Evaluation(
        task=TASK,
        modality=study.modality,
        protocol=study.protocol,
        data=(test.name,),
        split=config.split,
        n_expected=len(test.questions),
        n_found=sum(place is not None for place in test.clip_idx),
        n_evaluated=sum(answer is not None for answer in answered.by_variant["prediction"]),
        metrics=_values(accuracy.pop("prediction")),
        controls={name: _values(a) for name, a in accuracy.items()},
        recipe=study.transfer.config.recipe,
        seed=config.seed,
        checkpoint_sha256=study.transfer.sha256,
        data_sha256=test.sha256,
        bad_clips=answered.bad_test,
        protocol_facts=facts,
    )


def _values(accuracy: AnswerAccuracy) -> dict[str, float]:
    """Named values: over all questions, the ceiling, and of every kind."""
    of_kind = {f"accuracy_percent_{kind}": a.accuracy_percent for kind, a in accuracy.by_kind.items()}
    return {
        "accuracy_percent": accuracy.accuracy_percent,
        "coverage_percent": accuracy.coverage_percent,
        **of_kind,
    }


def _write_predictions(path: Path, test: OpenedQuestions, answered: Answered) -> None:
    columns = answered.by_variant
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "clip_id", "question", "answer", "kind", *columns, "not_read"])
        for i, q in enumerate(test.questions):
            given = [column[i] or "" for column in columns.values()]
            reason = answered.bad_test.get(q.clip_id, "")
            writer.writerow([q.question_id, q.clip_id, q.question, q.answer, q.kind, *given, reason])


__all__ = ["NOTE_COMPOSED", "TASK", "QuestionAnsweringConfig", "evaluate_question_answering"]
