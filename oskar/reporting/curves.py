"""Panels of a run's curves, from the records of ``metrics.jsonl``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oskar.reporting.figures import MAX_POINTS, Series, Stroke, line_panel

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """A titled figure: ``note`` says how to read it, ``svg`` is None where the run has no such value."""

    title: str
    note: str
    svg: str | None
    last: str
    over: str = "steps"


@dataclass(frozen=True, slots=True)
class _Measure:
    """What a panel shows: the key of each line is ``prefix`` with the line's name."""

    title: str
    note: str
    prefix: str
    is_log: bool = False
    lowest: float | None = None


_LOSS = _Measure("Mean error per target token", "Over all targets, and over each modality's.", "loss")
_NORMS = _Measure(
    "Gradient norm", "Before clipping, fusion encoder and predictor apart. Logarithmic.", "grad_norm", is_log=True
)
_RATE = _Measure("Learning rate", "As scheduled.", "lr")
_HEALTH = (
    _Measure(
        "Response of targets",
        "How far targets move, as a share of their size, when clips exchange contents. "
        "At 0 they do not depend on contents; the verdict rests on this.",
        "response_target",
    ),
    _Measure("Response of predictions", "The same for what is predicted.", "response_prediction"),
    _Measure(
        "Spread of targets",
        "Standard deviation across clips at the same position. At 0 all clips are alike.",
        "spread_target",
    ),
    _Measure("Spread of predictions", "The same for what is predicted.", "spread_prediction"),
    _Measure(
        "Cosine of targets",
        "Mean cosine between two clips at the same position. At 1 all clips are alike.",
        "cosine_target",
    ),
    _Measure("Cosine of predictions", "The same for what is predicted.", "cosine_prediction"),
    _Measure(
        "Rank of targets",
        "Effective number of directions in which clips differ. Never below 1.",
        "rank_target",
    ),
    _Measure("Rank of predictions", "The same for what is predicted.", "rank_prediction"),
    _Measure(
        "Explained",
        "Share of the targets' variance that the predictions explain. 0 is no better than the batch's mean.",
        "explained",
        lowest=-1.0,
    ),
    _Measure(
        "Explained content",
        "The same around the mean of each position, so that knowing the position alone earns nothing.",
        "explained_content",
        lowest=-1.0,
    ),
)


def loss_panel(records: Sequence[Record], modalities: Sequence[str]) -> Panel:
    """The loss, in all and per modality."""
    return _panel(records, _LOSS, ("all", *modalities))


def optimisation_panels(records: Sequence[Record]) -> list[Panel]:
    """Learning rate and gradient norms."""
    return [_panel(records, _RATE, ("all",)), _panel(records, _NORMS, ("fusion", "predictor"))]


def health_panels(records: Sequence[Record], modalities: Sequence[str]) -> list[Panel]:
    """One panel per measure of ``oskar.train.health.measure``, with all modalities."""
    return [_panel(records, measure, modalities) for measure in _HEALTH]


@dataclass(frozen=True, slots=True)
class Curve:
    """The records of one run among several; runs of one ``label`` are drawn alike."""

    label: str
    records: Sequence[Record]
    clips_per_step: int


_COMPARED = (
    _Measure("Mean error per target token", "", "loss"),
    _Measure("Response of targets", "At 0 targets do not depend on contents.", "response_target"),
    _Measure("Rank of targets", "Effective number of directions in which clips differ.", "rank_target"),
    _Measure(
        "Explained content", "Share of what varies at a position that is explained.", "explained_content", lowest=-1.0
    ),
)


def compared_panels(curves: Sequence[Curve], modalities: Sequence[str], strokes: Mapping[str, Stroke]) -> list[Panel]:
    """Panels of several runs over clips seen, one for each measure and modality that any of the runs has."""
    panels = []
    for measure in _COMPARED:
        for modality in (("all",) if measure.prefix == "loss" else ()) + tuple(modalities):
            found = [(curve, _series(curve.records, measure, modality)) for curve in curves]
            series = [
                Series(curve.label, tuple(step * curve.clips_per_step for step in line.steps), line.values)
                for curve, line in found
                if line.values
            ]
            if not series:
                continue
            name = f"{measure.prefix}-{modality}"
            svg = line_panel(series, name, lowest=measure.lowest, strokes=strokes, over="clips seen", has_legend=False)
            last = ", ".join(f"{line.name} {line.values[-1]:.4g}" for line in series)
            title = measure.title if modality == "all" else f"{measure.title}: {modality}"
            panels.append(Panel(title, measure.note, svg, last, "clips seen"))
    return panels


def _panel(records: Sequence[Record], measure: _Measure, names: Sequence[str]) -> Panel:
    found = [_series(records, measure, name) for name in names]
    series = [line for line in found if line.values]
    notes = [measure.note]
    if any(len(line.values) > MAX_POINTS for line in series):
        notes.append("Points are means over neighbouring records.")
    if measure.lowest is not None and any(min(line.values) < measure.lowest for line in series):
        notes.append(f"The axis starts at {measure.lowest:g}; lines below it leave the panel.")
    absent = [line.name for line in found if not line.values]
    if series and absent:
        notes.append(f"No value for {', '.join(absent)}.")
    svg = line_panel(series, measure.prefix, is_log=measure.is_log, lowest=measure.lowest) if series else None
    last = ", ".join(
        f"{line.name} {line.values[-1]:.4g}" if len(names) > 1 else f"{line.values[-1]:.4g}" for line in series
    )
    return Panel(measure.title, " ".join(notes), svg, last)


def _series(records: Sequence[Record], measure: _Measure, name: str) -> Series:
    """The finite values under a key; what cannot stand on a logarithmic axis is left out."""
    key = measure.prefix if name == "all" else f"{measure.prefix}_{name}"
    points = [(record["step"], record[key]) for record in records if _is_number(record.get(key))]
    if measure.is_log:
        points = [point for point in points if point[1] > 0]
    return Series(name, tuple(float(step) for step, _ in points), tuple(float(value) for _, value in points))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
