"""Manifests in Parquet: read whole as any manifest, or by column into a mapped file, for sets of millions of clips."""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO, overload

from oskar.config import Config
from oskar.data.bounded_folder import BoundedFolder
from oskar.data.columns import Cells, Table, check_header
from oskar.data.rows import Files, PackedFile, Row, read_packed_file, read_row
from oskar.errors import InputError

INDEX_PARQUET = "index.parquet"
MAX_CAPTIONS = 1_000_000  # to learn a vocabulary from: they are held in memory
_VERSION = 1  # of the mapped file: raise it when its columns change
_BATCH_ROWS = 65_536
_ROWS_HELD = 64  # each takes the pages around it into memory, some 128 KiB for a column
# What a training clip is read by; the other columns stay in the Parquet file.
_READ = (
    "clip_id", "path", "joints_path", "row", "start", "end", "has_joints", "caption", "n_frames", "width", "height",
)  # fmt: skip


def parquet_of(data: str | Path) -> Path | None:
    """The Parquet manifest that data name: a ``.parquet`` file, or a folder with ``index.parquet``."""
    path = Path(data)
    if path.suffix.lower() == ".parquet" and path.is_file():
        return path
    inside = path / INDEX_PARQUET
    if not inside.is_file():
        return None
    if (path / "index.csv").exists():
        raise InputError(f"data {data}: has an index.csv and an {INDEX_PARQUET}", fix="keep one of the two")
    return inside


def read_parquet_table(path: Path) -> Table:
    """All rows of a Parquet manifest as those of a CSV file with the same columns would be read.

    Raises:
        InputError: not Parquet, an unknown or repeated column, no rows.
    """
    file = _open(path)
    names = file.schema_arrow.names
    columns = check_header(tuple(names), str(path))
    rows: list[Cells] = []
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        for values in batch.to_pylist():
            cells = {column: _text(values[name]) for name, column in zip(names, columns, strict=True)}
            kept = {column: text for column, text in cells.items() if text}
            rows.append(Cells(where=f"{path} row {len(rows) + 1}", values=kept))
    if not rows:
        raise InputError(f"{path}: lists no clip", fix="write one row per clip")
    return Table(source=path, columns=columns, rows=tuple(rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """The rows of a manifest that a run reads, in Arrow's layout, mapped from a file; ``n_left_out`` are the others.

    ``pages`` is the mapping under ``table``.
    """

    source: Path
    name: str
    table: Any
    pages: mmap.mmap
    sha256: str
    n_left_out: int

    def captions(self) -> Iterator[str]:
        """The captions, to learn a vocabulary from.

        Raises:
            InputError: there are too many to hold.
        """
        if "caption" not in self.table.column_names:
            return
        column = self.table["caption"]
        if len(column) - column.null_count > MAX_CAPTIONS:
            raise InputError(
                f"{self.source}: {len(column) - column.null_count:,} captions to learn a vocabulary from",
                fix="name a tokenizer.json in data.tokenizer, or set data.captions=none",
            )
        for chunk in column.chunks:
            yield from (text for text in chunk.to_pylist() if text is not None)


class ColumnRows(Sequence[Row]):
    """Rows that are made when they are asked for, each checked then as a CSV manifest checks them all beforehand."""

    def __init__(self, mapped: Mapped, name: str) -> None:
        folder = mapped.source.parent
        self._mapped, self._prefix = mapped, f"{name}/"
        self._files = Files(folder=folder, real_folder=Path(os.path.realpath(folder)), is_missing_kept=False)
        self._n_read = 0
        self._columns = {column: mapped.table[column] for column in mapped.table.column_names}
        self._packed = (
            read_packed_file(self._files) if "start" in self._columns else PackedFile(is_there=False, offsets=None)
        )

    def __len__(self) -> int:
        return int(self._mapped.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        self._forget_pages()
        texts = {name: _text(column[index].as_py()) for name, column in self._columns.items()}
        values = {name: text for name, text in texts.items() if text}
        cells = Cells(where=f"{self._mapped.source}, clip {values.get('clip_id')!r}", values=values)
        row = read_row(cells, self._files, None, self._packed)
        return replace(row, clip_id=self._prefix + row.clip_id)

    def clip_id(self, index: int) -> str:
        self._forget_pages()
        return f"{self._prefix}{self._columns['clip_id'][index].as_py()}"

    def _forget_pages(self) -> None:
        """Now and then let go of the pages that were read, so that no process grows to the size of the file."""
        self._n_read += 1
        if self._n_read % _ROWS_HELD == 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.pages.madvise(mmap.MADV_DONTNEED)


def map_parquet(path: Path, config: Config) -> Mapped:
    """The rows of ``data.split``, and of none, that have one of the recipe's modalities.

    They are copied batch by batch into an uncompressed Arrow file that is then mapped: memory stays small, workers
    share it. It lies in ``data.cache_dir``, or in the system's folder for temporary files without a name.

    Raises:
        InputError: not Parquet, an unknown column, no id, no row left, captions of an unknown source.
    """
    file = _open(path)
    names = check_header(tuple(file.schema_arrow.names), str(path))
    given = dict(zip(names, file.schema_arrow.names, strict=True))
    if "clip_id" not in given:
        raise InputError(f"{path}: has no column clip_id", fix="give every clip an id")
    chosen = _Choice(path, config, given)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    n_rows = int(file.metadata.num_rows)

    def fill(target: BinaryIO) -> None:
        _copy(file, chosen, target)

    table, pages = _map(fill, f"{_VERSION}:{sha256}:{chosen.key}", config)
    if not table.num_rows:
        raise InputError(
            f"data {path}: no clip of split {config.data.split!r} has any of {', '.join(config.tokens.modalities)}",
            fix="choose another data.split or tokens.modalities",
        )
    folder = Path(os.path.realpath(path.parent))
    name = folder.name if path.name == INDEX_PARQUET else f"{folder.name}.{path.stem}"
    return Mapped(source=path, name=name, table=table, pages=pages, sha256=sha256, n_left_out=n_rows - table.num_rows)


class _Choice:
    """Which rows and columns a run reads; ``key`` names the choice."""

    def __init__(self, path: Path, config: Config, given: dict[str, str]) -> None:
        self.given, self._modalities, self._split = given, config.tokens.modalities, config.data.split
        self.split_column = next((given[name] for name in ("split", "split1") if name in given), None)
        is_text = "text" in config.tokens.modalities and config.data.captions != "none" and "caption" in given
        self._is_written_only = is_text and config.data.captions == "written"
        has_label = "label" in given or "label_id" in given
        if self._is_written_only and has_label and "caption_source" not in given:
            raise InputError(
                f"{path}: has labels and captions, but no column caption_source that tells written from composed ones",
                fix="add it, or set data.captions=all or none",
            )
        self.columns = [name for name in _READ if name in given and (is_text or name != "caption")]
        self.key = f"{self.columns}:{self._modalities}:{self._split}:{config.data.captions}"

    @property
    def read(self) -> list[str]:
        """The columns to read from the file, under their names there."""
        extra = [name for name in (self.split_column, self.given.get("caption_source")) if name is not None]
        return list(dict.fromkeys([self.given[name] for name in self.columns] + extra))

    def of(self, batch: Any) -> Any:
        """The chosen rows and columns of a batch."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = {name: batch[self.given[name]] for name in self.columns}
        if self._is_written_only and "caption_source" in self.given:
            source = batch[self.given["caption_source"]].cast(pa.string())
            is_composed = pc.fill_null(pc.starts_with(source, "composed"), False)
            columns["caption"] = pc.if_else(is_composed, pa.scalar(None, columns["caption"].type), columns["caption"])
        rows = pa.RecordBatch.from_pydict(columns)
        has_modality = list(self._present(columns))
        if not has_modality:
            return rows.slice(0, 0)
        kept = reduce(pc.or_, has_modality)
        if self.split_column is not None:
            split = batch[self.split_column].cast(pa.string())
            kept = pc.and_(kept, pc.is_in(split, value_set=pa.array([self._split, "", None])))
        return rows.filter(kept)

    def _present(self, columns: dict[str, Any]) -> Iterator[Any]:
        import pyarrow.compute as pc

        if "video" in self._modalities and "path" in columns:
            yield pc.is_valid(columns["path"])
        if "skeleton" in self._modalities:
            for name in ("joints_path", "start"):
                if name in columns:
                    is_there = pc.is_valid(columns[name])
                    if "has_joints" in columns:
                        is_there = pc.and_(is_there, pc.fill_null(pc.cast(columns["has_joints"], "bool"), True))
                    yield is_there
        if "text" in self._modalities and "caption" in columns:
            yield pc.is_valid(columns["caption"])


def _copy(file: Any, chosen: _Choice, target: BinaryIO) -> None:
    import pyarrow as pa

    writer = None
    # Threads would decode columns side by side, which takes more memory.
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=chosen.read, use_threads=False):
        part = chosen.of(batch)
        if writer is None:
            writer = pa.ipc.new_file(target, part.schema)
        writer.write_batch(part)
    if writer is None:
        raise InputError("a Parquet manifest without rows", fix="write one row per clip")
    writer.close()
    pa.default_memory_pool().release_unused()


def _map(fill: Any, key: str, config: Config) -> tuple[Any, mmap.mmap]:
    import pyarrow as pa

    if config.data.cache_dir is None:
        with tempfile.TemporaryFile() as file:  # mapped files outlive their names
            fill(file)
            file.flush()
            return _table(file.fileno(), pa)
    cache = BoundedFolder(Path(config.data.cache_dir), int(config.data.cache_dir_gib * 2**30))
    name = f"{hashlib.sha256(key.encode()).hexdigest()}.arrow"
    with (cache.find(name) or cache.write(name, fill)).open("rb") as file:
        return _table(file.fileno(), pa)


def _table(descriptor: int, pa: Any) -> tuple[Any, mmap.mmap]:
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):  # rows are read here and there: pages around them would only fill memory
        mapped.madvise(mmap.MADV_RANDOM)
    return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all(), mapped


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow", fix='pip install "oskar[parquet]"') from error
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})", fix="write the file again") from error


def _text(value: Any) -> str:
    """A value as the cell of a CSV file; empty for none."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value).strip()
