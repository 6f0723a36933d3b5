"""What a comparison came to: a row for every run and head, and mean and deviation over the seeds."""

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oskar.config import Config
from oskar.files import write_text_atomic
from oskar.tasks.recognition import HEADS
from oskar.train.record import write_json_atomic

COMPARISON, COMPARISON_CSV = "comparison.json", "comparison.csv"
_FORMAT, _VERSION = "oskar-comparison", 1
_COLUMNS = (
    *("recipe", "seed", "data", "modality", "head", "pretrained_top1", "random_top1", "gain_top1", "chance_top1"),
    *(
        "pretrained_top5",
        "random_top5",
        "n_evaluated",
        "n_expected",
        "steps",
        "samples_seen",
        "wall_seconds",
        "verdict",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """One frozen evaluation: accuracies in percent by ``<head>_top<k>``."""

    data: str
    modality: str
    metrics: Mapping[str, float]
    random_weights: Mapping[str, float]
    chance: float
    n_evaluated: int
    n_expected: int

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> "Evaluated":
        """From the ``summary.json`` of an evaluation."""
        return cls(
            data=", ".join(summary["data"]),
            modality=summary["modality"],
            metrics=summary["metrics"],
            random_weights=summary["controls"]["random_weights"],
            chance=summary["controls"]["chance"],
            n_evaluated=summary["n_evaluated"],
            n_expected=summary["n_expected"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One run of a comparison; ``reason`` says why it stopped, where it did."""

    recipe: str
    seed: int
    folder: str
    status: str
    reason: str
    steps: int
    samples_seen: int
    wall_seconds: float
    verdict: str
    n_clips: int
    n_left_out: int
    machine: str
    evaluations: tuple[Evaluated, ...]
    not_applicable: tuple[str, ...]

    @classmethod
    def stopped(cls, config: Config, folder: str, reason: str) -> "Outcome":
        return cls(
            recipe=config.recipe, seed=config.train.seed, folder=folder, status="stopped", reason=reason,
            steps=0, samples_seen=0, wall_seconds=0.0, verdict="stopped", n_clips=0, n_left_out=0, machine="",
            evaluations=(), not_applicable=(),
        )  # fmt: skip

    @classmethod
    def finished(
        cls,
        config: Config,
        folder: str,
        summary: Mapping[str, Any],
        environment: Mapping[str, Any],
        evaluations: tuple[Evaluated, ...],
        not_applicable: tuple[str, ...],
    ) -> "Outcome":
        return cls(
            recipe=config.recipe,
            seed=config.train.seed,
            folder=folder,
            status="finished",
            reason="",
            steps=summary["steps"],
            samples_seen=summary["samples_seen"],
            wall_seconds=summary["wall_seconds"],
            verdict=summary["health"]["verdict"],
            n_clips=summary["n_clips"],
            n_left_out=summary["n_left_out"],
            machine=machine_of(environment),
            evaluations=evaluations,
            not_applicable=not_applicable,
        )

    def rows(self) -> Iterator[dict[str, object]]:
        """A row of ``comparison.csv`` for every head."""
        for evaluated in self.evaluations:
            for head in HEADS:
                top1, top5 = f"{head}_top1", f"{head}_top5"
                pretrained, random = evaluated.metrics[top1], evaluated.random_weights[top1]
                yield dict(
                    zip(
                        _COLUMNS,
                        (
                            *(self.recipe, self.seed, evaluated.data, evaluated.modality, head),
                            *(pretrained, random, pretrained - random, evaluated.chance),
                            *(evaluated.metrics[top5], evaluated.random_weights[top5]),
                            *(evaluated.n_evaluated, evaluated.n_expected),
                            *(self.steps, self.samples_seen, self.wall_seconds, self.verdict),
                        ),
                        strict=True,
                    )
                )


def machine_of(environment: Mapping[str, Any]) -> str:
    """Processor, threads and versions in one line."""
    cpu, device, threads = (environment.get(key) or {} for key in ("cpu", "device", "threads"))
    name = device.get("name") or cpu.get("model") or device.get("type")
    precision = (environment.get("precision") or {}).get("dtype")
    parts = (f"{name}", f"{threads.get('within_operations')} threads", f"torch {environment.get('torch')}", precision)
    return ", ".join(str(part) for part in parts)


def write_outcomes(out: Path, outcomes: Sequence[Outcome], settings: Mapping[str, Any], n_left: int) -> dict[str, Any]:
    """Write ``comparison.json`` and ``comparison.csv``, after every run, and return the former.

    Raises:
        StoppedRunError: the disk is full, or the folder cannot be written.
    """
    rows = [row for outcome in outcomes for row in outcome.rows()]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(out / COMPARISON_CSV, text.getvalue())
    values: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "is_complete": n_left == 0,
        "n_runs_left": n_left,
        **settings,
        "machines": list(dict.fromkeys(outcome.machine for outcome in outcomes if outcome.machine)),
        "table": table_of(rows),
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    values = json.loads(json.dumps(values))  # tuples become the lists that they are in the file
    write_json_atomic(out / COMPARISON, values)
    return values


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation over the seeds, by data, modality, head and recipe."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("data", "modality", "head", "recipe")), []).append(row)
    return [
        {
            **dict(zip(("data", "modality", "head", "recipe"), key, strict=True)),
            "seeds": [row["seed"] for row in group],
            "pretrained_top1": spread_of([row["pretrained_top1"] for row in group]),
            "random_top1": spread_of([row["random_top1"] for row in group]),
            "gain_top1": spread_of([row["gain_top1"] for row in group]),
            "chance_top1": group[0]["chance_top1"],
        }
        for key, group in sorted(groups.items(), key=lambda item: (*item[0][:2], HEADS.index(item[0][2])))
    ]


def spread_of(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, and standard deviation with n - 1; None for a single value."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
