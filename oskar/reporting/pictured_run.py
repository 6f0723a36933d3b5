"""What pictures are drawn from: the weights of a run beside those it started from, and clips of its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.open import OpenedData, open_split, open_training
from oskar.data.pooled_reader import concatenate
from oskar.data.reader import ClipReader, EvaluationWindow, TrainingDraw
from oskar.errors import InputError
from oskar.modalities import modality_specs
from oskar.pretraining import MaskedPrediction
from oskar.randomness import hash_id
from oskar.tasks.transfer import load_transfer
from oskar.tokens import token_sources
from oskar.tokens.words import Words
from oskar.train.checkpoint import latest_checkpoint, load_checkpoint, load_module_strict, under

TEST_SPLIT = "test"
MOST_CLIPS, FEWEST_CLIPS = 96, 12
_OPERATIONS = 2e12  # that encoding the pictured clips may take, once for the run and once for its control
_CLIPS_AT_ONCE = 8
N_DRAWN = 4  # clips of the batch that is drawn


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The module of a run and the same before its first step; ``step`` is that of the run's checkpoint.

    Without a checkpoint (None) only the encoders are the run's: there is no predictor.
    """

    run: MaskedPrediction
    start: MaskedPrediction
    step: int | None

    @property
    def has_predictor(self) -> bool:
        return self.step is not None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Clips of the run's data, read without anything random: ``classes[i]`` tells those of one class from others.

    ``labels`` are what a reader of the page is told of a clip: its class, its caption or nothing. ``drawn``
    are a few of them as training reads them at step 0. ``opened`` are the data they came from.
    """

    clips: ClipBatch
    clip_ids: tuple[str, ...]
    classes: tuple[tuple[int, int] | None, ...]
    labels: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]
    drawn: ClipBatch | None
    drawn_ids: tuple[str, ...]
    opened: tuple[OpenedData, ...]
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A run with clips of its data."""

    config: Config
    words: Words | None
    weights: Weights
    sample: Sample


def start_weights(config: Config) -> MaskedPrediction:
    """The weights a run starts from: those of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return _at_rest(MaskedPrediction(config))


def load_weights(run: Path, config: Config) -> Weights:
    """The newest checkpoint of a run, or its encoder where there is none.

    Raises:
        InputError: there is neither, or it is damaged.
    """
    start = start_weights(config)
    path = latest_checkpoint(run)
    if path is not None:
        tensors, state = load_checkpoint(path)
        module = MaskedPrediction(config)
        load_module_strict(module, under("module/", tensors), str(path))
        return Weights(_at_rest(module), start, int(state["step"]))
    if not (run / "encoder").is_dir():
        raise InputError(
            "the run has neither a checkpoint nor an encoder", fix="let it reach train.checkpoint_every_steps"
        )
    return Weights(_at_rest(load_transfer(run).module), start, None)


def places_of_data(environment: Mapping[str, Any] | None) -> list[str]:
    """Where the data of a run lay when it started, as its ``environment.json`` says; empty where it does not."""
    data = (environment or {}).get("data")
    known: Mapping[str, Any] = data if isinstance(data, dict) else {}
    if isinstance(known.get("places"), list):
        return [str(place) for place in known["places"]]
    names = known.get("names")  # runs before places were kept: the built-in people need none
    return ["people"] if names == ["people"] else []


def take_sample(data: Sequence[str], config: Config, words: Words | None) -> Sample:
    """Read clips evenly from the test split of each of the data, or from what trains where there is none.

    Raises:
        InputError: data that cannot be opened, or of which no clip can be read.
    """
    captions = "none" if words is None else config.data.captions
    config = replace(config, data=replace(config.data, captions=captions, tokenizer=None, cache_dir=None))
    opened, splits = zip(*(_open(name, config, words) for name in data), strict=True)
    per_reader = -(-_n_clips(config) // len(opened))
    batches: list[ClipBatch] = []
    names: list[tuple[int, int]] = []
    bad: list[tuple[str, str]] = []
    for which, part in enumerate(opened):
        chosen = _evenly(len(part.reader), per_reader)
        for start in range(0, len(chosen), _CLIPS_AT_ONCE):
            some = chosen[start : start + _CLIPS_AT_ONCE]
            read = part.reader.read(some, EvaluationWindow())
            bad += read.bad
            if read.clips is None:
                continue
            batches.append(read.clips)
            index_of = {hash_id(part.reader.clip_id(i)): i for i in some}
            names += [(which, index_of[number]) for number in read.clips.clip_ids.tolist()]
    if not batches:
        raise InputError(
            f"no clip of {', '.join(data)} can be read ({bad[0][0]}: {bad[0][1]})", fix="name other data with --data"
        )
    clips = concatenate(batches)
    drawn, drawn_ids = _as_trained(opened, names, config)
    return Sample(
        clips=clips,
        clip_ids=tuple(opened[which].reader.clip_id(i) for which, i in names),
        classes=tuple(_class(opened[which].reader, which, i) for which, i in names),
        labels=tuple(_label(opened[which].reader, i, clips, row, words) for row, (which, i) in enumerate(names)),
        bad=tuple(bad),
        drawn=drawn,
        drawn_ids=drawn_ids,
        opened=opened,
        source=f"{len(names)} clips, evenly from {', '.join(splits)}",
    )


def thumbnail_clip(opened: Sequence[OpenedData], clip_id: str) -> ClipBatch | None:
    """A clip of the data by its id; None where it is not there or cannot be read."""
    for part in opened:
        for index in range(len(part.reader)):
            if part.reader.clip_id(index) == clip_id:
                return part.reader.read([index], EvaluationWindow()).clips
    return None


def _at_rest(module: MaskedPrediction) -> MaskedPrediction:
    resting: nn.Module = module.eval().requires_grad_(False)
    assert isinstance(resting, MaskedPrediction)
    return resting


def _open(name: str, config: Config, words: Words | None) -> tuple[OpenedData, str]:
    try:
        opened = open_split([name], config, words, TEST_SPLIT)
        split = f"split {TEST_SPLIT}"
    except InputError:  # without such a split; if the data are not there, opening them again says so
        opened, split = open_training([name], config, words), "the clips it trains on"
    return opened, f"{', '.join(opened.names)} ({split})"


def _n_clips(config: Config) -> int:
    """As many clips as can be encoded in a bearable time, whatever the size of the model."""
    specs = modality_specs(config.tokens)
    n_parameters = 12 * config.model.width**2 * config.model.n_blocks
    n_tokens = sum(spec.n_tokens for spec in specs.values())
    return int(min(max(_OPERATIONS / (2 * n_parameters * n_tokens), FEWEST_CLIPS), MOST_CLIPS))


def _evenly(n: int, n_wanted: int) -> list[int]:
    chosen: list[int] = np.unique(np.linspace(0, n - 1, min(n, n_wanted)).round().astype(int)).tolist()
    return chosen


def _as_trained(
    opened: Sequence[OpenedData], names: Sequence[tuple[int, int]], config: Config
) -> tuple[ClipBatch | None, tuple[str, ...]]:
    """A few of the clips in the windows and crops of training step 0."""
    chosen = [names[i] for i in _evenly(len(names), N_DRAWN)]
    reads = [opened[which].reader.read([i], TrainingDraw(config.train.seed, 0)) for which, i in chosen]
    ids = tuple(
        opened[which].reader.clip_id(i)
        for (which, i), read in zip(chosen, reads, strict=True)
        if read.clips is not None
    )
    batches = [read.clips for read in reads if read.clips is not None]
    return (concatenate(batches) if batches else None), ids


def _class(reader: ClipReader, which: int, index: int) -> tuple[int, int] | None:
    label = reader.label(index)
    return (which, label) if label >= 0 else None


def _label(reader: ClipReader, index: int, clips: ClipBatch, row: int, words: Words | None) -> str:
    label = reader.label(index)
    if label >= 0 and label < len(reader.classes):
        return reader.classes[label].replace("_", " ")
    return caption_of(clips, row, words)


def caption_of(clips: ClipBatch, row: int, words: Words | None) -> str:
    """The caption that a clip's word ids spell, as far as the vocabulary has its words."""
    if clips.word_ids is None or words is None:
        return ""
    pieces = [str(words.tokenizer.id_to_token(i)) for i in clips.word_ids[row].tolist() if i >= 0]
    return " ".join(pieces).replace(" ##", "")


def has_all(clips: ClipBatch, config: Config) -> int:
    """The clip in the middle of those that have the most of the recipe's modalities."""
    sources = token_sources(clips, config.tokens)
    counts = torch.stack([source.is_valid.any(1) for source in sources.values()]).sum(0)
    rows = (counts == counts.max()).nonzero().squeeze(1)
    return int(rows[len(rows) // 2])
