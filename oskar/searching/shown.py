"""Results of a search as lines: a table to read, or one JSON object a line."""

import json
from collections.abc import Iterator

from oskar.searching.search import Hit, SearchResult

_COLUMNS = ("clip_id", "label", "caption", "path")
_WIDEST = 48


def json_lines(found: SearchResult) -> Iterator[str]:
    """One object for each hit: row, similarity and every known column."""
    return (json.dumps(hit.to_json(), ensure_ascii=False) for hit in found.hits)


def table_lines(found: SearchResult) -> Iterator[str]:
    """Rank, similarity, time and the columns that some hit has, and how it was searched."""
    shown = [name for name in _COLUMNS if any(hit.values.get(name) is not None for hit in found.hits)]
    is_timed = any(hit.values.get("start_seconds") is not None for hit in found.hits)
    header = ["#", "words" if found.is_by_words else "similarity", *(["seconds"] if is_timed else []), *shown]
    rows = [header]
    for rank, hit in enumerate(found.hits, start=1):
        cells = [str(rank), f"{hit.similarity:.3f}", *([_seconds(hit)] if is_timed else [])]
        rows.append(cells + [_cut(hit.values.get(name)) for name in shown])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    how = "" if found.recall >= 1 else f", approximately (recall at 10 of {found.recall:.3f} was measured)"
    yield f"{len(found.hits)} of {found.n_searched} rows{how}"


def _seconds(hit: Hit) -> str:
    start, end = hit.values.get("start_seconds"), hit.values.get("end_seconds")
    return "" if start is None or end is None else f"{start:.1f}-{end:.1f}"


def _cut(value: object) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
