"""``oskar demo``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.cli.arguments import Overrides, with_overrides
from oskar.recipes import recipe


def demo(
    out: Annotated[Path, typer.Option(help="the run folder")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Synthetic people: pretrain, probe against random weights, and write report.html; about five minutes."""
    from oskar.demonstration import demo as run

    run(out, with_overrides(recipe("oskar-demo"), overrides or []))
