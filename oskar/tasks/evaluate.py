"""The tasks by name, each with its settings: what ``oskar evaluate --task`` runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.settings import apply_overrides
from oskar.tasks.finetuning import FinetuneConfig, evaluate_finetuned
from oskar.tasks.finetuning_recipes import LOCALIZATION_RECIPES, RECOGNITION_RECIPES
from oskar.tasks.localization import LocalizationConfig, evaluate_localization
from oskar.tasks.low_shot import LowShotConfig, LowShotFinetuneConfig, evaluate_low_shot, evaluate_low_shot_finetuned
from oskar.tasks.pose_decoding import PoseDecodingConfig, evaluate_pose_decoding
from oskar.tasks.question_answering import QuestionAnsweringConfig, evaluate_question_answering
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.tasks.retrieval import RetrievalConfig, evaluate_retrieval
from oskar.tasks.task import HeadConfig, Protocol

_RECIPE = "recipe="


@dataclass(frozen=True, slots=True)
class NamedTask:
    """The settings of a task, at their defaults, what evaluates a run with them, and other settings by name."""

    settings: HeadConfig
    evaluate: Callable[..., dict[str, Any]]
    recipes: Mapping[str, HeadConfig] = field(default_factory=dict)

    def configured(self, overrides: list[str]) -> "NamedTask":
        """The task with ``key=value`` applied to its settings, ``recipe=NAME`` first; InputError naming the key."""
        settings = self.settings
        named = [word.removeprefix(_RECIPE) for word in overrides if word.startswith(_RECIPE)]
        if named and self.recipes:
            if named[-1] not in self.recipes:
                raise InputError(f"{_RECIPE}{named[-1]} is not known", fix=f"use one of {', '.join(self.recipes)}")
            settings = self.recipes[named[-1]]
            overrides = [word for word in overrides if not word.startswith(_RECIPE)]
        return NamedTask(apply_overrides(settings, overrides), self.evaluate, self.recipes)

    def run(self, run: Path, data: list[str], modality: Modality, out: Path) -> dict[str, Any]:
        return self.evaluate(run, data, modality, out, config=self.settings)


def _by_protocol(
    settings: HeadConfig, evaluate: Callable[..., dict[str, Any]], recipes: Mapping[str, HeadConfig] | None = None
) -> dict[Protocol, NamedTask]:
    """A task that has one function for both protocols."""
    return {
        "frozen": NamedTask(settings, partial(evaluate, protocol="frozen")),
        "finetune": NamedTask(settings, partial(evaluate, protocol="finetune"), recipes or {}),
    }


TASKS: Mapping[str, Mapping[Protocol, NamedTask]] = {
    "action-recognition": {
        "frozen": NamedTask(ProbeConfig(), evaluate_recognition),
        "finetune": NamedTask(FinetuneConfig(), evaluate_finetuned, RECOGNITION_RECIPES),
    },
    "low-shot": {
        "frozen": NamedTask(LowShotConfig(), evaluate_low_shot),
        "finetune": NamedTask(LowShotFinetuneConfig(), evaluate_low_shot_finetuned),
    },
    "action-localization": _by_protocol(LocalizationConfig(), evaluate_localization, LOCALIZATION_RECIPES),
    "text-video-retrieval": _by_protocol(RetrievalConfig(), evaluate_retrieval),
    "video-question-answering": _by_protocol(QuestionAnsweringConfig(), evaluate_question_answering),
    "pose-decoding": {"frozen": NamedTask(PoseDecodingConfig(), evaluate_pose_decoding)},
}


def named_task(task: str, protocol: Protocol) -> NamedTask:
    """A task of the table; raises InputError where there is none, or not under the protocol."""
    if task not in TASKS:
        raise InputError(f"--task {task!r} is not known", fix=f"use {', '.join(TASKS)}")
    if protocol not in TASKS[task]:
        raise InputError(f"--task {task} --protocol {protocol}", fix=f"use --protocol {' or '.join(TASKS[task])}")
    return TASKS[task][protocol]


def evaluation_name(task: str, protocol: Protocol, modality: Modality, data: Sequence[str], seed: int) -> str:
    """The name of an evaluation's folder below ``RUN/evaluations``."""
    parts = [task, *([] if protocol == "frozen" else [protocol]), modality]
    return "-".join([*parts, *(Path(d).name.replace(":", "_") for d in data), f"seed{seed}"])


def evaluate(
    run: Path,
    task: str,
    data: Sequence[str],
    *,
    modality: Modality = "video",
    protocol: Protocol = "frozen",
    out: Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate a run's encoder on a task of the table; writes into ``out``, and returns its ``summary.json``.

    ``overrides`` are settings of the task as ``key=value``. ``out`` is below ``run / "evaluations"`` by default.

    Raises:
        InputError: naming what is wrong, its value and the fix.
    """
    chosen = named_task(task, protocol).configured(list(overrides))
    name = evaluation_name(task, protocol, modality, data, chosen.settings.seed)
    return chosen.run(run, list(data), modality, out or run / "evaluations" / name)
