"""The index on disk, version 1: a folder with a card, vectors in safetensors and clips in SQLite.

``index.json`` is written last and names the two others, which carry their content's hash in their names: a kill at any
moment leaves the old index or the new one. Vectors are memory-mapped, so that opening an index costs nothing.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oskar.embedding.file import Pooling, Source
from oskar.errors import InputError
from oskar.files import TEMPORARY, not_written, write_text_atomic
from oskar.searching.clips import Clips, Values, write_clips
from oskar.searching.nearest import Lists, Space
from oskar.settings import validate

FORMAT: Final = "oskar-index"
VERSION: Final = 1
CARD = "index.json"
_STRICT = ConfigDict(extra="forbid")
_FIX = "write the index again with `oskar index`"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceCard:
    """What is known of one space: which embeddings it holds, and how it is searched.

    ``modalities`` are those whose clips are in it: one, or several where a head (``head_sha256``) makes it common.
    ``n_lists`` is 0 where search is always exact; otherwise ``n_probes`` of them are looked into, and ``recall`` is
    the share of the true ten nearest that this finds, measured with ``n_queries`` of the index's own vectors.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    modalities: tuple[Source, ...]
    pooling: Pooling
    width: int
    n_rows: int
    head_sha256: str | None = None
    n_lists: int = 0
    n_probes: int = 0
    recall: float = 1.0
    n_queries: int = 0

    @property
    def how(self) -> str:
        """How it is searched, in words."""
        if not self.n_lists:
            return "compared with every row"
        return (
            f"approximate: {self.n_probes} of {self.n_lists} lists, recall at 10 of {self.recall:.3f} "
            f"over {self.n_queries} vectors of the index"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCard:
    """A file of the index, as it was written."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    n_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexCard:
    """What ``index.json`` says; ``columns`` are the further columns of the clips."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    format: Literal["oskar-index"] = FORMAT
    version: Literal[1] = VERSION
    model_sha256: str
    preprocessing_sha256: str
    n_rows: int
    spaces: tuple[SpaceCard, ...]
    columns: tuple[str, ...]
    sources: tuple[str, ...]
    vectors: FileCard
    clips: FileCard


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFacts:
    """What the writer of an index knows before its files exist."""

    model_sha256: str
    preprocessing_sha256: str
    sources: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """An open index; a context manager, since it holds files open."""

    folder: Path
    card: IndexCard
    spaces: Mapping[str, Space]
    clips: Clips

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clips.close()


def write_database(
    folder: Path, facts: IndexFacts, spaces: Sequence[tuple[SpaceCard, Space]], rows: Sequence[Values]
) -> IndexCard:
    """Write an index, in place of one that is there.

    Raises:
        StoppedRunError: it could not be written; an index that was there is untouched.
    """
    tensors = {name: tensor for _, space in spaces for name, tensor in _tensors(space).items()}
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        vectors = _put(folder, "vectors", ".safetensors", lambda path: save_file(tensors, path))
        clips = _put(folder, "clips", ".sqlite", lambda path: write_clips(path, rows, facts.columns))
    except (OSError, SafetensorError) as error:
        raise not_written(folder, n_bytes, str(error)) from error
    card = IndexCard(
        model_sha256=facts.model_sha256,
        preprocessing_sha256=facts.preprocessing_sha256,
        n_rows=len(rows),
        spaces=tuple(card for card, _ in spaces),
        columns=facts.columns,
        sources=facts.sources,
        vectors=vectors,
        clips=clips,
    )
    (folder / vectors.name).chmod((folder / clips.name).stat().st_mode)  # safetensors makes its file private
    write_text_atomic(folder / CARD, json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False) + "\n")
    _remove_others(folder, card)
    return card


def open_database(folder: Path) -> Database:
    """Open an index for reading.

    Raises:
        InputError: no index, of another version, or a file of it that is missing, truncated or damaged.
    """
    card = read_card(folder)
    for file in (card.vectors, card.clips):
        path = folder / file.name
        if not path.is_file():
            raise InputError(f"{path} is missing", fix=_FIX)
        if path.stat().st_size != file.n_bytes:
            raise InputError(f"{path} is truncated or changed: {path.stat().st_size} bytes of {file.n_bytes}", fix=_FIX)
    path = folder / card.vectors.name
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        spaces = {space.name: _space(space, tensors, card.n_rows) for space in card.spaces}
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error})", fix=_FIX) from error
    return Database(folder, card, spaces, Clips(folder / card.clips.name))


def read_card(folder: Path) -> IndexCard:
    """The card of an index alone; InputError where there is none, or one that this oskar cannot read."""
    path = folder / CARD
    if not path.is_file():
        raise InputError(
            f"{folder} holds no index ({CARD} is not there)",
            fix=f"write one: oskar index EMBEDDINGS.safetensors --out {folder}",
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        is_index = values["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the card of an index ({error!r})", fix=_FIX) from error
    if not is_index:
        raise InputError(
            f"{path}: format = {values['format']!r}, wanted {FORMAT!r}", fix="name a folder of oskar index"
        )
    if values.get("version") != VERSION:
        raise InputError(
            f"{path}: version = {values.get('version')!r}, this oskar reads {VERSION}",
            fix="use the oskar that wrote it",
        )
    return validate(IndexCard, values, str(path))


def _tensors(space: Space) -> dict[str, Tensor]:
    tensors = {"vectors": space.vectors, "is_present": space.is_present}
    if space.lists is not None:
        lists = space.lists
        tensors |= {"centres": lists.centres, "offsets": lists.offsets, "row_idx": lists.row_idx}
    return {f"{space.name}.{name}": tensor.contiguous() for name, tensor in tensors.items()}


def _space(card: SpaceCard, tensors: Mapping[str, Tensor], n_rows: int) -> Space:
    def take(name: str, *shape: int) -> Tensor:
        tensor = tensors[f"{card.name}.{name}"]
        if tensor.shape != torch.Size(shape):
            raise ValueError(f"{card.name}.{name} is {list(tensor.shape)}, {CARD} says {list(shape)}")
        return tensor

    lists = None
    if card.n_lists:
        lists = Lists(
            centres=take("centres", card.n_lists, card.width),
            offsets=take("offsets", card.n_lists + 1),
            row_idx=take("row_idx", card.n_rows),
            n_probes=card.n_probes,
            recall=card.recall,
            n_queries=card.n_queries,
        )
    return Space(
        name=card.name,
        vectors=take("vectors", n_rows, card.width),
        is_present=take("is_present", n_rows),
        lists=lists,
    )


def _put(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> FileCard:
    """Write a file beside its place, flush it, and name it by its hash."""
    temporary = folder / f"{TEMPORARY}{stem}{suffix}"
    temporary.unlink(missing_ok=True)
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        name = f"{stem}-{digest[:16]}{suffix}"
        n_bytes = temporary.stat().st_size
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return FileCard(name=name, n_bytes=n_bytes)


def _remove_others(folder: Path, card: IndexCard) -> None:
    """Files that earlier or killed writers left; a reader that has them open keeps them."""
    # safetensors too writes beside the place first, to a name of its own that starts with .tmp
    for pattern in ("vectors-*.safetensors", "clips-*.sqlite", f"{TEMPORARY}*", ".tmp*"):
        for path in folder.glob(pattern):
            if path.name not in (card.vectors.name, card.clips.name):
                path.unlink(missing_ok=True)
