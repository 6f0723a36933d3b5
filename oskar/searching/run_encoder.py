"""Queries through the run that embedded an index, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from oskar.embedding.encode import Encoder, build_encoder
from oskar.embedding.file import Embeddings, Pooling, Source
from oskar.embedding.inputs import open_inputs
from oskar.embedding.job import LoadedBatches, encoded, plan
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError
from oskar.searching.database import Database
from oskar.searching.queries import require_same_hash
from oskar.sharing.load import load_pretrained
from oskar.sharing.pretrained import Pretrained
from oskar.tasks.retrieval_head import RetrievalHead, load_retrieval_head


@dataclass(frozen=True, slots=True, eq=False)
class RunEncoder:
    """A run's encoders, each built when it is first needed, and a retrieval head."""

    pretrained: Pretrained
    head: RetrievalHead | None
    _built: dict[tuple[Source, Pooling, bool], Encoder] = field(default_factory=dict)

    @property
    def has_head(self) -> bool:
        return self.head is not None

    def encode(self, modality: Source, given: Sequence[str | Path], pooling: Pooling, *, is_common: bool) -> Embeddings:
        """Embed sentences or files, each whole, as ``oskar embed`` would; one row each, in order.

        Raises:
            InputError: a modality that the run or head lacks, a file that cannot be read, a sentence without a word.
        """
        encoder = self._encoder(modality, pooling, is_common=is_common)
        parts = [self._one(encoder, modality, item) for item in given]
        rows = tuple(replace(part.rows[0], row=i) for i, part in enumerate(parts))
        return Embeddings(header=encoder.header, vectors=torch.cat([part.vectors for part in parts]), rows=rows)

    def _one(self, encoder: Encoder, modality: Source, item: str | Path) -> Embeddings:
        """One query by itself, so that two of one name cannot meet; a sentence is never taken for a name of data."""
        if modality != "text" and not Path(item).is_file():
            raise InputError(f"query {item} is not a file", fix="name the video or joints of one clip")
        sentences = [str(item)] if modality == "text" else []
        inputs = open_inputs([] if sentences else [item], sentences, self.pretrained, modality)
        planned = plan(inputs.sources, WindowConfig(), inputs.folder)
        if len(planned.units) != 1:
            raise InputError(f"query {item}: {len(planned.units)} clips", fix="name the file of one clip")
        batches = LoadedBatches.of(encoder, inputs.sources, planned, inputs.folder)
        vectors, _, loaded = encoded(encoder, batches[0])
        if loaded.bad:
            raise InputError(f"query {item}: {loaded.bad[0]['reason']}", fix="query by another")
        return Embeddings(header=encoder.header, vectors=vectors, rows=tuple(loaded.rows))

    def _encoder(self, modality: Source, pooling: Pooling, *, is_common: bool) -> Encoder:
        key = (modality, pooling, is_common)
        if key not in self._built:
            self._built[key] = build_encoder(
                self.pretrained, modality, pooling, self.head if is_common else None, None, torch.device("cpu")
            )
        return self._built[key]


def encoder_of(run: Path, head: Path | None) -> RunEncoder:
    """The encoders of a run and, where ``head`` names one, its retrieval head.

    Raises:
        InputError: no run, a damaged one, or a head of another encoder.
    """
    pretrained = load_pretrained(run)
    return RunEncoder(pretrained, None if head is None else load_retrieval_head(head, pretrained.transfer))


def require_fits(encoder: RunEncoder, database: Database) -> None:
    """InputError, with both hashes, where an index is not of this run and head; nothing is encoded.

    The fusion encoder has weights and a hash of its own, which only a query tells.
    """
    card = database.card
    heads = {space.head_sha256 for space in card.spaces if space.head_sha256 is not None}
    is_fused = any(space.name == "fused" for space in card.spaces)
    pairs = [("preprocessing", card.preprocessing_sha256, encoder.pretrained.preprocessing_sha256)]
    if not is_fused:
        pairs.insert(0, ("model", card.model_sha256, encoder.pretrained.transfer.sha256))
    if encoder.head is not None and heads:
        pairs.append(("head", min(heads), encoder.head.sha256))
    for what, wanted, found in pairs:
        require_same_hash(what, wanted, found, database)
