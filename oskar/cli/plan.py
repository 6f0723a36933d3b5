"""``oskar plan``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.cli.arguments import ConfigFile, RecipeAndSettings, configure


def plan(
    words: RecipeAndSettings = None,
    config: ConfigFile = None,
    devices: Annotated[int, typer.Option(help="devices like this one that share the batch")] = 1,
    out: Annotated[Path | None, typer.Option(help="write the plan as JSON too")] = None,
) -> None:
    """Parameters, FLOPs, memory, time and disk of a run, before it starts; about half a minute."""
    from oskar.planning.page import as_text
    from oskar.planning.plan import plan as run

    typer.echo(as_text(run(configure(words or [], config), n_devices=devices, out=out)))
