"""The command line: verbs that parse and delegate."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from oskar.config import Config
from oskar.errors import InputError, OskarError, StoppedRunError
from oskar.modalities import MODALITIES, Modality
from oskar.recipes import RECIPES, recipe
from oskar.settings import apply_overrides

app = typer.Typer(
    help="Pretrain one transformer on video, skeletons and text, and use it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Data = Annotated[
    list[str], typer.Option("--data", help="a folder, a manifest, or people[:CLIPS[:SEED]]; repeat to pool")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="settings as key=value, such as train.steps=1000")]


@app.command()
def recipes() -> None:
    """List the recipes with one line each."""
    table = Table("recipe", "what it is", box=None)
    for name, make in RECIPES.items():
        table.add_row(name, (make.__doc__ or "").strip().splitlines()[0])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="the run folder")],
    data: Data = [],  # noqa: B006
    config: Annotated[Path | None, typer.Option(help="a config.json to start from, instead of a recipe")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint in --out")] = False,
    words: Annotated[list[str] | None, typer.Argument(metavar="RECIPE [KEY=VALUE]...")] = None,
) -> None:
    """Pretrain a recipe on data into a run folder."""
    from oskar.train.pretrain import pretrain as run

    summary = run(_configure(words or [], config), data, out, resume=resume)
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


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="a pretraining run's folder")],
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="a wrong one lists all")] = "action-recognition",
    data: Data = [],  # noqa: B006
    modality: Annotated[str, typer.Option(help="video or skeleton")] = "video",
    protocol: Annotated[str, typer.Option(help="frozen or finetune")] = "frozen",
    out: Annotated[Path | None, typer.Option(help="default: RUN/evaluations/...")] = None,
) -> None:
    """Evaluate a run's encoder on a task, frozen or fine-tuned, beside chance and random weights."""
    from oskar.tasks.evaluate import TASKS

    _one_of("--task", task, tuple(TASKS))
    how, chosen = _protocol(protocol), _modality(modality)
    chosen_task = TASKS[task][how].configured(overrides or [])
    parts = [task, *([] if how == "frozen" else [how]), chosen]
    name = "-".join([*parts, *(Path(d).name.replace(":", "_") for d in data), f"seed{chosen_task.settings.seed}"])
    typer.echo(json.dumps(chosen_task.run(run, data, chosen, out or run / "evaluations" / name), indent=2))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the run folder")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Synthetic people: pretrain, probe against random weights, and write report.html; about five minutes."""
    from oskar.demo import demo as run

    run(out, _with_overrides(recipe("oskar-demo"), overrides or []))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a pretraining run's folder")]) -> None:
    """Write RUN/report.html: one page that opens without a server."""
    from oskar.report.page import write_report

    typer.echo(str(write_report(run)))


def _configure(words: list[str], config: Path | None) -> Config:
    """The recipe or file, with overrides; the first word is the recipe unless a file is given."""
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if config is not None:
        if names:
            raise InputError(f"--config {config} and recipe {names[0]!r}", fix="give one of the two")
        return _with_overrides(Config.load(config), overrides)
    if len(names) != 1:
        raise InputError(
            f"{len(names)} recipes: {' '.join(names)}", fix="name one recipe; settings are written key=value"
        )
    return _with_overrides(recipe(names[0]), overrides)


def _with_overrides(config: Config, overrides: list[str]) -> Config:
    return apply_overrides(config, overrides) if overrides else config


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{option} {value!r} is not known", fix=f"use {' or '.join(known)}")


def _protocol(name: str) -> Literal["frozen", "finetune"]:
    if name == "frozen":
        return "frozen"
    if name == "finetune":
        return "finetune"
    raise InputError(f"--protocol {name!r} is not known", fix="use frozen or finetune")


def _modality(name: str) -> Modality:
    for modality in MODALITIES:
        if name == modality and modality != "text":
            return modality
    raise InputError(f"--modality {name!r} is not known", fix="use video or skeleton")


def main() -> None:
    """Run a command; errors a user can act on are one line and an exit code (2 input, 3 stopped, 4 interrupted)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after words were encoded
    try:
        app()
    except OskarError as error:
        Console(stderr=True).print(f"oskar: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
