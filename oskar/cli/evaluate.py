"""``oskar evaluate``."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from oskar.cli.arguments import Data, Overrides, seen_modality
from oskar.errors import InputError


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
    from oskar.tasks.evaluate import named_task

    how, chosen = _protocol(protocol), seen_modality(modality)
    chosen_task = named_task(task, how).configured(overrides or [])
    parts = [task, *([] if how == "frozen" else [how]), chosen]
    name = "-".join([*parts, *(Path(d).name.replace(":", "_") for d in data), f"seed{chosen_task.settings.seed}"])
    typer.echo(json.dumps(chosen_task.run(run, data, chosen, out or run / "evaluations" / name), indent=2))


def _protocol(name: str) -> Literal["frozen", "finetune"]:
    if name == "frozen":
        return "frozen"
    if name == "finetune":
        return "finetune"
    raise InputError(f"--protocol {name!r} is not known", fix="use frozen or finetune")
