"""The command line: one file a verb, each of which parses and delegates."""

import os
import sys

import typer
from rich.console import Console

from oskar.cli.check import check
from oskar.cli.compare import compare
from oskar.cli.demo import demo
from oskar.cli.embed import embed
from oskar.cli.evaluate import evaluate
from oskar.cli.export import export
from oskar.cli.index import index
from oskar.cli.plan import plan
from oskar.cli.prepare import prepare
from oskar.cli.pretrain import pretrain
from oskar.cli.recipes import recipes
from oskar.cli.report import report
from oskar.cli.search import search
from oskar.cli.serve import serve
from oskar.cli.tokenize import tokenize
from oskar.errors import InputError, OskarError

app = typer.Typer(
    help="Pretrain one transformer on video, skeletons and text, and use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def refuse_many_processes(context: typer.Context) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and context.invoked_subcommand != "pretrain":
        raise InputError(
            f"oskar {context.invoked_subcommand} runs in one process", fix="leave out torchrun; pretrain alone takes it"
        )


for verb in (
    demo,
    check,
    recipes,
    prepare,
    plan,
    tokenize,
    pretrain,
    evaluate,
    embed,
    export,
    index,
    search,
    serve,
    compare,
    report,
):
    app.command()(verb)


def main() -> None:
    """Run a command; errors a user can act on are one line and an exit code (2 input, 3 stopped, 4 interrupted)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after words were encoded
    try:
        app()
    except OskarError as error:
        if not error.is_silent:
            Console(stderr=True).print(
                f"oskar: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True
            )
        sys.exit(error.exit_code)
