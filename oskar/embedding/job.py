"""The items of a command as batches: planned before anything is decoded, read by a worker, encoded in order."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oskar.clip import Clip, collate_clips
from oskar.config import Config
from oskar.data.reader import Span
from oskar.data.stream import leave_signals_to_parent
from oskar.embedding.encode import Encoder, pack
from oskar.embedding.file import EmbeddingRow
from oskar.embedding.file import Source as SourceName
from oskar.embedding.sources import Hashes, Item, Source
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError
from oskar.masking.packing import PackedTokens


@dataclass(frozen=True, slots=True)
class Unit:
    """One vector to make: a window of an item; ``spans`` of a clip that is embedded whole are found when it is read."""

    source: int
    index: int
    window: int
    span: Span | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A batch that was read: the tokens of ``rows``, which are without their numbers yet, and what was bad."""

    packed: PackedTokens | None
    rows: list[EmbeddingRow]
    bad: list[dict[str, Any]]
    n_units: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All units in order, and the items whose windows could not be counted."""

    units: tuple[Unit, ...]
    bad: tuple[dict[str, Any], ...]


def plan(sources: Sequence[Source], windows: WindowConfig, folder: Path | None) -> Plan:
    """One unit for each item, or for each of its windows, for which every clip's length is looked at."""
    units: list[Unit] = []
    bad: list[dict[str, Any]] = []
    for s, source in enumerate(sources):
        for i, item in enumerate(source.items):
            if windows.kind == "clip":
                units.append(Unit(s, i, 0, None))
                continue
            try:
                spans = windows.spans(source.length(i), item.clip_id)
            except InputError as error:
                bad.append(bad_row(item, str(error), folder))
                continue
            units += [Unit(s, i, number, span) for number, span in enumerate(spans)]
    return Plan(tuple(units), tuple(bad))


def bad_row(item: Item, reason: str, folder: Path | None) -> dict[str, Any]:
    return {"clip_id": item.clip_id, "path": relative(item.path, folder), "reason": reason}


def identity(sources: Sequence[Source], units: Sequence[Unit]) -> str:
    """SHA-256 over what is embedded: ids, windows, texts, and size and time of change of every file."""
    digest = hashlib.sha256()
    for unit in units:
        item = sources[unit.source].items[unit.index]
        span = None if unit.span is None else [unit.span.first, unit.span.end]
        paths = dict.fromkeys(p for p in (item.path, item.joints_path, item.embedded) if isinstance(p, Path))
        stats = [[str(path), *_stat(path)] for path in paths]
        digest.update(json.dumps([item.clip_id, item.caption, unit.window, span, stats]).encode())
    return digest.hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


class LoadedBatches(Dataset[Loaded]):
    """Item k is the k-th ``batch_size`` units, read and packed; any process computes it from k alone."""

    def __init__(
        self,
        sources: Sequence[Source],
        units: Sequence[Unit],
        *,
        config: Config,
        modality: SourceName,
        batch_size: int,
        max_words: int,
        folder: Path | None,
    ) -> None:
        self._sources, self._units, self._config, self._modality = sources, units, config, modality
        self._batch_size, self._max_words, self._folder = batch_size, max_words, folder
        self._hashes = Hashes()

    @classmethod
    def of(cls, encoder: Encoder, sources: Sequence[Source], planned: Plan, folder: Path | None) -> "LoadedBatches":
        return cls(
            sources,
            planned.units,
            config=encoder.config,
            modality=encoder.modality,
            batch_size=encoder.clips_at_once,
            max_words=encoder.max_words,
            folder=folder,
        )

    def __len__(self) -> int:
        return math.ceil(len(self._units) / self._batch_size)

    def __getitem__(self, number: int) -> Loaded:
        units = self._units[number * self._batch_size : (number + 1) * self._batch_size]
        clips: list[Clip] = []
        rows: list[EmbeddingRow] = []
        bad: list[dict[str, Any]] = []
        start = 0
        while start < len(units):
            end = start + 1
            while end < len(units) and (units[end].source, units[end].index) == (
                units[start].source,
                units[start].index,
            ):
                end += 1
            item = self._sources[units[start].source].items[units[start].index]
            try:
                some_clips, some_rows = self._read(item, units[start:end])
            except (InputError, OSError) as error:
                bad.append(bad_row(item, str(error), self._folder))
            else:
                clips += some_clips
                rows += some_rows
            start = end
        packed, is_usable = self._pack(clips)
        for row, is_kept in zip(rows, is_usable, strict=True):
            if not is_kept:
                of_what = "any modality" if self._modality == "fused" else self._modality
                bad.append({"clip_id": row.clip_id, "path": row.path, "reason": f"no usable token of {of_what}"})
        kept = [row for row, is_kept in zip(rows, is_usable, strict=True) if is_kept]
        return Loaded(packed, kept, bad, len(units))

    def _pack(self, clips: Sequence[Clip]) -> tuple[PackedTokens | None, list[bool]]:
        if not clips:
            return None, []
        tokens = self._config.tokens
        batch = collate_clips(clips, n_words=tokens.n_words, n_people=tokens.n_people)
        packed, is_usable = pack(batch, self._config, self._modality)
        return packed, is_usable.tolist()

    def _read(self, item: Item, units: Sequence[Unit]) -> tuple[list[Clip], list[EmbeddingRow]]:
        """The windows of one item, and what the index says of them."""
        source, index = self._sources[units[0].source], units[0].index
        length = source.length(index)
        spans = [Span(0, length.n_frames) if unit.span is None else unit.span for unit in units]
        clips = [self._cut(clip) for clip in source.read(index, spans)]
        sha256 = self._hashes.of(item.embedded)
        n_shown = self._config.tokens.n_frames
        rows = [
            EmbeddingRow(
                row=0,
                clip_id=item.clip_id,
                path=relative(item.path, self._folder),
                start_seconds=None if length.fps is None else span.first / length.fps,
                end_seconds=None if length.fps is None else span.end / length.fps,
                fps=length.fps,
                stride_frames=(span.end - 1 - span.first) / max(n_shown - 1, 1) if length.n_frames else None,
                window=unit.window,
                caption=item.caption,
                label=item.label,
                label_id=item.label_id,
                subject=item.subject,
                split=item.split,
                source_sha256=sha256,
                metadata={**item.metadata, **_joints(item, self._folder)},
            )
            for unit, span in zip(units, spans, strict=True)
        ]
        return clips, rows

    def _cut(self, clip: Clip) -> Clip:
        return clip if clip.word_ids is None else dataclasses.replace(clip, word_ids=clip.word_ids[: self._max_words])


def _joints(item: Item, folder: Path | None) -> dict[str, str]:
    path = relative(item.joints_path, folder)
    return {} if path is None else {"joints_path": path}


def relative(path: Path | None, folder: Path | None) -> str | None:
    """A path from ``folder`` on, with slashes; whole where there is no folder or it lies outside."""
    if path is None:
        return None
    if folder is None:
        return str(path)
    whole = Path(os.path.abspath(path))
    real = whole if whole.is_relative_to(folder) else Path(os.path.realpath(path.parent)) / path.name
    return real.relative_to(folder).as_posix() if real.is_relative_to(folder) else str(whole)


def loaded_batches(dataset: LoadedBatches, first: int, workers: int) -> Iterator[Loaded]:
    """Batches from the ``first`` on, read ahead by ``workers`` processes (0: in this one)."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, len(dataset)),
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),
        prefetch_factor=2 if workers else None,
    )
    yield from loader


def encoded(encoder: Encoder, loaded: Loaded) -> tuple[Tensor, Tensor | None, Loaded]:
    """The vectors of a batch; rows whose vector is not finite go to ``bad``."""
    if loaded.packed is None:
        return torch.zeros(0, *encoder.row_shape), None, loaded
    vectors, is_valid = encoder(loaded.packed)
    is_finite = vectors.isfinite().flatten(1).all(1)
    if bool(is_finite.all()):
        return vectors, is_valid, loaded
    rows: list[EmbeddingRow] = []
    bad = list(loaded.bad)
    for row, is_kept in zip(loaded.rows, is_finite.tolist(), strict=True):
        if is_kept:
            rows.append(row)
        else:
            bad.append({"clip_id": row.clip_id, "path": row.path, "reason": "its vector is not finite"})
    is_valid = None if is_valid is None else is_valid[is_finite]
    return vectors[is_finite], is_valid, dataclasses.replace(loaded, rows=rows, bad=bad)
