"""Accuracy of open-ended answers out of a fixed list of training answers."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from oskar.errors import InputError

UNKNOWN = "<unk>"  # what other programs call every answer outside their list


@dataclass(frozen=True, kw_only=True, slots=True)
class KindAccuracy:
    """Accuracy over the questions of one kind."""

    accuracy_percent: float
    n_questions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerAccuracy:
    """Accuracy over all questions; ``coverage_percent`` of them have their answer in the list, which is the ceiling."""

    accuracy_percent: float
    coverage_percent: float
    n_questions: int
    by_kind: Mapping[str, KindAccuracy]


def answer_list(answers: Iterable[str], n_most_frequent: int | None) -> tuple[str, ...]:
    """The distinct training answers by falling count, those of one count by first appearance.

    ``n_most_frequent`` keeps so many at most, None keeps all. Outer whitespace is no part of an answer.

    Raises:
        InputError: no answer, an empty one, ``<unk>`` (a class that could be right by accident), a size below 1.
    """
    if n_most_frequent is not None and n_most_frequent < 1:
        raise InputError(f"n_most_frequent = {n_most_frequent}", fix="keep one answer or more, or None for all")
    counts = Counter(answer.strip() for answer in answers)
    if not counts:
        raise InputError("answers: there is none", fix="build the list from the training questions")
    for answer in ("", UNKNOWN):
        if answer in counts:
            raise InputError(
                f"answers: {answer!r} is there {counts[answer]} times", fix="leave these training questions out"
            )
    return tuple(answer for answer, _ in counts.most_common(n_most_frequent))


def answer_accuracy(
    predictions: Sequence[str | None], answers: Sequence[str], kinds: Sequence[str], known: Collection[str]
) -> AnswerAccuracy:
    """Exact string matches over all questions; only outer whitespace is stripped.

    A question whose answer is not among the ``known`` ones, those of the answer list, stays in the
    denominator and is wrong whatever was predicted. So is a prediction of None, for a clip that could not
    be read. ``kinds`` groups the questions for ``AnswerAccuracy.by_kind``, which is sorted by name.

    Raises:
        InputError: no question, lists of different lengths, ``<unk>`` among the known answers.
    """
    if not answers or not len(predictions) == len(answers) == len(kinds):
        raise InputError(
            f"{len(predictions)} predictions, {len(answers)} answers, {len(kinds)} kinds",
            fix="give one of each for every test question",
        )
    known_answers = {answer.strip() for answer in known}
    if UNKNOWN in known_answers:
        raise InputError(f"known answers: {UNKNOWN!r} is one of them", fix="build them with answer_list")
    is_covered = [answer.strip() in known_answers for answer in answers]
    is_right = [
        is_known and prediction is not None and prediction.strip() == answer.strip()
        for prediction, answer, is_known in zip(predictions, answers, is_covered, strict=True)
    ]
    n_of_kind = Counter(kinds)
    n_right_of_kind = Counter(kind for kind, right in zip(kinds, is_right, strict=True) if right)
    return AnswerAccuracy(
        accuracy_percent=100.0 * sum(is_right) / len(answers),
        coverage_percent=100.0 * sum(is_covered) / len(answers),
        n_questions=len(answers),
        by_kind={
            kind: KindAccuracy(accuracy_percent=100.0 * n_right_of_kind[kind] / n, n_questions=n)
            for kind, n in sorted(n_of_kind.items())
        },
    )
