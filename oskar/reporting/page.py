"""A run folder as one static page: verdict first, then what it ran, results, curves and a drawn clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from oskar.config import Config
from oskar.errors import InputError
from oskar.files import write_text_atomic
from oskar.modalities import MODALITIES
from oskar.reporting.curves import health_panels, loss_panel, optimisation_panels
from oskar.reporting.drawn_clip import draw_clip
from oskar.reporting.results import evaluation_groups, read_json, unfinished_evaluations
from oskar.tokens.words import Words, load_words
from oskar.train.record import METRICS, read_metrics

REPORT = "report.html"
_WORDS_FILE = "words.json"
_NOTHING_FOUND = "Nothing was found against it: see the health curves below."
_SIGNS = {"healthy": "✓", "suspect": "!", "collapsed": "✕"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first thing the page says; ``sign`` repeats the word for the eye."""

    word: str
    sign: str
    by_modality: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]


def write_report(run: Path) -> Path:
    """Write ``RUN/report.html`` from what the run folder holds; the data are not needed.

    The page is whole in itself: no scripts, nothing fetched. A run without a summary (interrupted,
    or still going) or without evaluations gets a page that says so.

    Raises:
        InputError: no run folder, or one of its files is damaged.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"{run} holds no run (no config.json)", fix="name the folder that `oskar pretrain` wrote")
    config = Config.load(run / "config.json")
    summary = read_json(run / "summary.json")
    records = read_metrics(run) if (run / METRICS).is_file() else []
    records = [record for record in records if record.get("split") == "train"]
    last_step = max((record["step"] for record in records), default=0)
    modalities = [name for name in MODALITIES if name in config.tokens.modalities]
    text = _template().render(
        run_name=run.resolve().name,
        recipe=config.recipe,
        label="OSKAR" if config.recipe.startswith("oskar") else config.recipe,
        verdict=_verdict(summary, last_step, config.train.steps),
        is_finished=summary is not None,
        facts=_facts(config, summary, last_step),
        machine=_machine(read_json(run / "environment.json")),
        evaluations=evaluation_groups(run),
        unfinished=unfinished_evaluations(run),
        has_records=bool(records),
        loss=loss_panel(records, modalities),
        health=health_panels(records, modalities),
        optimisation=optimisation_panels(records),
        clip=draw_clip(config, _words(run, config)),
        masking=config.masking,
        seed=config.train.seed,
        tubelet_frames=config.tokens.tubelet_frames,
        modalities=modalities,
    )
    path = run / REPORT
    write_text_atomic(path, text)
    return path


def _template() -> Any:
    source = resources.files("oskar.reporting").joinpath("page.html").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _words(run: Path, config: Config) -> Words | None:
    for path in (run / _WORDS_FILE, run / "encoder" / _WORDS_FILE):
        if path.is_file():
            return load_words(path, vocabulary_size=config.tokens.vocabulary_size)
    return None


def _verdict(summary: Mapping[str, Any] | None, last_step: int, n_steps: int) -> Verdict:
    if summary is None:
        reason = (
            f"There is no summary.json: the run was interrupted, or is still going. "
            f"Its last record is of step {last_step:,} of {n_steps:,}. --resume goes on with it."
        )
        return Verdict("not finished", "…", (), (reason,))
    health = summary.get("health")
    if not isinstance(health, dict) or not isinstance(health.get("verdict"), str):
        return Verdict("unknown", "?", (), ("summary.json holds no verdict.",))
    word, by_modality = health["verdict"], health.get("by_modality")
    parts = [(name, _modality_verdict(v)) for name, v in by_modality.items()] if isinstance(by_modality, dict) else []
    reasons = tuple(map(str, health.get("reasons") or ())) or (_NOTHING_FOUND,)
    return Verdict(word, _SIGNS.get(word, "?"), tuple(parts), reasons)


def _modality_verdict(value: object) -> str:
    return str(value.get("verdict", "unknown")) if isinstance(value, dict) else str(value)


def _facts(config: Config, summary: Mapping[str, Any] | None, last_step: int) -> list[tuple[str, str]]:
    """What ran, as far as it is known."""
    facts = [("recipe", config.recipe), ("modalities", ", ".join(config.tokens.modalities))]
    if summary is None:
        return [*facts, ("steps", f"{last_step:,} of {config.train.steps:,}"), ("seed", str(config.train.seed))]
    known = {
        "data": _joined(summary.get("data")),
        "clips": _clips(summary),
        "steps": _count(summary.get("steps"), suffix=f" of {config.train.steps:,}"),
        "samples seen": _count(summary.get("samples_seen")),
        "tokens seen": _count(summary.get("tokens_seen")),
        "time": _duration(summary.get("wall_seconds")),
        "rate": _number(summary.get("samples_per_second"), "{:.1f} clips/s"),
        "waiting for data": _number(summary.get("data_wait_share"), "{:.0%} of the time"),
        "steps skipped": _count(summary.get("skipped_steps")),
        "unreadable clips": _bad(summary.get("bad_clips")),
        "seed": _count(summary.get("seed")),
    }
    return facts + [(name, value) for name, value in known.items() if value is not None]


def _clips(summary: Mapping[str, Any]) -> str | None:
    count, left_out = _count(summary.get("n_clips")), summary.get("n_left_out")
    return count if count is None or not left_out else f"{count}, and {left_out:,} left out for lack of any modality"


def _machine(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Processor, threads, precision and versions from ``environment.json``."""
    if environment is None:
        return []
    device, cpu = environment.get("device") or {}, environment.get("cpu") or {}
    threads, precision = environment.get("threads") or {}, environment.get("precision") or {}
    name = device.get("name") or device.get("type")
    known = {
        "device": f"{device['count']} x {name}" if device.get("count") else name,
        "processor": f"{cpu.get('model')}, {cpu.get('available')} of {cpu.get('count')} cores" if cpu else None,
        "threads": _count(threads.get("within_operations")),
        "precision": f"{precision.get('dtype')} ({precision.get('reason')})" if precision else None,
        "system": environment.get("platform"),
        "versions": ", ".join(
            f"{package} {environment[package]}"
            for package in ("oskar", "torch", "numpy", "python")
            if environment.get(package)
        ),
    }
    return [(key, str(value)) for key, value in known.items() if value]


def _joined(value: object) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else None


def _count(value: object, suffix: str = "") -> str | None:
    return f"{value:,}{suffix}" if isinstance(value, int) else None


def _number(value: object, form: str) -> str | None:
    return form.format(value) if isinstance(value, int | float) else None


def _bad(value: object) -> str | None:
    if not isinstance(value, Mapping) or not value:
        return "0" if isinstance(value, Mapping) else None
    first = "; ".join(f"{clip}: {reason}" for clip, reason in list(value.items())[:3])
    return f"{len(value):,} ({first}{' …' if len(value) > 3 else ''})"


def _duration(seconds: object) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
