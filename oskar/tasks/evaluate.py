"""The tasks by name, each with its settings: what ``oskar evaluate --task`` runs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from oskar.modalities import Modality
from oskar.settings import apply_overrides
from oskar.tasks.finetuning import FinetuneConfig, evaluate_finetuned
from oskar.tasks.localization import LocalizationConfig, evaluate_localization
from oskar.tasks.low_shot import LowShotConfig, LowShotFinetuneConfig, evaluate_low_shot, evaluate_low_shot_finetuned
from oskar.tasks.question_answering import QuestionAnsweringConfig, evaluate_question_answering
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.tasks.retrieval import RetrievalConfig, evaluate_retrieval
from oskar.tasks.task import Protocol

RunTask = Callable[[Path, list[str], Modality, Path], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task with its settings; ``run`` takes run folder, data, modality and output folder and gives the summary."""

    seed: int
    run: RunTask


def recognition(protocol: Protocol, overrides: list[str]) -> Prepared:
    if protocol == "frozen":
        probe = apply_overrides(ProbeConfig(), overrides)
        return Prepared(probe.seed, partial(evaluate_recognition, config=probe))
    tuned = apply_overrides(FinetuneConfig(), overrides)
    return Prepared(tuned.seed, partial(evaluate_finetuned, config=tuned))


def low_shot(protocol: Protocol, overrides: list[str]) -> Prepared:
    if protocol == "frozen":
        probe = apply_overrides(LowShotConfig(), overrides)
        return Prepared(probe.seed, partial(evaluate_low_shot, config=probe))
    tuned = apply_overrides(LowShotFinetuneConfig(), overrides)
    return Prepared(tuned.seed, partial(evaluate_low_shot_finetuned, config=tuned))


def localization(protocol: Protocol, overrides: list[str]) -> Prepared:
    config = apply_overrides(LocalizationConfig(), overrides)
    return Prepared(config.seed, partial(evaluate_localization, config=config, protocol=protocol))


def retrieval(protocol: Protocol, overrides: list[str]) -> Prepared:
    config = apply_overrides(RetrievalConfig(), overrides)
    return Prepared(config.seed, partial(evaluate_retrieval, config=config, protocol=protocol))


def question_answering(protocol: Protocol, overrides: list[str]) -> Prepared:
    config = apply_overrides(QuestionAnsweringConfig(), overrides)
    return Prepared(config.seed, partial(evaluate_question_answering, config=config, protocol=protocol))


TASKS: dict[str, Callable[[Protocol, list[str]], Prepared]] = {
    "action-recognition": recognition,
    "low-shot": low_shot,
    "action-localization": localization,
    "text-video-retrieval": retrieval,
    "video-question-answering": question_answering,
}
