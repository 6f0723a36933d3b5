"""``oskar pretrain``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.cli.arguments import ConfigFile, Data, RecipeAndSettings, configure
from oskar.errors import StoppedRunError


def pretrain(
    out: Annotated[Path, typer.Option(help="the run folder")],
    data: Data = [],  # noqa: B006
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint in --out")] = False,
    words: RecipeAndSettings = None,
) -> None:
    """Pretrain a recipe on data into a run folder."""
    from oskar.train.distributed import is_first_process
    from oskar.train.pretrain import pretrain as run

    summary = run(configure(words or [], config), data, out, resume=resume)
    if not is_first_process():
        return
    health = summary["health"]
    rate = f"{summary['samples_per_second']:.1f} clips/s"
    typer.echo(f"{summary['recipe']}: {summary['steps']} steps, {rate}, {health['verdict']}")
    for reason in health["reasons"]:
        typer.echo(f"  {reason}")
    typer.echo(f"run folder: {out}")
    if health["verdict"] == "collapsed":
        raise StoppedRunError(
            f"{out}: what the run learned has collapsed", fix="see report.html, and lower train.lr or raise the momenta"
        )
