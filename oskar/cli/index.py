"""``oskar index``."""

from pathlib import Path
from typing import Annotated

import typer


def index(
    files: Annotated[list[Path], typer.Argument(help="files of oskar embed: .safetensors or .parquet")],
    out: Annotated[Path, typer.Option(help="the folder of the index")],
    replace: Annotated[bool, typer.Option("--replace", help="write over an index that is there")] = False,
    approximate_above: Annotated[
        int, typer.Option(help="rows above which search looks into near lists only")
    ] = 250_000,
    recall: Annotated[float, typer.Option(help="share of the true ten nearest that lists must find")] = 0.95,
) -> None:
    """Put embeddings and what is known of their clips into an index that can be searched."""
    from oskar.searching.indexing import IndexConfig
    from oskar.searching.indexing import index as run

    card = run(files, out, IndexConfig(approximate_above=approximate_above, recall=recall), replace=replace)
    typer.echo(f"{out}: {card.n_rows} rows")
    for space in card.spaces:
        typer.echo(f"  {space.name}: {space.n_rows} vectors of {space.width} numbers, {space.how}")
