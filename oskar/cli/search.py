"""``oskar search``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.cli.arguments import equal_filters


def search(
    database: Annotated[Path, typer.Argument(metavar="DB", help="a folder of oskar index")],
    run: Annotated[
        Path | None, typer.Option(help="the run that embedded the index; for --text, --clip, --skeleton")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="the retrieval head that oskar embed was given")] = None,
    text: Annotated[list[str], typer.Option(help="a sentence; repeat to combine")] = [],  # noqa: B006
    clip: Annotated[list[Path], typer.Option(help="a video; repeat to combine")] = [],  # noqa: B006
    skeleton: Annotated[list[Path], typer.Option(help="joints (.npz); repeat to combine")] = [],  # noqa: B006
    like: Annotated[list[str], typer.Option(help="the clip_id of a clip in the index")] = [],  # noqa: B006
    captions: Annotated[
        str | None, typer.Option(help="words to look up in captions; no encoder has a part in it")
    ] = None,
    text_weight: Annotated[float, typer.Option(help="how much each --text counts")] = 1.0,
    clip_weight: Annotated[float, typer.Option(help="how much each --clip counts")] = 1.0,
    skeleton_weight: Annotated[float, typer.Option(help="how much each --skeleton counts")] = 1.0,
    where: Annotated[str | None, typer.Option(help="a condition in SQL, such as \"label = 'kick'\"")] = None,
    top: Annotated[int, typer.Option(help="how many rows")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="compare with every row, whatever the size")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one object a line")] = False,
    filters: Annotated[list[str] | None, typer.Argument(metavar="[COLUMN=VALUE]...")] = None,
) -> None:
    """Search an index by text, clip, skeleton or their combination, among the clips that pass the filters."""
    from oskar.searching.clips import Filters
    from oskar.searching.queries import Question
    from oskar.searching.search import search as run_search
    from oskar.searching.shown import json_lines, table_lines

    question = Question(
        texts=tuple(text),
        clips=tuple(clip),
        skeletons=tuple(skeleton),
        text_weight=text_weight,
        clip_weight=clip_weight,
        skeleton_weight=skeleton_weight,
    )
    found = run_search(
        database,
        run,
        question,
        head=head,
        like=like,
        captions=captions,
        filters=Filters(where, equal_filters(filters or [])),
        n_top=top,
        is_exact=exact,
    )
    for line in json_lines(found) if as_json else table_lines(found):
        typer.echo(line)
