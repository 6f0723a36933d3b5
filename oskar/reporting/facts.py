"""What ran: the verdict, the facts and the machine of a run, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oskar.config import Config

_NOTHING_FOUND = "Nothing was found against it: see the health curves below."
_SIGNS = {"healthy": "✓", "suspect": "!", "collapsed": "✕"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first thing the page says; ``sign`` repeats the word for the eye."""

    word: str
    sign: str
    by_modality: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]


def verdict(summary: Mapping[str, Any] | None, last_step: int, n_steps: int) -> Verdict:
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
    parts = [(name, _of_modality(v)) for name, v in by_modality.items()] if isinstance(by_modality, dict) else []
    reasons = tuple(map(str, health.get("reasons") or ())) or (_NOTHING_FOUND,)
    return Verdict(word, _SIGNS.get(word, "?"), tuple(parts), reasons)


def _of_modality(value: object) -> str:
    return str(value.get("verdict", "unknown")) if isinstance(value, dict) else str(value)


def facts(config: Config, summary: Mapping[str, Any] | None, last_step: int) -> list[tuple[str, str]]:
    """What ran, as far as it is known."""
    always = [("recipe", config.recipe), ("modalities", ", ".join(config.tokens.modalities))]
    if summary is None:
        return [*always, ("steps", f"{last_step:,} of {config.train.steps:,}"), ("seed", str(config.train.seed))]
    known = {
        "data": _joined(summary.get("data")),
        "clips": _clips(summary),
        "steps": _count(summary.get("steps"), suffix=f" of {config.train.steps:,}"),
        "samples seen": _count(summary.get("samples_seen")),
        "tokens seen": _count(summary.get("tokens_seen")),
        "time": duration(summary.get("wall_seconds")),
        "rate": _number(summary.get("samples_per_second"), "{:.1f} clips/s"),
        "waiting for data": _number(summary.get("data_wait_share"), "{:.0%} of the time"),
        "steps skipped": _count(summary.get("skipped_steps")),
        "unreadable clips": _bad(summary.get("bad_clips")),
        "seed": _count(summary.get("seed")),
    }
    return always + [(name, value) for name, value in known.items() if value is not None]


def _clips(summary: Mapping[str, Any]) -> str | None:
    count, left_out = _count(summary.get("n_clips")), summary.get("n_left_out")
    return count if count is None or not left_out else f"{count}, and {left_out:,} left out for lack of any modality"


def machine(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
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


def duration(seconds: object) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
