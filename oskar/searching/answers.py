"""What the page asks for, as plain values: what the index holds, results, the map, joints. No HTTP in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from oskar.errors import InputError
from oskar.searching.clips import Filters, Values
from oskar.searching.confined import Confined
from oskar.searching.indexing import COMMON
from oskar.searching.moving import Thumbnails, shown_joints, shown_video
from oskar.searching.queries import Question
from oskar.searching.scatter import principal_map
from oskar.searching.search import Searcher, SearchResult

MOST_HITS = 60
_MOST_LABELS = 200
_MOST_CHARACTERS = 500
_HIDDEN = frozenset({"row", "folder", "source_sha256", "joints_start", "joints_end"})  # of the machine or of no use


class NotFoundError(InputError):
    """Nothing is at this address."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One open index with the folder of its videos; used by several threads, the encoder by one at a time."""

    searcher: Searcher
    confined: Confined
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    encoding: Lock = field(default_factory=Lock)

    def about(self) -> dict[str, Any]:
        """What can be asked."""
        database = self.searcher.database
        captioned = bool(database.clips.values_of("caption", 1))
        return {
            "n_rows": database.card.n_rows,
            "spaces": [{"name": s.name, "n_rows": s.n_rows, "how": s.how} for s in database.card.spaces],
            "can_text": self._can_text(),
            "why_no_text": None if self._can_text() else _WHY_NO_TEXT,
            "has_captions": captioned,
            "labels": database.clips.values_of("label", _MOST_LABELS),
        }

    def search(self, asked: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Results of ``text``, ``like`` (a row) or ``captions``, among those of a ``label``; ``top`` of them."""
        n_top = min(_number(asked, "top", 12), MOST_HITS)
        label = _one(asked, "label")
        filters = Filters(equal=(("label", label),)) if label else Filters()
        captions = _one(asked, "captions")
        if captions is not None:
            return self._results(self.searcher.by_words(captions, filters, n_top=n_top))
        text, like = _one(asked, "text"), _one(asked, "like")
        question = Question(
            texts=() if text is None else (text,), rows=() if like is None else (_number(asked, "like", 0),)
        )
        with self.encoding:
            return self._results(self.searcher.search(question, filters, n_top=n_top))

    def some(self) -> dict[str, Any]:
        """The first rows, to start with."""
        rows = range(min(12, self.searcher.database.card.n_rows))
        return {"hits": [self._hit(values, None) for values in self.searcher.database.clips.fetch(rows)]}

    def map(self) -> dict[str, Any]:
        """The rows of the largest space in the plane, with what is said of each."""
        spaces = self.searcher.database.spaces.values()
        space = max(spaces, key=lambda space: int(space.is_present.sum()))
        found = principal_map(space)
        known = self.searcher.database.clips.fetch(found.row_idx.tolist())
        points = [
            {"row": values["row"], "x": round(x, 4), "y": round(y, 4), **_said(values)}
            for values, (x, y) in zip(known, found.xy.tolist(), strict=True)
        ]
        return {"space": space.name, "n_rows": int(space.is_present.sum()), "shares": found.shares, "points": points}

    def joints(self, row: int) -> dict[str, Any]:
        return shown_joints(self.confined, self.values(row))

    def thumbnail(self, row: int) -> bytes:
        """WebM; NotFoundError for a row without a video."""
        values = self.values(row)
        video = self.video(row)
        return self.thumbnails.of(video, shown_video(video, values))

    def video(self, row: int) -> Path:
        values = self.values(row)
        path = self.confined.video(values)
        if path is None:
            raise NotFoundError(f"clip {values['clip_id']} has no video", fix="see its skeleton")
        return path

    def values(self, row: int) -> Values:
        if not 0 <= row < self.searcher.database.card.n_rows:
            raise NotFoundError(f"row {row} is not in the index", fix="use one that was found")
        return self.searcher.database.clips.fetch([row])[0]

    def _can_text(self) -> bool:
        encoder, cards = self.searcher.encoder, {card.name for card in self.searcher.database.card.spaces}
        return encoder is not None and ("text" in cards or (COMMON in cards and encoder.has_head))

    def _results(self, found: SearchResult) -> dict[str, Any]:
        hits = [self._hit(hit.values, hit.similarity) for hit in found.hits]
        return {"hits": hits, "n_searched": found.n_searched, "recall": found.recall, "is_by_words": found.is_by_words}

    def _hit(self, values: Values, similarity: float | None) -> dict[str, Any]:
        known = {name: value for name, value in values.items() if value is not None and name not in _HIDDEN}
        video, problem = None, None
        try:
            video = self.confined.video(values)
        except InputError as error:
            problem = str(error)
        return {
            **known,
            "row": values["row"],
            "similarity": similarity,
            "has_video": video is not None,
            "has_joints": values.get("joints_path") is not None,
            "problem": problem,
        }


_WHY_NO_TEXT = (
    "Sentences cannot be compared with this index: it was made, or is served, without a retrieval head. Make one with "
    "oskar evaluate RUN --task text-video-retrieval, give it to oskar embed and serve as --head, and index anew."
)


def _said(values: Values) -> dict[str, Any]:
    return {name: values[name] for name in ("clip_id", "caption", "label") if values.get(name) is not None}


def _one(asked: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = asked.get(name)
    if not values or not values[-1].strip():
        return None
    if len(values[-1]) > _MOST_CHARACTERS:
        raise InputError(f"{name} has {len(values[-1])} characters", fix=f"use at most {_MOST_CHARACTERS}")
    return values[-1].strip()


def _number(asked: Mapping[str, Sequence[str]], name: str, default: int) -> int:
    text = _one(asked, name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise InputError(f"{name} = {text!r}", fix="use a whole number")
    return int(text)
