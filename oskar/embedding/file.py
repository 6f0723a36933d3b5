"""The file of embeddings, version 1: one row per clip, window or sentence, and an index that says what each row is.

``FILE.safetensors`` holds ``embeddings`` float32 ``[n, D]`` with its index beside it in
``FILE.safetensors.index.jsonl``, one object per row. A grid of tokens is ``[n, L, D]`` and has ``is_valid`` bool
``[n, L]``. ``FILE.parquet`` holds the columns of the index, and the vectors as lists in ``embedding`` (a grid
flattened, with ``is_valid``). Either file has one JSON header, under the metadata key ``oskar``.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oskar.embedding.parquet import read_parquet, write_parquet
from oskar.errors import InputError
from oskar.settings import validate
from oskar.train.sealed import TEMPORARY, not_written, write_text_atomic

FORMAT: Final = "oskar-embeddings"
VERSION: Final = 1
SUFFIXES = (".safetensors", ".parquet")
HEADER_KEY = "oskar"
Pooling = Literal["mean", "mean+std", "tokens"]
Source = Literal["video", "skeleton", "text", "fused"]
_STRICT = ConfigDict(extra="forbid")
_REPEATED = ("modality", "model_sha256", "preprocessing_sha256")  # of the header, so that an index can stand alone
_FIX = "write it again with `oskar embed`"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingHeader:
    """What all rows of a file share.

    ``width`` is D. ``folder`` is where the rows' paths start. ``head_sha256`` is set where a retrieval head took the
    vectors into the space that clips and sentences share. ``n_tokens`` is L, of a grid only. ``index_sha256`` is
    that of the index beside a safetensors file; the writer sets it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    format: Literal["oskar-embeddings"] = FORMAT
    version: Literal[1] = VERSION
    modality: Source
    pooling: Pooling
    width: int
    model_sha256: str
    preprocessing_sha256: str
    head_sha256: str | None = None
    folder: str | None = None
    n_tokens: int | None = None
    index_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRow:
    """What one vector is of; None is what its source does not say.

    ``path`` is relative to the header's ``folder``, with slashes, and None for a sentence that came from no file.
    ``start_seconds`` and ``end_seconds`` are those of the frames that were shown, None where no rate is known.
    ``window`` counts from 0 within a clip. ``stride_frames`` is the mean distance of the shown frames, in frames of
    the source. ``metadata`` holds the manifest's further columns as text.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    row: int
    clip_id: str
    path: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    fps: float | None = None
    stride_frames: float | None = None
    window: int = 0
    caption: str | None = None
    label: str | None = None
    label_id: int | None = None
    subject: str | None = None
    split: str | None = None
    source_sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embeddings:
    """A file in memory: ``vectors`` float32 ``[n, D]``, or ``[n, L, D]`` with ``is_valid`` bool ``[n, L]``."""

    header: EmbeddingHeader
    vectors: Tensor
    rows: tuple[EmbeddingRow, ...]
    is_valid: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Index:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    rows: tuple[EmbeddingRow, ...]


def index_path(path: Path) -> Path:
    """The index beside a safetensors file."""
    return path.with_name(path.name + ".index.jsonl")


def bad_path(path: Path) -> Path:
    """The list of what could not be embedded, beside either file."""
    return path.with_name(path.name + ".bad.csv")


def require_suffix(path: Path) -> None:
    """InputError unless a file's name says which of the two kinds it is."""
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: embeddings are kept in {' or '.join(SUFFIXES)} files", fix=f"call it {path.stem}.safetensors"
        )


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a file and its index atomically; a kill leaves the old, the new, or two that a reader refuses to mix.

    Raises:
        InputError: the name ends otherwise, or pyarrow is missing for parquet.
        StoppedRunError: it could not be written.
    """
    require_suffix(path)
    _check(embeddings, str(path))
    temporary, temporary_index = (p.with_name(TEMPORARY + p.name) for p in (path, index_path(path)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            metadata = {HEADER_KEY: header_json(embeddings.header)}
            write_parquet(temporary, [_plain(r) for r in embeddings.rows], _tensors(embeddings), metadata)
        else:
            _write_safetensors(temporary, temporary_index, embeddings)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        if temporary_index.exists():
            temporary_index.replace(index_path(path))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        temporary_index.unlink(missing_ok=True)
        raise not_written(path, embeddings.vectors.nbytes, str(error)) from error


def _write_safetensors(path: Path, index: Path, embeddings: Embeddings) -> None:
    text = "".join(row_json(row, embeddings.header) + "\n" for row in embeddings.rows)
    header = dataclasses.replace(embeddings.header, index_sha256=hashlib.sha256(text.encode()).hexdigest())
    write_text_atomic(index, text)
    save_file(_tensors(embeddings), path, {HEADER_KEY: header_json(header)})
    path.chmod(index.stat().st_mode)  # safetensors makes its file private


def read_embeddings(path: Path) -> Embeddings:
    """Read a file and its index, checked against each other.

    Raises:
        InputError: missing, truncated, of another kind or version, with an index of another file, with rows that
            are missing or not finite; names the file, what is wrong and the fix.
    """
    require_suffix(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file", fix="write it with `oskar embed RUN PATHS --out FILE`")
    if path.suffix == ".parquet":
        metadata, tensors, values = read_parquet(path)
        header = _header(metadata, path)
        if header.n_tokens is not None:
            shape = (-1, header.n_tokens, header.width)
            tensors["embeddings"] = tensors["embeddings"].reshape(shape)
    else:
        metadata, tensors = _read_safetensors(path)
        header = _header(metadata, path)
        values = _read_index(path, header)
    rows = validate(_Index, {"rows": values}, str(path)).rows
    if "embeddings" not in tensors:
        raise InputError(f"{path} holds {', '.join(sorted(tensors))}, no tensor called embeddings", fix=_FIX)
    embeddings = Embeddings(
        header=header, vectors=tensors["embeddings"], rows=rows, is_valid=tensors.get("is_valid")
    )  # fmt: skip
    _check(embeddings, str(path))
    return embeddings


def header_json(header: EmbeddingHeader) -> str:
    return json.dumps(dataclasses.asdict(header), ensure_ascii=False)


def row_json(row: EmbeddingRow, header: EmbeddingHeader) -> str:
    """A line of the index: the row, and what of the header says which model made it."""
    return json.dumps(_plain(row) | {name: getattr(header, name) for name in _REPEATED}, ensure_ascii=False)


def _plain(row: EmbeddingRow) -> dict[str, Any]:
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    return values | {"metadata": dict(row.metadata)}


def _tensors(embeddings: Embeddings) -> dict[str, Tensor]:
    tensors = {"embeddings": embeddings.vectors.contiguous()}
    return tensors if embeddings.is_valid is None else tensors | {"is_valid": embeddings.is_valid.contiguous()}


def _header(metadata: Mapping[str, str], path: Path) -> EmbeddingHeader:
    if HEADER_KEY not in metadata:
        raise InputError(f"{path} is no file of embeddings: its metadata has no key {HEADER_KEY!r}", fix=_FIX)
    try:
        values = json.loads(metadata[HEADER_KEY])
    except ValueError as error:
        raise InputError(f"{path}: its header is not JSON ({error})", fix=_FIX) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: its header is not that of {FORMAT}", fix=_FIX)
    if values.get("version") != VERSION:
        raise InputError(
            f"{path}: version = {values.get('version')!r}, this oskar reads {VERSION}",
            fix="use the oskar that wrote it",
        )
    return validate(EmbeddingHeader, values, f"header of {path}")


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or not safetensors ({error})", fix=_FIX) from error


def _read_index(path: Path, header: EmbeddingHeader) -> list[dict[str, Any]]:
    """The rows of the index as plain values, without what repeats the header."""
    index = index_path(path)
    try:
        raw = index.read_bytes()
    except OSError as error:
        raise InputError(f"{index} cannot be read ({error.strerror})", fix=f"keep it beside {path.name}") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InputError(f"{index} line {number} is not JSON ({error})", fix=_FIX) from error
        if not isinstance(values, dict):
            raise InputError(f"{index} line {number} is not an object", fix=_FIX)
        repeated = {name: values.pop(name, None) for name in _REPEATED}
        other = {name: value for name, value in repeated.items() if value != getattr(header, name)}
        if other:
            raise InputError(f"{index} line {number} is of another file than {path}: it has {other}", fix=_FIX)
        rows.append(values)
    if header.index_sha256 is not None and hashlib.sha256(raw).hexdigest() != header.index_sha256:
        raise InputError(f"{index} is not the index that was written with {path}, or was changed", fix=_FIX)
    return rows


def _check(embeddings: Embeddings, source: str) -> None:
    header, vectors, n_rows = embeddings.header, embeddings.vectors, len(embeddings.rows)
    is_grid = header.pooling == "tokens"
    wanted = [n_rows, *([header.n_tokens] if is_grid else []), header.width]
    if list(vectors.shape) != wanted or vectors.dtype != torch.float32:
        found = f"{str(vectors.dtype).removeprefix('torch.')} {list(vectors.shape)}"
        raise InputError(f"{source}: embeddings are {found}, its header and {n_rows} rows say {wanted}", fix=_FIX)
    if (embeddings.is_valid is not None) != is_grid or (
        embeddings.is_valid is not None and list(embeddings.is_valid.shape) != wanted[:2]
    ):
        raise InputError(f"{source}: is_valid belongs to a grid of tokens, one flag for each", fix=_FIX)
    _check_numbers(embeddings.rows, source)
    is_finite = vectors.isfinite().flatten(1).all(1) if n_rows else torch.ones(0, dtype=torch.bool)
    if not bool(is_finite.all()):
        row = int((~is_finite).nonzero()[0, 0])
        clip_id = embeddings.rows[row].clip_id
        raise InputError(f"{source}: row {row} (clip {clip_id!r}) holds numbers that are not finite", fix=_FIX)


def _check_numbers(rows: Sequence[EmbeddingRow], source: str) -> None:
    for i, row in enumerate(rows):
        if row.row != i:
            raise InputError(f"{source}: row {i} of the index is numbered {row.row}", fix=_FIX)
