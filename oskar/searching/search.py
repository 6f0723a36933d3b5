"""Search an index by text, clip, skeleton, a clip that it holds, or words of captions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from oskar.errors import InputError
from oskar.searching.clips import Filters, Values
from oskar.searching.database import Database, open_database
from oskar.searching.nearest import nearest
from oskar.searching.queries import QueryEncoder, Question, space_queries
from oskar.searching.run_encoder import encoder_of, require_fits


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One row that was found; ``similarity`` is a weighted mean of cosines, or BM25 for words of captions."""

    row: int
    similarity: float
    values: Values

    def to_json(self) -> dict[str, Any]:
        """One flat object; what is not known is left out."""
        known = {name: value for name, value in self.values.items() if value is not None and name != "row"}
        return {"row": self.row, "similarity": round(self.similarity, 6), **known}


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What was found, best first, among ``n_searched`` rows; ``recall`` below 1 says that it is approximate.

    ``is_by_words`` says that similarities are scores of words in captions, of any size.
    """

    hits: tuple[Hit, ...]
    n_searched: int
    recall: float = 1.0
    is_by_words: bool = False


@dataclass(frozen=True, slots=True)
class Searcher:
    """An open index and what encodes queries for it."""

    database: Database
    encoder: QueryEncoder | None = None

    def search(
        self, question: Question, filters: Filters | None = None, *, n_top: int = 10, is_exact: bool = False
    ) -> SearchResult:
        """The rows nearest to a question; rows that the question names are not among them.

        Raises:
            InputError: as ``space_queries`` and ``Clips.allowed``.
        """
        _require_top(n_top)
        allowed_idx = self._allowed(filters or Filters())
        queries = space_queries(question, self.database, self.encoder)
        n_asked = n_top + len(question.rows)
        found = nearest(queries, n_asked, allowed_idx=allowed_idx, is_exact=is_exact)
        pairs = [
            (row, similarity)
            for row, similarity in zip(found.row_idx.tolist(), found.similarity.tolist(), strict=True)
            if row not in question.rows
        ][:n_top]
        recall = 1.0
        for query in queries:
            if found.is_approximate and query.space.lists is not None:
                recall = min(recall, query.space.lists.recall)
        n_searched = self.database.card.n_rows if allowed_idx is None else len(allowed_idx)
        return SearchResult(hits=self._hits(pairs), n_searched=n_searched, recall=recall)

    def by_words(self, words: str, filters: Filters | None = None, *, n_top: int = 10) -> SearchResult:
        """The rows whose captions share words with ``words``; no encoder has a part in it."""
        _require_top(n_top)
        clips = self.database.clips
        if not clips.values_of("caption", 1):
            raise InputError(
                f"{self.database.folder}: no clip has a caption to look words up in",
                fix="give the data a column caption before it is embedded, or search by --clip or --like",
            )
        allowed = clips.allowed(filters) if filters else None
        pairs = clips.by_words(words, n_top, allowed)
        n_searched = self.database.card.n_rows if allowed is None else len(allowed)
        return SearchResult(hits=self._hits(pairs), n_searched=n_searched, is_by_words=True)

    def _allowed(self, filters: Filters) -> torch.Tensor | None:
        return torch.tensor(self.database.clips.allowed(filters), dtype=torch.int64) if filters else None

    def _hits(self, pairs: Sequence[tuple[int, float]]) -> tuple[Hit, ...]:
        values = self.database.clips.fetch([row for row, _ in pairs])
        return tuple(
            Hit(row=row, similarity=similarity, values=known)
            for (row, similarity), known in zip(pairs, values, strict=True)
        )


def search(
    database: Path,
    run: Path | None = None,
    question: Question | None = None,
    *,
    head: Path | None = None,
    like: Sequence[str] = (),
    captions: str | None = None,
    filters: Filters | None = None,
    n_top: int = 10,
    is_exact: bool = False,
) -> SearchResult:
    """Search an index that ``index`` wrote; ``run`` and ``head`` are those that embedded it.

    ``like`` are ids of clips in the index; every window of one is a query. ``captions`` are words to look up in
    the captions, in place of any other query.

    Raises:
        InputError: no index, one of another model (with both hashes), a filter or query that does not fit.
    """
    question = question or Question()
    with open_database(database) as opened:
        if captions is not None:
            if question or like:
                raise InputError("--captions beside another query", fix="words of captions are searched alone")
            return Searcher(opened).by_words(captions, filters, n_top=n_top)
        rows = tuple(row for clip_id in like for row in _rows_of(opened, clip_id))
        question = replace(question, rows=question.rows + rows)
        encoder = None
        if question.is_encoded and run is not None:
            encoder = encoder_of(run, head)
            require_fits(encoder, opened)
        return Searcher(opened, encoder).search(question, filters, n_top=n_top, is_exact=is_exact)


def _rows_of(database: Database, clip_id: str) -> list[int]:
    rows = database.clips.rows_of_clip(clip_id)
    if not rows:
        raise InputError(
            f"--like {clip_id!r}: the index holds no such clip", fix="take a clip_id that a search printed"
        )
    return rows


def _require_top(n_top: int) -> None:
    if n_top < 1:
        raise InputError(f"--top {n_top}", fix="ask for one clip or more")
