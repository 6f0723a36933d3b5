"""The model card of a saved folder: data, protocol, results and licence, from what the run wrote down itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oskar.config import Config
from oskar.errors import InputError

FACTS_FILE = "training.json"
_NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """The records of a run; what it did not write is empty."""

    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    evaluations: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, folder: Path | None) -> "RunFacts":
        """Of a run folder, or of a saved one, which has them in one file.

        Raises:
            InputError: a record is not JSON.
        """
        if folder is None:
            return cls(summary={}, environment={}, evaluations=())
        if (folder / FACTS_FILE).is_file():
            kept = _object(folder / FACTS_FILE)
            evaluations = tuple(kept.get("evaluations", ()))
            return cls(
                summary=kept.get("summary", {}), environment=kept.get("environment", {}), evaluations=evaluations
            )
        found = sorted(folder.glob("evaluations/*/summary.json"))
        return cls(
            summary=_object(folder / "summary.json"),
            environment=_object(folder / "environment.json"),
            evaluations=tuple(_object(path) for path in found),
        )

    def to_json(self) -> str:
        """The records in one file, without the lists of single clips."""
        values = {
            "summary": _without_clips(self.summary),
            "environment": self.environment,
            "evaluations": [_without_clips(entry) for entry in self.evaluations],
        }
        return json.dumps(values, indent=2) + "\n"


def model_card(config: Config, facts: RunFacts, licence: str | None, *, sha256: str, n_parameters: int) -> str:
    """Markdown with the front matter that model hubs read."""
    licence_line = "other" if licence is None else licence
    front = ["---", "library_name: oskar", f"license: {json.dumps(licence_line)}", "tags:"]
    front += [f"- {tag}" for tag in ("self-supervised", "masked-prediction", *config.tokens.modalities)] + ["---"]
    sections = [
        "\n".join(front),
        f"# {config.recipe}\n\nEncoders of {_listed(config.tokens.modalities)}, trained by masked latent prediction.",
        _use(),
        _training(config, facts, sha256, n_parameters),
        _results(facts),
        _licence(licence, facts),
    ]
    return "\n\n".join(sections) + "\n"


def _use() -> str:
    return (
        '## Use\n\n```python\nimport oskar\n\nmodel = oskar.load("THIS FOLDER")\n'
        'vectors = model.embed("video.mp4").vectors\n```\n\n'
        "`preprocessing.json` says what is done to a clip before the encoder sees it."
    )


def _training(config: Config, facts: RunFacts, sha256: str, n_parameters: int) -> str:
    summary, tokens = facts.summary, config.tokens
    data = facts.environment.get("data") or {}
    health = summary.get("health") or {}
    rows = {
        "data": _listed(data.get("names") or summary.get("data") or ()),
        "SHA-256 of the data's list": data.get("sha256", _NOT_STATED),
        "clips": summary.get("n_clips", _NOT_STATED),
        "captions that counted as text": config.data.captions,
        "objective": f"{config.target.space}, {config.target.loss}",
        "clip": f"{tokens.n_frames} frames of {tokens.resolution} x {tokens.resolution}",
        "visible and target tokens": f"{config.masking.n_visible} and {config.masking.n_target}",
        "steps": summary.get("steps", _NOT_STATED),
        "clips seen": summary.get("samples_seen", _NOT_STATED),
        "seed": config.train.seed,
        "verdict on collapse": health.get("verdict", _NOT_STATED),
        "width, blocks, heads": f"{config.model.width}, {config.model.n_blocks}, {config.model.n_heads}",
        "parameters in the file": f"{n_parameters:,}",
        "SHA-256 of the encoders": sha256,
        "trained with": f"oskar {facts.environment.get('oskar') or '?'}, torch {facts.environment.get('torch') or '?'}",
    }
    return "## Training\n\n" + _table(("what", "value"), list(rows.items()))


def _results(facts: RunFacts) -> str:
    if not facts.evaluations:
        return "## Results\n\nNot evaluated."
    parts = ["## Results\n\nEach beside the same with random weights, and chance, where the evaluation has them."]
    for entry in facts.evaluations:
        controls = {str(name): _flat(values) for name, values in (entry.get("controls") or {}).items()}
        names = [name for name in ("random_weights", "chance") if name in controls]
        heading = f"### {entry.get('task')}, {entry.get('modality')}, {entry.get('protocol')}"
        counts = f"{entry.get('n_evaluated')} of {entry.get('n_expected')} items"
        where = f"{_listed(entry.get('data') or ())}, split {entry.get('split')}, {counts}, seed {entry.get('seed')}"
        body = [
            (metric, value, *(controls[name].get(metric, "") for name in names))
            for metric, value in _flat(entry.get("metrics") or {}).items()
        ]
        parts.append(f"{heading}\n\n{where}.\n\n" + _table(("metric", "value", *names), body))
    return "\n\n".join(parts)


def _licence(licence: str | None, facts: RunFacts) -> str:
    if licence is not None:
        return f"## Licence\n\n{licence}"
    data = (facts.environment.get("data") or {}).get("names") or ()
    return (
        "## Licence\n\nNot stated: whoever wrote this folder gave none. Weights may be bound by the terms of the data "
        f"they learned from ({_listed(data)}); see to them before passing the folder on."
    )


def _flat(values: object, prefix: str = "") -> dict[str, object]:
    """Nested values by dotted names."""
    if not isinstance(values, Mapping):
        return {prefix or "value": values}
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list | tuple) and names else _NOT_STATED


def _without_clips(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("bad_")}


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})", fix="remove it, or write it anew") from error
    return values if isinstance(values, dict) else {}
