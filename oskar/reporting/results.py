"""The tables of a run's evaluations: what was reached, and beside it every control that measured the same."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oskar.errors import InputError
from oskar.modalities import MODALITIES

NO_VALUE = "n/a"


@dataclass(frozen=True, slots=True)
class Row:
    """One head: accuracies in percent as text, ``NO_VALUE`` where the evaluation has none."""

    head: str
    pretrained_top1: str
    random_top1: str
    chance: str
    pretrained_top5: str
    random_top5: str


@dataclass(frozen=True, slots=True)
class Group:
    """One evaluation: what was evaluated on what, and its rows.

    Metrics that are no head's accuracy are in ``others``: name, value, and the value of each of ``controls``.
    """

    title: str
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    controls: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no file.

    Raises:
        InputError: the file holds no JSON object.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})", fix="remove it, and write it anew") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {type(values).__name__}, not an object", fix="remove it, and write it anew")
    return values


def evaluation_groups(run: Path) -> list[Group]:
    """A group for every ``RUN/evaluations/*/summary.json``, by task and data, video before skeleton."""
    found = [
        values for path in sorted(run.glob("evaluations/*/summary.json")) if (values := read_json(path)) is not None
    ]
    return [_group(values) for values in sorted(found, key=_order)]


def compared_values(run: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Every metric of every evaluation of a run with that of random weights, by (what was evaluated, metric)."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for path in sorted(run.glob("evaluations/*/summary.json")):
        values = read_json(path) or {}
        random = _mapping(_mapping(values, "controls"), "random_weights")
        what = f"{_title(values)}, {values.get('protocol', 'unknown protocol')}, split {values.get('split', 'unknown')}"
        for name, value in _mapping(values, "metrics").items():
            if isinstance(value, int | float):
                found[what, name] = (_plain(value), _plain(random.get(name, NO_VALUE)))
    return found


def unfinished_evaluations(run: Path) -> list[str]:
    """Names of evaluation folders without a summary."""
    folders = sorted(p for p in run.glob("evaluations/*") if p.is_dir())
    return [p.name for p in folders if not (p / "summary.json").is_file()]


def _order(values: Mapping[str, Any]) -> tuple[str, str, int]:
    modality = values.get("modality")
    place = next((i for i, name in enumerate(MODALITIES) if name == modality), len(MODALITIES))
    return str(values.get("task")), str(values.get("data")), place


def _group(values: Mapping[str, Any]) -> Group:
    metrics = _mapping(values, "metrics")
    controls = _mapping(values, "controls")
    random = _mapping(controls, "random_weights")
    of_heads = [match for key in metrics if (match := re.fullmatch(r"(\w+)_top[15]", key))]
    heads = list(dict.fromkeys(match[1] for match in of_heads))
    rows = tuple(
        Row(
            head=head,
            pretrained_top1=percent(metrics.get(f"{head}_top1")),
            random_top1=percent(random.get(f"{head}_top1")),
            chance=percent(controls.get("chance")),
            pretrained_top5=percent(metrics.get(f"{head}_top5")),
            random_top5=percent(random.get(f"{head}_top5")),
        )
        for head in heads
    )
    known = {match[0] for match in of_heads}
    names = [key for key, value in metrics.items() if key not in known and not isinstance(value, dict)]
    measured = {name: _mapping(controls, name) for name in controls}
    compared = {name: control for name, control in measured.items() if any(key in control for key in names)}
    others = tuple(
        (key, _plain(metrics[key]), *(_plain(control.get(key, NO_VALUE)) for control in compared.values()))
        for key in names
    )
    notes = tuple(_notes(values, has_accuracies=bool(rows)))
    return Group(_title(values), notes, rows, tuple(name.replace("_", " ") for name in compared), others)


def _title(values: Mapping[str, Any]) -> str:
    data = values.get("data", "unknown data")
    names = ", ".join(map(str, data)) if isinstance(data, list) else str(data)
    return f"{values.get('modality', 'unknown modality')}, {values.get('task', 'unknown task')} on {names}"


def _notes(values: Mapping[str, Any], *, has_accuracies: bool) -> list[str]:
    """Protocol, split, counts, and how far chance alone moves an accuracy."""
    notes = []
    if "protocol" in values:
        notes.append(f"{values['protocol']} encoder")
    if "split" in values:
        notes.append(f"split {values['split']}")
    if "n_classes" in values:
        notes.append(f"{values['n_classes']} classes")
    expected, evaluated = values.get("n_expected"), values.get("n_evaluated")
    if isinstance(expected, int) and isinstance(evaluated, int):
        missing = f", the other {expected - evaluated:,} count as wrong" if evaluated < expected else ""
        notes.append(f"{evaluated:,} of {expected:,} {values.get('counts_are_of', 'clips')} evaluated{missing}")
        if has_accuracies and expected > 0:
            # Half the width of the normal 95 % interval of a share of 1/2, the widest there is.
            notes.append(f"an accuracy is known to ± {98.0 / expected**0.5:.1f} points or better (95 %)")
    if "seed" in values:
        notes.append(f"seed {values['seed']}")
    return notes


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def percent(value: object) -> str:
    """One digit after the point."""
    return f"{value:.1f}" if isinstance(value, int | float) else NO_VALUE


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
