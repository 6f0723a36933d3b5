"""``oskar compare``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.cli.arguments import Data
from oskar.errors import InputError, StoppedRunError

Words = Annotated[list[str] | None, typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="probe.KEY sets the heads")]


def compare(
    out: Annotated[Path, typer.Option(help="the folder of the comparison; finished runs in it are kept")],
    words: Words = None,
    data: Data = [],  # noqa: B006
    budget_samples: Annotated[int | None, typer.Option(help="clips that every run sees")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="minutes that every run trains")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
) -> None:
    """Pretrain recipes within one budget on several seeds, evaluate them frozen, and write one page."""
    from oskar.comparison.compare import Budget
    from oskar.comparison.compare import compare as run
    from oskar.reporting.side_by_side import write_compared
    from oskar.settings import apply_overrides
    from oskar.tasks.recognition import ProbeConfig

    given = words or []
    of_probe = [word.removeprefix("probe.") for word in given if word.startswith("probe.")]
    result = run(
        [word for word in given if "=" not in word],
        data,
        Budget(samples=budget_samples, minutes=budget_minutes),
        _numbers(seeds),
        out,
        [word for word in given if "=" in word and not word.startswith("probe.")],
        apply_overrides(ProbeConfig(), of_probe) if of_probe else None,
    )
    typer.echo(str(write_compared(out)))
    stopped = [f"{run['folder']}: {run['reason']}" for run in result["runs"] if run["status"] == "stopped"]
    if stopped:
        raise StoppedRunError(f"{len(stopped)} runs stopped ({'; '.join(stopped)})", fix="see their reasons")


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds {seeds!r} is not valid", fix="write numbers with commas, such as 0,1,2") from error
