"""Answers: the list from training alone, exact matches over all questions, nothing right by accident."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from oskar.errors import InputError
from oskar.metrics.question_answering import KindAccuracy, answer_accuracy, answer_list

ANSWERS = st.sampled_from(["kite", "dog", "two", "someone", "red", "woman"])


def test_the_worked_example_of_msrvtt() -> None:
    """Two of three test answers are not in the list: they stay in the denominator and are wrong."""
    known = answer_list(["kite", "someone", "dog", "two"], 1500)
    assert known == ("kite", "someone", "dog", "two")
    result = answer_accuracy(["kite"] * 3, ["cook", "onion", "kite"], ["who", "what", "what"], known)
    assert result.accuracy_percent == pytest.approx(100 / 3)
    assert result.coverage_percent == pytest.approx(100 / 3)
    assert result.n_questions == 3
    assert result.by_kind == {
        "what": KindAccuracy(accuracy_percent=50, n_questions=2),
        "who": KindAccuracy(accuracy_percent=0, n_questions=1),
    }


def test_the_worked_example_of_msvd() -> None:
    known = answer_list(["ball", "boy"], None)
    result = answer_accuracy(["ball", "ball"], ["man", "ball"], ["who", "what"], known)
    assert (result.accuracy_percent, result.coverage_percent) == (50, 50)


def test_dropping_questions_outside_the_list_would_show() -> None:
    """MSVD-QA as it was once reported: of 13,157 questions 11,983 are in the list of 1,000 answers."""
    answers = ["known"] * 11_983 + ["other"] * (13_157 - 11_983)
    result = answer_accuracy(["known"] * 13_157, answers, ["what"] * 13_157, ["known"])
    assert result.accuracy_percent == result.coverage_percent == pytest.approx(91.0770, abs=5e-5)


def test_an_answer_outside_the_list_is_wrong_even_if_it_is_said() -> None:
    result = answer_accuracy(["cook", "<unk>"], ["cook", "<unk>"], ["who", "who"], ["kite"])
    assert (result.accuracy_percent, result.coverage_percent) == (0, 0)


def test_only_outer_whitespace_is_forgiven() -> None:
    answers = [" dog\n", "Dog", "dogs", "ice  cream", "dog"]
    result = answer_accuracy(["dog", "dog", "dog", "ice cream", "\tdog "], answers, ["what"] * 5, answers)
    assert result.accuracy_percent == 40
    assert result.coverage_percent == 100
    assert answer_list([" dog", "dog ", "Dog", "dogs"], None) == ("dog", "Dog", "dogs")


def test_a_clip_that_could_not_be_read_is_wrong() -> None:
    result = answer_accuracy([None, "dog"], ["dog", "dog"], ["what", "what"], ["dog"])
    assert (result.accuracy_percent, result.coverage_percent, result.n_questions) == (50, 100, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANSWERS, ANSWERS, st.sampled_from(["what", "who"])), min_size=1, max_size=40))
def test_with_every_answer_known_it_is_scikit_learns(questions: list[tuple[str, str, str]]) -> None:
    predictions, answers, kinds = (list(column) for column in zip(*questions, strict=True))
    result = answer_accuracy(predictions, answers, kinds, answers)
    assert result.accuracy_percent == pytest.approx(100 * accuracy_score(answers, predictions))
    assert result.coverage_percent == 100
    assert list(result.by_kind) == sorted(set(kinds))
    n_right = sum(part.accuracy_percent * part.n_questions / 100 for part in result.by_kind.values())
    assert n_right == pytest.approx(result.accuracy_percent * result.n_questions / 100)
    for kind, part in result.by_kind.items():
        of_kind = [(p, a) for p, a, k in questions if k == kind]
        assert part.accuracy_percent == pytest.approx(100 * sum(p == a for p, a in of_kind) / len(of_kind))


def by_definition(answers: Sequence[str], n: int | None) -> tuple[str, ...]:
    ordered = sorted(set(answers), key=lambda answer: (-answers.count(answer), answers.index(answer)))
    return tuple(ordered[:n])


@given(st.lists(ANSWERS, min_size=1, max_size=30), st.none() | st.integers(1, 8))
def test_the_list_is_by_count_then_by_first_appearance(answers: list[str], n: int | None) -> None:
    assert answer_list(answers, n) == by_definition(answers, n)


def test_ties_of_a_long_list_are_cut_by_first_appearance() -> None:
    answers = [f"answer{i}" for i in range(500)]
    random.Random(0).shuffle(answers)
    assert answer_list([*answers, answers[-1]], 100) == (answers[-1], *answers[:99])


def test_a_generator_will_do() -> None:
    assert answer_list((answer for answer in ["b", "a", "a"]), 1) == ("a",)


@pytest.mark.parametrize(
    ("answers", "n", "message"),
    [
        ([], None, "answers: there is none.*Fix: build the list"),
        (["dog", "  "], None, "answers: '' is there 1 times.*Fix: leave"),
        (["<unk>", "<unk>"], 5, "answers: '<unk>' is there 2 times"),
        (["dog"], 0, "n_most_frequent = 0.*Fix: keep one answer or more"),
    ],
)
def test_lists_that_are_refused(answers: list[str], n: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer_list(answers, n)


@pytest.mark.parametrize(
    ("predictions", "answers", "kinds", "message"),
    [
        ([], [], [], "0 predictions, 0 answers, 0 kinds.*Fix: give one of each"),
        (["dog"], ["dog", "cat"], ["what", "what"], "1 predictions, 2 answers, 2 kinds"),
        (["dog"], ["dog"], [], "1 predictions, 1 answers, 0 kinds"),
    ],
)
def test_questions_that_are_refused(
    predictions: list[str | None], answers: list[str], kinds: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        answer_accuracy(predictions, answers, kinds, ["dog"])


def test_unknown_is_no_answer() -> None:
    with pytest.raises(InputError, match="known answers: '<unk>' is one of them"):
        answer_accuracy(["dog"], ["dog"], ["what"], ["dog", " <unk>"])
