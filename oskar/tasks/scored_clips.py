"""From the scores of heads to ``predictions.csv`` and ``summary.json`` of an evaluation of recognition."""

import csv
import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from oskar.metrics.classification import accuracy_percent, chance_percent, is_top_k
from oskar.tasks.labelled import LabelledData, labels_of
from oskar.tasks.task import Evaluation, Protocol
from oskar.train.record import write_json_atomic

TOP_K = (1, 5)


@dataclass(frozen=True, slots=True)
class ScoredClips:
    """Scores ``[n, classes]`` of every head on the test clips that could be read, and the others: (id, reason)."""

    by_head: dict[str, Tensor]
    labels: Tensor
    clip_ids: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]

    def accuracies(self, n_expected: int) -> dict[str, float]:
        """Top-1 and top-5 in percent of ``n_expected`` clips, by ``<head>_top<k>``."""
        return {
            f"{head}_top{k}": accuracy_percent(is_top_k(scores, self.labels, k), n_expected)
            for head, scores in self.by_head.items()
            for k in TOP_K
        }


class RecognitionSettings(typing.Protocol):
    """What the settings of every kind of recognition have; they are dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int: ...
    @property
    def n_windows(self) -> int: ...
    @property
    def n_crops(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What a result was obtained under, beyond its data: for the summary."""

    task: str
    protocol: Protocol
    seed: int
    n_windows: int
    n_crops: int
    n_train: int
    bad_train_clips: Mapping[str, str]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, task: str, protocol: Protocol, config: RecognitionSettings, n_train: int, bad_train: Mapping[str, str]
    ) -> "Conditions":
        """The conditions that a task's settings state."""
        return cls(
            task=task,
            protocol=protocol,
            seed=config.seed,
            n_windows=config.n_windows,
            n_crops=config.n_crops,
            n_train=n_train,
            bad_train_clips=bad_train,
            settings=asdict(config),
        )


def write_results(
    out: Path,
    data: LabelledData,
    scored: Mapping[str, ScoredClips],
    values: Mapping[str, Mapping[str, Any]],
    conditions: Conditions,
) -> dict[str, Any]:
    """Write both files of an evaluation and return the summary.

    ``scored`` are the heads by the name that begins their columns; ``values`` the metrics of "pretrained" and
    "random" encoders.
    """
    expected = labels_of(data.test.reader)
    any_scored = next(iter(scored.values()))
    tokens = data.config.tokens
    evaluation = Evaluation(
        task=conditions.task,
        modality=data.modality,
        protocol=conditions.protocol,
        data=data.test.names,
        split=data.split,
        n_expected=len(expected) + len(data.test.missing),
        n_found=len(expected),
        n_evaluated=len(any_scored.labels),
        metrics=values["pretrained"],
        controls={
            "chance": chance_percent(torch.tensor(list(expected.values()))),
            "random_weights": values["random"],
        },
        recipe=data.transfer.config.recipe,
        seed=conditions.seed,
        checkpoint_sha256=data.transfer.sha256,
        data_sha256=data.test.sha256,
        bad_clips=dict(any_scored.bad),
        protocol_facts={
            "n_classes": len(data.classes),
            "classes": list(data.classes),
            "n_left_out": data.test.n_left_out,
            "missing_clips": list(data.test.missing),
            "missing_train_clips": list(data.train.missing),
            "n_train": conditions.n_train,
            "bad_train_clips": dict(conditions.bad_train_clips),
            "train_split": data.config.data.split,
            "train_data_sha256": data.train.sha256,
            "n_windows": conditions.n_windows,
            "n_crops": conditions.n_crops,
            "views": f"{tokens.n_frames}x{conditions.n_windows}x{conditions.n_crops}",
            "settings": dict(conditions.settings),
            **conditions.facts,
        },
    )
    _write_predictions(out / "predictions.csv", scored, expected, data.classes)
    summary: dict[str, Any] = json.loads(json.dumps(evaluation.to_json()))  # settings hold tuples, JSON has none
    write_json_atomic(out / "summary.json", summary)
    return summary


def _write_predictions(
    path: Path, scored: Mapping[str, ScoredClips], label_of: Mapping[str, int], classes: tuple[str, ...]
) -> None:
    """A row for each expected clip: its class, and of each head the best class and a JSON list of the best five."""
    best = {
        f"{name}_{head}": scores.argsort(dim=1, descending=True, stable=True)[:, : max(TOP_K)].tolist()
        for name, part in scored.items()
        for head, scores in part.by_head.items()
    }
    any_scored = next(iter(scored.values()))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "label", *best, *(f"{column}_top5" for column in best), "not_read"])
        for i, clip_id in enumerate(any_scored.clip_ids):
            named = [[classes[number] for number in column[i]] for column in best.values()]
            lists = [json.dumps(names, ensure_ascii=False) for names in named]
            writer.writerow([clip_id, classes[label_of[clip_id]], *(names[0] for names in named), *lists, ""])
        for clip_id, reason in any_scored.bad:
            writer.writerow([clip_id, classes[label_of[clip_id]], *[""] * (2 * len(best)), reason])
