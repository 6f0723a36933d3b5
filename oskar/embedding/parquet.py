"""Rows and vectors in a parquet file, through pyarrow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oskar.errors import InputError

if TYPE_CHECKING:
    import pyarrow

GROUP_ROWS = 8192
_FIX = "write it again with `oskar embed`"


def require_pyarrow() -> None:
    """InputError that names the extra where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "parquet files need pyarrow, which is not installed",
            fix='pip install "oskar[parquet]", or name a .safetensors file',
        ) from error


def write_parquet(
    path: Path, rows: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write rows with ``embeddings`` ``[n, ...]`` as fixed-size lists ``embedding``, and ``is_valid`` where given."""
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = tensors["embeddings"].flatten(1)
    is_valid = tensors.get("is_valid")
    width, n_tokens = vectors.shape[1], None if is_valid is None else is_valid.shape[1]
    schema = _schema(width, n_tokens).with_metadata(dict(metadata))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, max(len(rows), 1), GROUP_ROWS):
            some = slice(start, start + GROUP_ROWS)
            columns: dict[str, Any] = {
                name: [_cell(row[name]) for row in rows[some]]
                for name in schema.names
                if name not in ("embedding", "is_valid")
            }
            flat = pa.array(vectors[some].reshape(-1).numpy(), type=pa.float32())
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, width)
            if is_valid is not None:
                flags = pa.array(is_valid[some].reshape(-1).numpy(), type=pa.bool_())
                columns["is_valid"] = pa.FixedSizeListArray.from_arrays(flags, is_valid.shape[1])
            writer.write_table(pa.table(columns, schema=schema))


def read_parquet(path: Path) -> tuple[dict[str, str], dict[str, Tensor], list[dict[str, Any]]]:
    """Metadata, tensors (``embeddings`` flattened to ``[n, ...]``) and rows; InputError where the file is damaged."""
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or not parquet ({error})", fix=_FIX) from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    tensors: dict[str, Tensor] = {}
    for column, name in (("embedding", "embeddings"), ("is_valid", "is_valid")):
        if column in table.column_names:
            tensors[name] = _stacked(table[column], path, column)
            table = table.drop_columns([column])
    rows = table.to_pylist()
    for row in rows:
        row["metadata"] = json.loads(row.get("metadata") or "{}")
    return metadata, tensors, rows


def _stacked(column: "pyarrow.ChunkedArray", path: Path, name: str) -> Tensor:
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type) or column.null_count:
        raise InputError(f"{path}: {name} is {column.type}, not lists of one length", fix=_FIX)
    flat = [chunk.flatten().to_numpy(zero_copy_only=False).copy() for chunk in column.chunks]
    parts = [torch.from_numpy(values).view(-1, column.type.list_size) for values in flat]
    return torch.cat(parts) if parts else torch.zeros(0, column.type.list_size)


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _schema(width: int, n_tokens: int | None) -> "pyarrow.Schema":
    import pyarrow as pa

    fields = [
        ("row", pa.int64()),
        ("clip_id", pa.string()),
        ("path", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("fps", pa.float64()),
        ("stride_frames", pa.float64()),
        ("window", pa.int64()),
        *((name, pa.string()) for name in ("caption", "label")),
        ("label_id", pa.int64()),
        *((name, pa.string()) for name in ("subject", "split", "source_sha256", "metadata")),
        ("embedding", pa.list_(pa.float32(), width)),
    ]
    return pa.schema(fields if n_tokens is None else [*fields, ("is_valid", pa.list_(pa.bool_(), n_tokens))])
