"""Retrieval examples, right and wrong, from the ``predictions.csv`` that an evaluation saved."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oskar.data.open import OpenedData
from oskar.errors import InputError
from oskar.reporting.exhibit import Block, Exhibit, Picture, Strip
from oskar.reporting.feature_pictures import short, thumbnail
from oskar.reporting.pictured_run import thumbnail_clip
from oskar.reporting.results import read_json
from oskar.tasks.retrieval import TASK

N_EACH, N_FOUND = 3, 3
_TITLE = "Retrieval examples"


@dataclass(frozen=True, slots=True)
class Query:
    """A caption with the clips found for it, best first; ``random_rank`` is what random weights give it."""

    caption: str
    clip_id: str
    rank: float
    random_rank: float | None
    found: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        return self.rank <= 1


def retrieval_exhibit(run: Path, opened: Sequence[OpenedData]) -> Exhibit:
    """Queries of every evaluation of retrieval in the run folder; thumbnails where the clips are at hand."""
    blocks = []
    for folder in sorted(run.glob("evaluations/*")):
        summary = read_json(folder / "summary.json")
        if summary is not None and summary.get("task") == TASK:
            blocks += _blocks(folder, str(summary.get("modality")), opened)
    if not blocks:
        text = f"There is no evaluation of retrieval yet: oskar evaluate RUN --task {TASK} --data DATA writes one."
        return Exhibit(_TITLE, (text,))
    text = "Captions of the test split and the clips found for them, best first; ✓ marks the caption's own clip."
    return Exhibit(_TITLE, (text,), tuple(blocks))


def read_queries(path: Path) -> list[Query]:
    """The text-to-video queries of the pretrained encoder, with the rank random weights give each.

    Raises:
        InputError: the file is missing, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["direction"] == "text_to_video"]
        random = {row["query"]: float(row["rank"]) for row in rows if row["weights"] == "random"}
        return [
            Query(
                caption=row["caption"],
                clip_id=row["query"].rpartition("#")[0],
                rank=float(row["rank"]),
                random_rank=random.get(row["query"]),
                found=tuple(row[f"top{i + 1}"] for i in range(N_FOUND) if row[f"top{i + 1}"]),
            )
            for row in rows
            if row["weights"] == "pretrained"
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not the predictions of retrieval ({error!r})", fix="evaluate anew") from error


def chosen_queries(queries: Sequence[Query], *, is_right: bool) -> list[Query]:
    """Queries that came out right, or wrong, evenly from all of them: not the best and not the worst."""
    of_kind = [query for query in queries if query.is_right == is_right]
    step = max(len(of_kind) / N_EACH, 1.0)
    return [of_kind[int((i + 0.5) * step)] for i in range(min(N_EACH, len(of_kind)))]


def _blocks(folder: Path, modality: str, opened: Sequence[OpenedData]) -> list[Block]:
    queries = read_queries(folder / "predictions.csv")
    n_right = sum(query.is_right for query in queries)
    n_random = sum(query.random_rank is not None and query.random_rank <= 1 for query in queries)
    note = (
        f"{n_right:,} of {len(queries):,} captions have their own clip first; with random weights {n_random:,}. "
        "Shown are some of each kind, evenly from all."
    )
    blocks = [Block(heading=f"{modality.capitalize()}: {folder.name}", note=note)]
    for is_right, word in ((True, "Right"), (False, "Wrong")):
        strips = tuple(_strip(query, opened) for query in chosen_queries(queries, is_right=is_right))
        if strips:
            blocks.append(Block(heading=f"{word}, {modality}", strips=strips))
        else:
            blocks.append(Block(heading=f"{word}, {modality}", note="None."))
    return blocks


def _strip(query: Query, opened: Sequence[OpenedData]) -> Strip:
    random = "" if query.random_rank is None else f", {query.random_rank:g} with random weights"
    pictures = [_picture(query.clip_id, "the caption's clip: ", opened)]
    pictures += [_picture(found, "✓ " if found == query.clip_id else "✕ ", opened) for found in query.found]
    return Strip(f"“{query.caption}” (its clip has rank {query.rank:g}{random})", tuple(pictures))


def _picture(clip_id: str, sign: str, opened: Sequence[OpenedData]) -> Picture:
    clips = thumbnail_clip(opened, clip_id)
    caption = f"{sign}{short(clip_id)}"
    return Picture(alt=caption, caption=caption) if clips is None else thumbnail(clips, 0, caption)
