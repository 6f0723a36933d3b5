"""``oskar evaluate``."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from oskar.cli.arguments import Data, Overrides, one_of, seen_modality
from oskar.errors import InputError
from oskar.settings import apply_overrides


def evaluate(
    run: Annotated[Path, typer.Argument(help="a pretraining run's folder")],
    overrides: Overrides = None,
    task: Annotated[str, typer.Option(help="all, or one of them; a wrong one lists them")] = "action-recognition",
    data: Data = [],  # noqa: B006
    modality: Annotated[str, typer.Option(help="video or skeleton")] = "video",
    protocol: Annotated[str, typer.Option(help="frozen or finetune")] = "frozen",
    out: Annotated[Path | None, typer.Option(help="default: RUN/evaluations/...")] = None,
) -> None:
    """Evaluate a run's encoder on a task, frozen or fine-tuned, beside chance and random weights."""
    from oskar.tasks.evaluate import evaluate as run_task
    from oskar.tasks.everything import ALL, AllConfig, evaluate_all

    how, chosen = _protocol(protocol), seen_modality(modality)
    if task == ALL:
        one_of("--task all --protocol", how, ("frozen",))
        one_of("--task all --modality", chosen, ("video",))  # the default: it does both where both can be
        evaluate_all(run, data, apply_overrides(AllConfig(), overrides or []), out=out)
        return
    summary = run_task(run, task, data, modality=chosen, protocol=how, out=out, overrides=overrides or [])
    typer.echo(json.dumps(summary, indent=2))


def _protocol(name: str) -> Literal["frozen", "finetune"]:
    if name == "frozen":
        return "frozen"
    if name == "finetune":
        return "finetune"
    raise InputError(f"--protocol {name!r} is not known", fix="use frozen or finetune")
