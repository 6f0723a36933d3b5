"""A run's encoders in Python: load, embed, done."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from oskar.clip import Clip
from oskar.config import Config
from oskar.data.people_reader import parse_people
from oskar.embedding.encode import Encoder, build_encoder
from oskar.embedding.file import EmbeddingRow, Embeddings, Pooling
from oskar.embedding.file import Source as SourceName
from oskar.embedding.inputs import Inputs, open_inputs
from oskar.embedding.job import LoadedBatches, encoded, loaded_batches, plan
from oskar.embedding.sources import ClipSource
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.sharing.load import load_pretrained
from oskar.sharing.pretrained import Pretrained
from oskar.sharing.saved import save_pretrained
from oskar.tasks.retrieval_head import RetrievalHead, load_retrieval_head
from oskar.train.device import choose_device

Given = str | Path | Clip


class LoadedModel:
    """Encoders that embed what they are given; ``oskar.load`` makes one."""

    def __init__(self, pretrained: Pretrained, head: RetrievalHead | None, device: torch.device) -> None:
        self.pretrained, self.head, self.device = pretrained, head, device

    @property
    def config(self) -> Config:
        """The configuration that the run was trained with."""
        return self.pretrained.config

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it can embed; with more than one of them, ``"fused"`` too."""
        return self.pretrained.modalities

    def embed(
        self,
        given: Given | Sequence[Given],
        modality: SourceName | None = None,
        pool: Pooling = "mean",
        windows: WindowConfig | None = None,
    ) -> Embeddings:
        """Vectors of paths, sentences or clips, in memory, with an index of what each is of.

        With ``modality="text"`` a ``str`` is a sentence and a ``Path`` a file of them; otherwise a ``str`` is a path.
        ``Clip`` objects are embedded as they are; they have the run's number of frames and resolution. The default
        modality is the run's first. Nothing is left out: the first thing that cannot be read is an error.

        Raises:
            InputError: a wrong modality or path, or what cannot be read or has no token.
        """
        chosen: SourceName = modality or self.modalities[0]
        several = [given] if isinstance(given, str | Path | Clip) else list(given)
        inputs = self._inputs(several, chosen)
        folder = None if inputs.folder is None else inputs.folder.as_posix()
        encoder = build_encoder(self.pretrained, chosen, pool, self.head, folder, self.device)
        return _in_memory(encoder, inputs, windows or WindowConfig())

    def save_pretrained(self, folder: str | Path, *, licence: str | None = None) -> None:
        """Write a folder to hand on; see ``oskar.sharing.saved.save_pretrained``."""
        save_pretrained(self.pretrained, Path(folder), licence=licence)

    def _inputs(self, given: Sequence[Given], modality: SourceName) -> Inputs:
        clips = [one for one in given if isinstance(one, Clip)]
        if clips:
            if len(clips) < len(given):
                raise InputError("clips and paths in one call", fix="embed them in two calls")
            return Inputs((ClipSource(clips, self.config),), None, 0)
        named = [one for one in given if isinstance(one, str | Path)]
        if modality != "text":
            return open_inputs(named, (), self.pretrained, modality)
        paths = [one for one in named if isinstance(one, Path) or parse_people(one) is not None]
        sentences = [one for one in named if isinstance(one, str) and one not in paths]
        return open_inputs(paths, sentences, self.pretrained, modality)


def load(run: str | Path, *, head: str | Path | None = None, device: str = "cpu") -> LoadedModel:
    """The encoders of a run, a checkpoint or a saved folder, ready to embed.

    ``head`` is an evaluation of text-video-retrieval, whose space clips and sentences share.

    Raises:
        InputError: nothing of the kind there, damaged, a pickle, or a head of another encoder.
    """
    pretrained = load_pretrained(run)
    learned = None if head is None else load_retrieval_head(Path(head), pretrained.transfer)
    return LoadedModel(pretrained, learned, choose_device(device))


def _in_memory(encoder: Encoder, inputs: Inputs, windows: WindowConfig) -> Embeddings:
    planned = plan(inputs.sources, windows, inputs.folder)
    dataset = LoadedBatches.of(encoder, inputs.sources, planned, inputs.folder)
    bad = list(planned.bad)
    parts: list[torch.Tensor] = []
    flags: list[torch.Tensor] = []
    rows: list[EmbeddingRow] = []
    for batch in loaded_batches(dataset, 0, workers=0):
        vectors, is_valid, done = encoded(encoder, batch)
        bad += done.bad
        parts.append(vectors)
        rows += done.rows
        flags += [] if is_valid is None else [is_valid]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(bad) + len(rows)} could not be embedded, the first is {bad[0]['clip_id']}: "
            f"{bad[0]['reason']}",
            fix="leave it out, or use `oskar embed`, which lists such clips and goes on",
        )
    numbered = tuple(replace(row, row=i) for i, row in enumerate(rows))
    is_valid = torch.cat(flags) if encoder.header.n_tokens is not None else None
    return Embeddings(header=encoder.header, vectors=torch.cat(parts), rows=numbered, is_valid=is_valid)
