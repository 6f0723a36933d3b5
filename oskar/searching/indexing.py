"""From files of embeddings to an index: rows of one clip and window side by side, each kind in a space of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from oskar.embedding.file import EmbeddingHeader, EmbeddingRow, Embeddings, read_embeddings
from oskar.errors import InputError
from oskar.searching.clips import COLUMNS, Values
from oskar.searching.database import CARD, IndexCard, IndexFacts, SpaceCard, read_card, write_database
from oskar.searching.nearest import APPROXIMATE_ABOVE, RECALL_TARGET, Space, build_lists

COMMON = "common"  # the space that a retrieval head makes for clips and sentences
_RESERVED = frozenset({"row", "rowid", "oid", "_rowid_"})  # what SQLite calls a row
_Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """``approximate_above``: the most rows that every query is compared with; ``recall``: what lists must reach."""

    approximate_above: int = APPROXIMATE_ABOVE
    recall: float = RECALL_TARGET

    def __post_init__(self) -> None:
        if self.approximate_above < 1:
            raise InputError(f"--approximate-above {self.approximate_above}", fix="use a positive number of rows")
        if not 0 < self.recall <= 1:
            raise InputError(f"--recall {self.recall}", fix="use a share above 0 and at most 1")


@dataclass(slots=True)
class _Gathered:
    """Rows so far: their place by clip and window, and for each space the places and vectors that were given."""

    place_of: dict[_Key, int] = field(default_factory=dict)
    rows: list[Values] = field(default_factory=list)
    headers: dict[str, list[EmbeddingHeader]] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)
    vectors: dict[str, list[Tensor]] = field(default_factory=dict)


def index(files: Sequence[Path], out: Path, config: IndexConfig | None = None, *, replace: bool = False) -> IndexCard:
    """Put files of ``oskar embed`` into one index, the folder ``out``; returns its card.

    Files of several modalities make several spaces; their rows belong together where clip and window are the same.
    Files of one retrieval head share a space. Above ``approximate_above`` rows a space is also searched by lists.

    Raises:
        InputError: no file; files of different models or preprocessing; a grid of tokens; a vector of zeros; a clip
            given twice; an index at ``out`` already, without ``replace``; another folder's files at ``out``.
    """
    config = config or IndexConfig()
    _require_free(out, is_replaced=replace)
    if not files:
        raise InputError("no file of embeddings", fix="name one or more: oskar index FILE.safetensors --out DB")
    gathered = _Gathered()
    first: tuple[Path, EmbeddingHeader] | None = None
    for path in files:
        embeddings = read_embeddings(path)
        first = first or (path, embeddings.header)
        _require_same_model(path, embeddings.header, *first)
        _gather(gathered, path, embeddings)
    assert first is not None
    if not gathered.rows:
        raise InputError(f"{', '.join(map(str, files))}: no row at all", fix="see the lists of bad files beside them")
    spaces = [_space(name, gathered, config) for name in gathered.headers]
    facts = IndexFacts(
        model_sha256=first[1].model_sha256,
        preprocessing_sha256=first[1].preprocessing_sha256,
        sources=tuple(path.name for path in files),
        columns=tuple(dict.fromkeys(name for row in gathered.rows for name in row if name not in COLUMNS)),
    )
    return write_database(out, facts, spaces, gathered.rows)


def _require_free(out: Path, *, is_replaced: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file", fix="name a folder")
    if (out / CARD).is_file():
        if is_replaced:
            read_card(out)  # only what is an index is written over
            return
        raise InputError(f"--out {out} holds an index already", fix="name another folder, or add --replace")
    if any(not path.name.startswith((".", "vectors-", "clips-")) for path in out.iterdir()):  # a killed writer's
        raise InputError(f"--out {out} is a folder with other files", fix="name a new or an empty folder")


def _require_same_model(path: Path, header: EmbeddingHeader, first: Path, wanted: EmbeddingHeader) -> None:
    for what, found, expected in (
        ("model", header.model_sha256, wanted.model_sha256),
        ("preprocessing", header.preprocessing_sha256, wanted.preprocessing_sha256),
    ):
        if found != expected:
            raise InputError(
                f"{path} was embedded with {what} {found}, {first} with {expected}",
                fix="index files of one run together, others apart",
            )


def _gather(gathered: _Gathered, path: Path, embeddings: Embeddings) -> None:
    header = embeddings.header
    if header.pooling == "tokens":
        raise InputError(f"{path} holds a grid of tokens for each clip", fix="embed with a pooling of mean or mean+std")
    name = header.modality if header.head_sha256 is None else COMMON
    same_space = gathered.headers.setdefault(name, [])
    for other in same_space[:1]:
        for what, found, wanted in (
            ("pooling", header.pooling, other.pooling),
            ("width", header.width, other.width),
            ("head", header.head_sha256, other.head_sha256),
        ):
            if found != wanted:
                raise InputError(
                    f"{path}: its {what} is {found}, that of the files before it {wanted}", fix="index them apart"
                )
    same_space.append(header)
    length = embeddings.vectors.norm(dim=1, keepdim=True)
    if len(embeddings) and not bool((length > 0).all()):
        first = int((length[:, 0] == 0).nonzero()[0])
        clip_id = embeddings.rows[first].clip_id
        raise InputError(f"{path}: row {first} (clip {clip_id!r}) is a vector of zeros", fix="embed the clip again")
    given = gathered.places.setdefault(name, [])
    seen = set(given)
    for row in embeddings.rows:
        place = _place(gathered, row, header, path)
        if place in seen:
            raise InputError(
                f"{path}: clip {row.clip_id!r}, window {row.window} is there twice among the files",
                fix="name every file once, and give every clip its own id",
            )
        seen.add(place)
        given.append(place)
    gathered.vectors.setdefault(name, []).append(embeddings.vectors / length)


def _place(gathered: _Gathered, row: EmbeddingRow, header: EmbeddingHeader, path: Path) -> int:
    """Where a row stands in the index; what one file does not say of a clip may come from another."""
    key = (row.clip_id, row.window)
    place = gathered.place_of.setdefault(key, len(gathered.rows))
    if place == len(gathered.rows):
        gathered.rows.append({})
    values: Values = {name: getattr(row, name, None) for name in COLUMNS} | {"folder": header.folder}
    for name, value in row.metadata.items():
        if name.lower() in _RESERVED:
            raise InputError(f"{path}: a column called {name!r}", fix="give the manifest's column another name")
        values.setdefault(name.lower(), value)  # SQL does not tell upper from lower case
    known = gathered.rows[place]
    for name, value in values.items():
        if known.get(name) is None:
            known[name] = value
    return place


def _space(name: str, gathered: _Gathered, config: IndexConfig) -> tuple[SpaceCard, Space]:
    headers, n_rows = gathered.headers[name], len(gathered.rows)
    header = headers[0]
    given = torch.tensor(gathered.places[name], dtype=torch.int64)
    is_present = torch.zeros(n_rows, dtype=torch.bool)
    is_present[given] = True
    vectors = torch.zeros(n_rows, header.width)
    vectors[given] = torch.cat(gathered.vectors[name])
    n_present = len(given)
    lists = None
    if n_present > config.approximate_above:
        lists = build_lists(vectors, is_present, target=config.recall)
    card = SpaceCard(
        name=name,
        modalities=tuple(dict.fromkeys(h.modality for h in headers)),
        pooling=header.pooling,
        width=header.width,
        n_rows=n_present,
        head_sha256=header.head_sha256,
        n_lists=0 if lists is None else len(lists.centres),
        n_probes=0 if lists is None else lists.n_probes,
        recall=1.0 if lists is None else lists.recall,
        n_queries=0 if lists is None else lists.n_queries,
    )
    return card, Space(name=name, vectors=vectors, is_present=is_present, lists=lists)
