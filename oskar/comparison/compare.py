"""``oskar compare``: every recipe on every seed, within one budget, then frozen heads beside random weights."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from oskar.comparison.budget import Budget, steps_of
from oskar.comparison.outcome import Evaluated, Outcome, write_outcomes
from oskar.config import Config
from oskar.data.open import open_split, open_training
from oskar.errors import InputError, InterruptedRunError, StoppedRunError
from oskar.modalities import Modality
from oskar.recipes import recipe
from oskar.tasks.labelled import labels_of, require_labelled
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.tasks.transfer import what_is_read
from oskar.train.pretrain import ENVIRONMENT_FILE, places_of, pretrain
from oskar.train.record import write_json_atomic

PLAN = "plan.json"
RUNS = "runs"
TASK = "action-recognition"
_FORMAT, _VERSION = "oskar-comparison-plan", 1
_SEEN: tuple[Modality, ...] = ("video", "skeleton")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A recipe with the settings of the comparison; ``evaluations`` and why others of its modalities have none."""

    config: Config
    evaluations: tuple[tuple[str, Modality], ...]
    not_applicable: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.config.recipe


def compare(
    recipes: Sequence[str],
    data: Sequence[str],
    budget: Budget,
    seeds: Sequence[int],
    out: Path,
    overrides: Sequence[str] = (),
    probe: ProbeConfig | None = None,
) -> dict[str, Any]:
    """Pretrain and evaluate recipes on seeds into ``out``; writes and returns ``comparison.json``.

    A run or an evaluation that is finished in ``out`` is not done again, one that was cut short goes on;
    recipes and seeds may be added to a comparison. All recipes have ``overrides`` applied (``key=value``), all
    heads learn as ``probe`` says, with the seed of their run. A run that has to stop is listed as such, with the
    reason, and the others go on.

    Raises:
        InputError: wrong recipe, setting, data or folder; nothing was trained yet.
        InterruptedRunError: after a signal, with everything saved.
    """
    probe = probe or ProbeConfig()
    if not recipes or not seeds:
        raise InputError("nothing to compare", fix="name recipes, and seeds with --seeds")
    for name, values in (("recipe", recipes), ("seed", seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"{name}s {', '.join(map(str, values))}: one twice", fix=f"name every {name} once")
    contestants = [_contestant(recipe(name).with_overrides(list(overrides)), data, probe) for name in recipes]
    settings = {
        "data": places_of(data),
        "budget": budget.to_json(),
        "overrides": list(overrides),
        "probe": asdict(probe),
    }
    plan = _Plan.open(out, settings)
    steps = {c.name: plan.steps(c.config, budget, data) for c in contestants}
    outcomes: list[Outcome] = []
    for seed in seeds:
        for contestant in contestants:
            train = replace(contestant.config.train, seed=seed, steps=steps[contestant.name])
            seeded = replace(contestant, config=replace(contestant.config, train=train))
            try:
                outcomes.append(_run(seeded, data, out, replace(probe, seed=seed)))
            except InterruptedRunError as error:
                raise InterruptedRunError(
                    f"the comparison in {out} was interrupted ({error})", fix="give the same command again to go on"
                ) from error
            n_left = len(recipes) * len(seeds) - len(outcomes)
            result = write_outcomes(out, outcomes, settings, n_left)
    return result


def _contestant(config: Config, data: Sequence[str], probe: ProbeConfig) -> Contestant:
    """Find out before anything trains what a recipe can be evaluated on.

    Raises:
        InputError: it cannot train on the data, or there is nothing to evaluate it on.
    """
    open_training(data, replace(config, data=replace(config.data, captions="none", tokenizer=None)))
    possible, reasons = [], []
    for name in data:
        for modality in _SEEN:
            if modality not in config.tokens.modalities:
                continue
            try:
                _check_labelled(config, name, modality, probe.split)
                possible.append((name, modality))
            except InputError as error:
                reasons.append(f"{modality} on {name}: {error}")
    if not possible:
        listed = "; ".join(reasons) or "it has neither video nor skeletons"
        raise InputError(f"{config.recipe}: nothing to evaluate it on ({listed})", fix="give labelled data with splits")
    return Contestant(config=config, evaluations=tuple(possible), not_applicable=tuple(reasons))


def _check_labelled(config: Config, name: str, modality: Modality, test: str) -> None:
    read = what_is_read(config, modality)
    for split in (config.data.split, test):
        opened = open_split([name], read, None, split, modality)
        require_labelled(len(labels_of(opened.reader)), split, opened.names)


@dataclass(frozen=True, slots=True)
class _Plan:
    """``plan.json``: what all runs of a folder share, and the steps of each recipe once they are known."""

    path: Path
    settings: Mapping[str, Any]
    known_steps: dict[str, int]

    @classmethod
    def open(cls, out: Path, settings: Mapping[str, Any]) -> "_Plan":
        """Make the folder, or see that it holds the same comparison; raises InputError otherwise."""
        path = out / PLAN
        if not path.exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise InputError(f"--out {out} holds something else (no {PLAN})", fix="name a new or an empty folder")
            out.mkdir(parents=True, exist_ok=True)
            plan = cls(path, settings, {})
            plan._write()
            return plan
        try:
            stored = json.loads(path.read_bytes())
            known = {str(name): int(steps) for name, steps in stored["steps"].items()}
            before = {key: stored[key] for key in settings}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({error!r})", fix="name another --out") from error
        for key, value in settings.items():
            if before[key] != value:
                raise InputError(
                    f"--out {out} holds a comparison with {key} = {json.dumps(before[key])}, not {json.dumps(value)}",
                    fix="ask for the same, or name another --out",
                )
        return cls(path, settings, known)

    def steps(self, config: Config, budget: Budget, data: Sequence[str]) -> int:
        """Steps of a recipe; found once, so that all its seeds and every resumption have the same."""
        if config.recipe not in self.known_steps:
            scratch = self.path.parent / "calibration" / config.recipe
            self.known_steps[config.recipe] = steps_of(budget, config, data, scratch)
            shutil.rmtree(scratch.parent, ignore_errors=True)
            self._write()
        return self.known_steps[config.recipe]

    def _write(self) -> None:
        write_json_atomic(
            self.path, {"format": _FORMAT, "version": _VERSION, **self.settings, "steps": self.known_steps}
        )


def _run(contestant: Contestant, data: Sequence[str], out: Path, probe: ProbeConfig) -> Outcome:
    folder = out / RUNS / f"{contestant.name}-seed{contestant.config.train.seed}"
    try:
        summary = _pretrained(contestant.config, data, folder)
    except StoppedRunError as error:
        return Outcome.stopped(contestant.config, folder.relative_to(out).as_posix(), str(error))
    evaluated = tuple(_evaluations(contestant, folder, probe))
    environment = json.loads((folder / ENVIRONMENT_FILE).read_bytes())
    return Outcome.finished(
        contestant.config,
        folder.relative_to(out).as_posix(),
        summary,
        environment,
        evaluated,
        contestant.not_applicable,
    )


def _pretrained(config: Config, data: Sequence[str], folder: Path) -> dict[str, Any]:
    """The summary of a run: read if it has ended, after going on with it otherwise."""
    has_config = (folder / "config.json").is_file()
    if has_config and (folder / "summary.json").is_file():
        stored = Config.load(folder / "config.json")
        if replace(stored, data=config.data) != replace(config, data=config.data):
            raise InputError(f"{folder} holds a run with other settings", fix="name another --out")
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
        return summary
    if folder.exists() and not has_config:
        shutil.rmtree(folder)  # killed before it began
    return pretrain(config, data, folder, resume=has_config)


def _evaluations(contestant: Contestant, folder: Path, probe: ProbeConfig) -> Iterator[Evaluated]:
    for name, modality in contestant.evaluations:
        place = folder / "evaluations" / f"{TASK}-{modality}-{Path(name).name.replace(':', '_')}-seed{probe.seed}"
        if not (place / "summary.json").is_file():
            shutil.rmtree(place, ignore_errors=True)  # cut short
            evaluate_recognition(folder, [name], modality, place, probe)
        yield Evaluated.of(json.loads((place / "summary.json").read_bytes()))


__all__ = ["Budget", "Contestant", "compare"]
