"""``oskar report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="a pretraining run's folder")]) -> None:
    """Write RUN/report.html: one page that opens without a server."""
    from oskar.reporting.page import write_report

    typer.echo(str(write_report(run)))
