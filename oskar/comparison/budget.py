"""What every run of a comparison may spend, and how many steps of a recipe that is."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oskar.config import Config
from oskar.errors import InputError
from oskar.train.pretrain import pretrain

_FEW, _MANY = 5, 25  # steps of the two trials whose difference is the time of a step without the start of a run


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Clips seen or minutes of training, of every run alike: one of the two.

    Raises:
        InputError: both, neither, or not a positive number.
    """

    samples: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.samples is None) == (self.minutes is None):
            raise InputError(
                f"--budget-samples {self.samples} and --budget-minutes {self.minutes}", fix="give one of the two"
            )
        for name, value in (("samples", self.samples), ("minutes", self.minutes)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--budget-{name} {value} is not valid", fix="use a positive number")

    def to_json(self) -> dict[str, Any]:
        return {"samples": self.samples} if self.samples is not None else {"minutes": self.minutes}


def steps_of(budget: Budget, config: Config, data: Sequence[str], scratch: Path) -> int:
    """Steps of a recipe within the budget; minutes are turned into steps by two short trials in ``scratch``.

    Raises:
        InputError: the budget is below one step.
    """
    if budget.samples is not None:
        steps = budget.samples // config.train.batch_size
    else:
        assert budget.minutes is not None
        steps = int(60.0 * budget.minutes / seconds_per_step(config, data, scratch))
    if steps < 1:
        raise InputError(
            f"{config.recipe}: a step of {config.train.batch_size} clips is more than the budget", fix="give more"
        )
    return steps


def seconds_per_step(config: Config, data: Sequence[str], scratch: Path) -> float:
    """Seconds that a step takes here and now, waiting for data included, the start of a run left out."""
    seconds = []
    for n_steps in (_FEW, _MANY):
        folder = scratch / f"{n_steps}-steps"
        shutil.rmtree(folder, ignore_errors=True)
        summary = pretrain(replace(config, train=replace(config.train, steps=n_steps)), data, folder)
        seconds.append(float(summary["wall_seconds"]))
    shutil.rmtree(scratch, ignore_errors=True)
    of_more = (seconds[1] - seconds[0]) / (_MANY - _FEW)
    return of_more if of_more > 0 else seconds[1] / _MANY
