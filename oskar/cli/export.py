"""``oskar export``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.errors import InputError


def export(
    run: Annotated[Path, typer.Argument(help="a pretraining run, a checkpoint, or a folder of save_pretrained")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    to: Annotated[str, typer.Option(help="onnx or torch")] = "onnx",
    head: Annotated[Path | None, typer.Option(help="an evaluation, whose saved head is exported too")] = None,
) -> None:
    """Write encoders and a head as graphs that run without this library, compared with the model they came from."""
    from oskar.sharing.export import export as run_export

    if to not in ("onnx", "torch"):
        raise InputError(f"--to {to!r} is not known", fix="use onnx or torch")
    for done in run_export(run, out, "onnx" if to == "onnx" else "torch", head):
        typer.echo(
            f"{out / done.file}: {', '.join(done.inputs)} -> {', '.join(done.outputs)}; {done.difference:.1e} off"
        )
