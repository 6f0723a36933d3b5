"""``oskar embed``: features of videos, skeletons and sentences in one file, with an index of what each row is."""

import csv
import io
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from oskar.embedding.encode import Encoder, build_encoder
from oskar.embedding.file import (
    EmbeddingHeader,
    EmbeddingRow,
    Embeddings,
    Pooling,
    bad_path,
    index_path,
    require_suffix,
    write_embeddings,
)
from oskar.embedding.file import Source as SourceName
from oskar.embedding.inputs import Inputs, open_inputs
from oskar.embedding.job import LoadedBatches, Plan, encoded, identity, loaded_batches, plan
from oskar.embedding.parquet import require_pyarrow
from oskar.embedding.partial import Partial, partial_path
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError, InterruptedRunError
from oskar.files import write_text_atomic
from oskar.progress import Progress
from oskar.settings import require
from oskar.sharing.load import load_pretrained
from oskar.tasks.retrieval_head import load_retrieval_head
from oskar.train.device import choose_device, cpu_threads
from oskar.train.precision import choose_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """What of the clips becomes a vector, and how it is computed; ``split`` None takes all rows."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    modality: SourceName = "video"
    pool: Pooling = "mean"
    windows: WindowConfig = field(default_factory=WindowConfig)
    split: str | None = None
    workers: int = 1
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        require(self.workers >= 0, "--workers", self.workers, "use 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedSummary:
    """What a command did: rows written, ``n_new`` of them in ``seconds``; what was bad, and what lacks the modality."""

    out: Path
    n_rows: int
    n_new: int
    n_bad: int
    n_left_out: int
    width: int
    seconds: float
    wait_share: float


def embed(
    run: Path,
    paths: Sequence[str | Path],
    out: Path,
    config: EmbedConfig,
    *,
    text: Sequence[str] = (),
    head: Path | None = None,
) -> EmbedSummary:
    """Embed what paths and sentences name into ``out``; see ``docs/embed.md`` for the files.

    An interrupted job leaves its rows in ``OUT.partial``; the same call goes on from them, and ends with the file
    an uninterrupted one would have written. What cannot be read is listed in ``OUT.bad.csv``.

    Raises:
        InputError: wrong run, path, modality or head, a file that is there already, rows of another job, or nothing
            that could be embedded.
        InterruptedRunError: after a signal.
        StoppedRunError: a file cannot be written.
    """
    _require_new(out)
    pretrained = load_pretrained(run)
    inputs = open_inputs(paths, text, pretrained, config.modality, config.split)
    learned = None if head is None else load_retrieval_head(head, pretrained.transfer)
    folder = None if inputs.folder is None else inputs.folder.as_posix()
    device = choose_device(config.device)
    encoder = build_encoder(pretrained, config.modality, config.pool, learned, folder, device)
    with cpu_threads(config.workers):
        encoder = replace(encoder, precision=choose_precision(config.precision, device))
        return _embed(encoder, inputs, out, config)


def _embed(encoder: Encoder, inputs: Inputs, out: Path, config: EmbedConfig) -> EmbedSummary:
    planned = plan(inputs.sources, config.windows, inputs.folder)
    dataset = LoadedBatches.of(encoder, inputs.sources, planned, inputs.folder)
    partial = Partial(partial_path(out), encoder.row_shape, _job(encoder, inputs, planned, config))
    started, waited, n_before = time.perf_counter(), 0.0, len(partial.rows)
    n_done = partial.n_batches * encoder.clips_at_once
    with (
        _stopped_by_signal() as stop,
        Progress(len(planned.units), min(n_done, len(planned.units)), "rows") as progress,
    ):
        loaded = iter(loaded_batches(dataset, partial.n_batches, config.workers))
        for _ in range(partial.n_batches, len(dataset)):
            before = time.perf_counter()
            batch = next(loaded)
            waited += time.perf_counter() - before
            vectors, is_valid, batch = encoded(encoder, batch)
            partial.append(vectors, is_valid, [asdict(row) for row in batch.rows], batch.bad)
            progress.advance(waited / (time.perf_counter() - started), batch.n_units)
            if stop:
                name = signal.Signals(stop[0]).name
                raise InterruptedRunError(
                    f"{name} after {len(partial.rows)} rows, which wait in {partial.folder}",
                    fix="go on by the same command",
                )
    seconds = time.perf_counter() - started
    bad = [*planned.bad, *partial.bad]
    _write_bad(out, bad)
    if not partial.rows:
        raise InputError(
            f"none of {len(bad)} clips could be embedded, the first is {bad[0]['clip_id']}: {bad[0]['reason']}",
            fix=f"see {bad_path(out)}",
        )
    write_embeddings(out, collected(encoder.header, partial))
    partial.remove()
    return EmbedSummary(
        out=out,
        n_rows=len(partial.rows),
        n_new=len(partial.rows) - n_before,
        n_bad=len(bad),
        n_left_out=inputs.n_left_out,
        width=encoder.header.width,
        seconds=seconds,
        wait_share=waited / max(seconds, 1e-9),
    )


def collected(header: EmbeddingHeader, partial: Partial) -> Embeddings:
    rows = tuple(EmbeddingRow(**{**row, "row": i}) for i, row in enumerate(partial.rows))
    return Embeddings(header=header, vectors=partial.vectors(), rows=rows, is_valid=partial.is_valid())


def _job(encoder: Encoder, inputs: Inputs, planned: Plan, config: EmbedConfig) -> dict[str, Any]:
    """What must not change between an interruption and going on."""
    return {
        "header": asdict(encoder.header),
        "windows": asdict(config.windows),
        "precision": str(encoder.precision.dtype),
        "files": identity(inputs.sources, planned.units),
    }


def _require_new(out: Path) -> None:
    require_suffix(out)
    if out.suffix == ".parquet":
        require_pyarrow()
    there = [path for path in (out, index_path(out)) if path.exists()]
    if there:
        raise InputError(f"--out {there[0]} is there already", fix="name another file, or remove this one")


def _write_bad(out: Path, bad: Sequence[Mapping[str, Any]]) -> None:
    path = bad_path(out)
    if not bad:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["clip_id", "path", "reason"])
    writer.writeheader()
    writer.writerows(bad)
    write_text_atomic(path, text.getvalue())


@contextmanager
def _stopped_by_signal() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C let a batch finish: their numbers come to the list. Handlers are put back."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
