"""``oskar serve``."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    database: Annotated[Path, typer.Argument(metavar="DB", help="a folder of oskar index")],
    videos: Annotated[Path, typer.Option(help="the folder of the indexed videos; no other file is ever shown")],
    run: Annotated[Path | None, typer.Option(help="the run that embedded the index; for search by text")] = None,
    head: Annotated[Path | None, typer.Option(help="the retrieval head that oskar embed was given")] = None,
    port: Annotated[int, typer.Option(help="of 127.0.0.1; 0 takes a free one")] = 8520,
) -> None:
    """Show an index as a page on this machine alone: search, thumbnails that play, a map, skeletons."""
    from oskar.searching.serve import serve as run_server

    run_server(database, videos, run, head=head, port=port, announce=typer.echo)
