"""``oskar prepare``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from oskar.cli.arguments import Overrides
from oskar.errors import InputError
from oskar.settings import apply_overrides

_MOST_SHOWN = 10


def prepare(
    videos: Annotated[Path | None, typer.Argument(help="a folder of videos; one with an index.csv keeps it")] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="the folder to make, to be given as --data")] = None,
    poses: Annotated[Path | None, typer.Option(help="a folder of pose files, or a PYSKL .pkl")] = None,
    captions: Annotated[Path | None, typer.Option(help="a folder of caption files")] = None,
    pose_model: Annotated[Path | None, typer.Option(help="an .onnx file, for videos without pose files")] = None,
    pose_convention: Annotated[str | None, typer.Option(help="yolo-pose or rtmpose")] = None,
    person_model: Annotated[Path | None, typer.Option(help="rtmpose: a YOLO .onnx that finds people")] = None,
    caption_model: Annotated[Path | None, typer.Option(help="a transformers folder, for videos without text")] = None,
    copy_videos: Annotated[bool, typer.Option("--copy-videos", help="copy, do not link, the videos")] = False,
    workers: Annotated[int | None, typer.Option(help="processes; default: one a core")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for many machines")] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="go on, or take in what changed")] = False,
    backends: Annotated[bool, typer.Option("--backends", help="list where poses and captions can come from")] = False,
) -> None:
    """Make a folder to train on from videos: poses, people and captions from files beside them or local models."""
    from oskar.preparation.prepare import Backends
    from oskar.preparation.prepare import prepare as run
    from oskar.preparation.settings import PrepareConfig

    if backends:
        return _list_backends()
    if videos is None or out is None:
        raise InputError("oskar prepare needs a folder of videos and --out", fix="oskar prepare VIDEOS --out DATA")
    chosen = Backends(
        poses=poses,
        captions=captions,
        pose_model=pose_model,
        pose_convention=pose_convention,
        person_model=person_model,
        caption_model=caption_model,
    )
    config = apply_overrides(PrepareConfig(), overrides or [])
    made = run(videos, out, chosen, config, copy_videos=copy_videos, workers=workers, engine=engine, resume=resume)
    typer.echo(f"{made['n_videos']} videos: {made['n_clips']} clips, {made['n_with_poses']} with poses, ", nl=False)
    typer.echo(f"{made['n_with_caption']} with captions; {made['n_problems']} problems, listed in {out}/prepare.json")
    for problem in made["problems"][:_MOST_SHOWN]:
        typer.echo(f"  {problem['part']}: {problem['reason']}")
    typer.echo(f"next: oskar pretrain oskar-tiny --data {out} --out RUN")
    return None


def _list_backends() -> None:
    from oskar.preparation.backends import BACKENDS

    table = Table("backend", "gives", "reads", "needs", "licence", box=None, show_lines=True)
    for backend in BACKENDS:
        table.add_row(backend.name, backend.gives, backend.reads, backend.needs, backend.licence)
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)
