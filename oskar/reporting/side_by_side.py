"""Several runs on one page: what differs in their settings, their curves over one another, their results."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oskar.comparison.outcome import COMPARISON
from oskar.errors import InputError
from oskar.files import write_text_atomic
from oskar.modalities import MODALITIES
from oskar.reporting.curves import Curve, compared_panels
from oskar.reporting.exhibit import Table
from oskar.reporting.facts import duration, machine, verdict
from oskar.reporting.figures import stroke_key, strokes_of
from oskar.reporting.page import REPORT, render, write_report
from oskar.reporting.results import NO_VALUE, compared_values, percent, read_json
from oskar.reporting.run_folder import RunFolder, read_run

SEVERAL = "comparison.html"
_UNSET = "not set"


def report(runs: Sequence[Path], data: Sequence[str] = (), out: Path | None = None) -> Path:
    """Write the page of a run (``RUN/report.html``) or of several (``comparison.html`` in the first) and return it.

    Raises:
        InputError: no run, one twice, a damaged file, or ``data`` for a page that draws no clips.
    """
    if not runs:
        raise InputError("no run to report", fix="name the folder of a pretraining run")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(
            f"--out {out} cannot be a file", fix="name a file, such as report.html, in a folder that exists"
        )
    if len(runs) == 1:
        return write_report(runs[0], data, out)
    if data:
        raise InputError("--data with several runs: their page draws no clips", fix="leave --data out")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError(f"{', '.join(map(str, runs))}: one run twice", fix="name every run once")
    folders = [read_run(run) for run in runs]
    names = _names(folders)
    return _write(runs[0] / SEVERAL if out is None else out, folders, names, names, None)


def write_compared(out: Path) -> Path:
    """Write ``OUT/report.html`` of a comparison: its table of means and deviations, then the runs side by side.

    Raises:
        InputError: ``out`` holds no comparison, or a damaged one.
    """
    compared = read_json(out / COMPARISON)
    if compared is None:
        raise InputError(f"{out} holds no comparison (no {COMPARISON})", fix="name the --out of `oskar compare`")
    entries = [entry for entry in compared["runs"] if (out / entry["folder"] / "config.json").is_file()]
    folders = [read_run(out / entry["folder"]) for entry in entries]
    return _write(out / REPORT, folders, _names(folders), [entry["recipe"] for entry in entries], compared)


def _write(
    path: Path,
    runs: Sequence[RunFolder],
    names: Sequence[str],
    labels: Sequence[str],
    compared: Mapping[str, Any] | None,
) -> Path:
    strokes = strokes_of(labels)
    curves = [Curve(label, run.records, run.config.train.batch_size) for label, run in zip(labels, runs, strict=True)]
    modalities = [name for name in MODALITIES if any(name in run.modalities for run in runs)]
    text = render(
        "comparison.html",
        {
            "names": names,
            "summary": None if compared is None else _summary(compared),
            "budget": None if compared is None else _budget(compared),
            "verdicts": _verdicts(runs, names),
            "settings": differing_settings(runs, names),
            "results": side_by_side(runs, names),
            "legend": [(stroke_key(stroke, f"key-{i}"), label) for i, (label, stroke) in enumerate(strokes.items())],
            "panels": compared_panels(curves, modalities, strokes),
            "objectives": len({(run.config.target, run.config.tokens.modalities) for run in runs}),
        },
    )
    write_text_atomic(path, text)
    return path


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Names of folders; with the folder above where two are alike."""
    names = [run.name for run in runs]
    parents = [run.path.resolve().parent.name for run in runs]
    return [f"{above}/{name}" if names.count(name) > 1 else name for above, name in zip(parents, names, strict=True)]


def differing_settings(runs: Sequence[RunFolder], names: Sequence[str]) -> Table:
    """The settings that are not the same in all runs, one a row."""
    flat = [_flat(dataclasses.asdict(run.config)) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = tuple(
        (key, *(values.get(key, _UNSET) for values in flat))
        for key in keys
        if len({values.get(key, _UNSET) for values in flat}) > 1
    )
    n_alike = sum(len({values.get(key, _UNSET) for values in flat}) == 1 for key in keys)
    return Table(f"Settings that differ; {n_alike} others are the same in all runs.", ("setting", *names), rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return found


def side_by_side(runs: Sequence[RunFolder], names: Sequence[str]) -> list[Table]:
    """A table for everything that was evaluated: metrics down, runs across, each beside its random weights."""
    values = [compared_values(run.path) for run in runs]
    keys = sorted({key for found in values for key in found}, key=lambda key: key[0])
    tables = []
    for what in dict.fromkeys(what for what, _ in keys):
        metrics = [metric for known, metric in dict.fromkeys(key for found in values for key in found) if known == what]
        missing = (NO_VALUE, NO_VALUE)
        rows = tuple(
            (metric, *(" / ".join(found.get((what, metric), missing)) for found in values)) for metric in metrics
        )
        tables.append(Table(f"{what}: run / random weights.", ("metric", *names), rows))
    return tables


def _verdicts(runs: Sequence[RunFolder], names: Sequence[str]) -> Table:
    rows = []
    for run, name in zip(runs, names, strict=True):
        judged = verdict(run.summary, run.last_step, run.config.train.steps)
        summary = run.summary or {}
        samples = summary.get("samples_seen")
        rows.append(
            (
                name,
                run.config.recipe,
                f"{judged.sign} {judged.word}",
                f"{summary.get('steps', run.last_step):,}",
                f"{samples:,}" if isinstance(samples, int) else NO_VALUE,
                duration(summary.get("wall_seconds")) or NO_VALUE,
                ", ".join(summary["data"]) if isinstance(summary.get("data"), list) else NO_VALUE,
                dict(machine(run.environment)).get("processor", NO_VALUE),
            )
        )
    head = ("run", "recipe", "verdict", "steps", "clips seen", "time", "data", "processor")
    return Table("What each run did and how it ended.", head, tuple(rows))


def _budget(compared: Mapping[str, Any]) -> list[str]:
    """What the runs had in common, in sentences."""
    budget = compared["budget"]
    spent = f"{budget['samples']:,} clips" if "samples" in budget else f"{budget['minutes']:g} minutes of training"
    names = [Path(place).name for place in compared["data"]]
    sentences = [f"Every run had {spent} of {', '.join(names)}.", f"Machine: {'; '.join(compared['machines'])}."]
    if "minutes" in budget:
        sentences.append(
            "Minutes were turned into steps by a short trial of each recipe; the times below are measured."
        )
    if not compared["is_complete"]:
        sentences.append(f"The comparison is not complete: {compared['n_runs_left']} runs are left.")
    entries = compared["runs"]
    sentences += [f"{e['folder']} stopped: {e['reason']}" for e in entries if e["status"] == "stopped"]
    reasons = {f"{e['recipe']} has no evaluation of {why}" for e in entries for why in e["not_applicable"]}
    return sentences + sorted(reasons)


def _summary(compared: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            f"{row['modality']} on {row['data']}, {row['head']}",
            row["recipe"],
            spread(row["pretrained_top1"]),
            spread(row["random_top1"]),
            spread(row["gain_top1"], sign="+"),
            percent(row["chance_top1"]),
            ", ".join(map(str, row["seeds"])),
        )
        for row in compared["table"]
    )
    head = ("frozen top-1 in percent", "recipe", "pretrained", "random weights", "gain", "chance", "seeds")
    caption = (
        "Mean ± standard deviation over the seeds. Random weights: the same head on the recipe before any training."
    )
    return Table(caption, head, rows)


def spread(value: Mapping[str, float | None], sign: str = "") -> str:
    """``12.3 ± 4.5``; the mean alone where one seed has no deviation."""
    mean, deviation = value["mean"], value["sd"]
    assert mean is not None
    return f"{mean:{sign}.1f}" if deviation is None else f"{mean:{sign}.1f} ± {deviation:.1f}"
