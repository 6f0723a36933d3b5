"""Queries through the run that embedded an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oskar.embedding.file import Embeddings, Source
from oskar.searching.database import Database


def encoder_of(run: Path, head: Path | None) -> "RunEncoder":
    raise NotImplementedError


@dataclass
class RunEncoder:
    has_head: bool = False

    def encode(self, modality: Source, given: Sequence[str | Path], pooling: str, *, is_common: bool) -> Embeddings:
        raise NotImplementedError

    def require_fits(self, database: Database) -> None:
        raise NotImplementedError
