"""What the tests of searching share: made files of embeddings, and an encoder of queries that needs no run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oskar.embedding.file import EmbeddingHeader, EmbeddingRow, Embeddings, Pooling, Source, write_embeddings

MODEL, PREPROCESSING, HEAD = "a" * 64, "b" * 64, "c" * 64


def random_vectors(n: int, width: int = 6, seed: int = 0) -> Tensor:
    """Of any length, so that an index has something to normalise."""
    return torch.from_numpy(3 * np.random.default_rng(seed).normal(size=(n, width))).float()


def header(width: int, **changed: Any) -> EmbeddingHeader:
    values: dict[str, Any] = {
        "modality": "video", "pooling": "mean", "width": width, "model_sha256": MODEL,
        "preprocessing_sha256": PREPROCESSING,
    }  # fmt: skip
    return EmbeddingHeader(**{**values, **changed})


def write_file(path: Path, vectors: Tensor, rows: Sequence[dict[str, Any]] | None = None, **changed: Any) -> Path:
    """A file of ``vectors``, the clips c0, c1, ... unless ``rows`` say otherwise; ``changed`` goes to the header."""
    given = rows or [{} for _ in range(len(vectors))]
    made = tuple(EmbeddingRow(**{"row": i, "clip_id": f"c{i}", **row}) for i, row in enumerate(given))
    width = vectors.shape[1]
    write_embeddings(path, Embeddings(header=header(width, **changed), vectors=vectors, rows=made))
    return path


@dataclass
class FakeEncoder:
    """Queries whose vectors are given by name."""

    vectors: dict[str, Tensor]
    changed: dict[str, Any] = field(default_factory=dict)
    has_head: bool = True

    def encode(self, modality: Source, given: Sequence[str | Path], pooling: Pooling, *, is_common: bool) -> Embeddings:
        found = torch.stack([self.vectors[str(item)] for item in given])
        values = {"modality": modality, "pooling": pooling, "head_sha256": HEAD if is_common else None, **self.changed}
        rows = tuple(EmbeddingRow(row=i, clip_id=str(item)) for i, item in enumerate(given))
        return Embeddings(header=header(found.shape[1], **values), vectors=found, rows=rows)
