"""The command line: one file a verb, each of which parses and delegates."""

import os
import sys

import typer
from rich.console import Console

from oskar.cli.demo import demo
from oskar.cli.evaluate import evaluate
from oskar.cli.pretrain import pretrain
from oskar.cli.recipes import recipes
from oskar.cli.report import report
from oskar.cli.tokenize import tokenize
from oskar.errors import OskarError

app = typer.Typer(
    help="Pretrain one transformer on video, skeletons and text, and use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for verb in (
    demo,
    recipes,
    tokenize,
    pretrain,
    evaluate,
    report,
):
    app.command()(verb)


def main() -> None:
    """Run a command; errors a user can act on are one line and an exit code (2 input, 3 stopped, 4 interrupted)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after words were encoded
    try:
        app()
    except OskarError as error:
        Console(stderr=True).print(f"oskar: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
