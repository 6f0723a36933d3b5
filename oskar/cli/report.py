"""``oskar report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of pretraining runs")],
    data: Annotated[
        list[str] | None, typer.Option("--data", help="clips to draw; default: the data the run learned from")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="default: RUN/report.html; of several: comparison.html")] = None,
) -> None:
    """Write one page that opens without a server: a run with its pictures, or several runs side by side."""
    from oskar.reporting.side_by_side import report as write

    typer.echo(str(write(runs, data or (), out)))
