"""From a question to vectors: texts, clips and skeletons through a run, rows of the index as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from oskar.embedding.file import Embeddings, Pooling, Source
from oskar.errors import InputError
from oskar.searching.database import Database, SpaceCard
from oskar.searching.indexing import COMMON
from oskar.searching.nearest import SpaceQuery

_HOW_TO_TEXT = (
    "make one with `oskar evaluate RUN --task text-video-retrieval`, give it to `oskar embed` as --head and index "
    "that file; or search the words of captions with --captions"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What to look for: every entry is one query, and a query counts by the weight of its kind.

    ``rows`` are rows of the index, by number; they weigh 1.
    """

    texts: tuple[str, ...] = ()
    clips: tuple[Path, ...] = ()
    skeletons: tuple[Path, ...] = ()
    rows: tuple[int, ...] = ()
    text_weight: float = 1.0
    clip_weight: float = 1.0
    skeleton_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("text_weight", "clip_weight", "skeleton_weight"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} {value}", fix="use a positive number")

    def __bool__(self) -> bool:
        return bool(self.texts or self.clips or self.skeletons or self.rows)

    @property
    def is_encoded(self) -> bool:
        """Whether a run is needed to answer it."""
        return bool(self.texts or self.clips or self.skeletons)


class QueryEncoder(Protocol):
    """A run, perhaps with a retrieval head."""

    @property
    def has_head(self) -> bool: ...

    def encode(self, modality: Source, given: Sequence[str | Path], pooling: Pooling, *, is_common: bool) -> Embeddings:
        """Embed sentences or files whole, one row each; ``is_common`` through the head."""


def space_queries(question: Question, database: Database, encoder: QueryEncoder | None) -> list[SpaceQuery]:
    """One vector for each queried space: the weighted sum of unit queries, over the sum of all weights.

    So the sum of products is a weighted mean of cosines.

    Raises:
        InputError: nothing asked; no space for a kind of query; no run or head where one is needed; another model.
    """
    if not question:
        raise InputError("nothing to look for", fix="give --text, --clip, --skeleton, --like or --captions")
    sums: dict[str, Tensor] = {}
    total = 0.0
    kinds: tuple[tuple[Source, Sequence[str | Path], float], ...] = (
        ("text", question.texts, question.text_weight),
        ("video", question.clips, question.clip_weight),
        ("skeleton", question.skeletons, question.skeleton_weight),
    )
    for kind, given, weight in kinds:
        if given:
            space = _space_for(kind, database)
            vectors = _encoded(kind, given, space, database, encoder)
            _add(sums, space.name, weight * vectors.sum(0))
            total += weight * len(given)
    for row in question.rows:
        for name, vector in _stored(row, database):
            _add(sums, name, vector)
            total += 1.0
    return [SpaceQuery(database.spaces[name], vector / total) for name, vector in sums.items()]


def _add(sums: dict[str, Tensor], name: str, vector: Tensor) -> None:
    sums[name] = sums[name] + vector if name in sums else vector


def _stored(row: int, database: Database) -> list[tuple[str, Tensor]]:
    if not 0 <= row < database.card.n_rows:
        raise InputError(f"row {row}: the index has {database.card.n_rows} rows", fix="use one that was found")
    return [(name, space.vectors[row]) for name, space in database.spaces.items() if bool(space.is_present[row])]


def _space_for(kind: Source, database: Database) -> SpaceCard:
    """The common space where the kind is in it or nowhere else; its own; the fused one, for a clip or skeleton."""
    cards = {card.name: card for card in database.card.spaces}
    is_elsewhere = kind in cards or (kind != "text" and "fused" in cards)
    if COMMON in cards and (kind in (*cards[COMMON].modalities, "text") or not is_elsewhere):
        return cards[COMMON]
    if kind in cards:
        return cards[kind]
    if kind != "text" and "fused" in cards:
        return cards["fused"]
    held = ", ".join(cards)
    if kind == "text":
        raise InputError(
            f"{database.folder} holds embeddings of {held}, made without a retrieval head: a sentence is not "
            "comparable with them",
            fix=_HOW_TO_TEXT,
        )
    raise InputError(f"{database.folder} holds embeddings of {held}, not of {kind}", fix="query by one of these")


def _encoded(
    kind: Source, given: Sequence[str | Path], space: SpaceCard, database: Database, encoder: QueryEncoder | None
) -> Tensor:
    if encoder is None:
        raise InputError("a text, clip or skeleton needs the run that embedded the index", fix="add --run RUN")
    is_common = space.name == COMMON
    if is_common and not encoder.has_head:
        raise InputError(
            f"{database.folder} was embedded through the retrieval head {space.head_sha256}, and none is given",
            fix="add --head HEAD, the folder that was given to `oskar embed`",
        )
    modality: Source = "fused" if space.name == "fused" else kind
    made = encoder.encode(modality, given, space.pooling, is_common=is_common)
    _require_same(made, space, database)
    return F.normalize(made.vectors, dim=1)


def _require_same(made: Embeddings, space: SpaceCard, database: Database) -> None:
    for what, found, wanted in (
        ("model", made.header.model_sha256, database.card.model_sha256),
        ("preprocessing", made.header.preprocessing_sha256, database.card.preprocessing_sha256),
        ("head", made.header.head_sha256, space.head_sha256),
    ):
        require_same_hash(what, wanted, found, database)
    if made.header.width != space.width:
        raise InputError(
            f"{database.folder}: {space.name} has {space.width} numbers a vector, the query {made.header.width}",
            fix="embed and index again",
        )


def require_same_hash(what: str, wanted: str | None, found: str | None, database: Database) -> None:
    """InputError with both hashes where what embeds queries is not what embedded the index."""
    if found != wanted:
        raise InputError(
            f"{database.folder} was embedded with {what} {wanted}, the query is with {found}",
            fix="name the run and head that embedded the index, or embed and index again",
        )
