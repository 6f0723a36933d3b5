"""Clips around key frames on their way through localization: as tokens, as cached feature grids, to scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.key_frame_reader import KeyFrameClips, KeyFrameReader
from oskar.data.key_frames import enlarge_boxes
from oskar.data.reader import EvaluationWindow
from oskar.masking.packing import PackedTokens
from oskar.progress import Progress
from oskar.tasks.features import tokens_of
from oskar.tasks.localization_head import ActionLocalization, BoxBatch, boxes_to_learn_from, feature_grids
from oskar.tasks.task import Backbone
from oskar.train.precision import PrecisionChoice

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class TokenBatches:
    """Builds what a module learns from: tokens, and jittered boxes with their classes ``[people, classes]``."""

    config: Config
    has_class: Tensor
    seed: int

    def __call__(self, clips: ClipBatch, step: int) -> BoxBatch:
        people = _with_people(clips)
        boxes, is_kept = boxes_to_learn_from(
            people.person_boxes, people.clip_idx, people.clip_ids, seed=self.seed, step=step
        )
        has_class = self.has_class[people.box_idx[is_kept]]
        packed = tokens_of(clips, self.config, "video")
        return BoxBatch(packed, boxes, people.clip_idx[is_kept], has_class, len(clips))


@dataclass(frozen=True, slots=True)
class CachedGrids:
    """Feature grids ``[B, D, Y, X]`` (bfloat16) of whole frames; the boxes of each clip's people and their rows.

    ``bad`` are (clip id, reason) of the clips that could not be read.
    """

    grids: Tensor
    clip_ids: Tensor
    boxes: tuple[Tensor, ...]
    box_idx: tuple[Tensor, ...]
    bad: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.grids)

    def batch(self, has_class: Tensor, seed: int, chosen: Tensor, step: int) -> BoxBatch:
        """Some clips with other boxes around their people at every step; ``has_class`` is ``[people, classes]``."""
        numbers = chosen.tolist()
        counts = torch.tensor([len(self.boxes[i]) for i in numbers])
        clip_idx = torch.arange(len(chosen)).repeat_interleave(counts)
        boxes, is_kept = boxes_to_learn_from(
            torch.cat([self.boxes[i] for i in numbers]), clip_idx, self.clip_ids[chosen], seed=seed, step=step
        )
        rows = torch.cat([self.box_idx[i] for i in numbers])[is_kept]
        return BoxBatch(self.grids[chosen], boxes, clip_idx[is_kept], has_class[rows], len(chosen))


def encode_grids(
    backbones: Sequence[Backbone],
    reader: KeyFrameReader,
    config: Config,
    *,
    precision: PrecisionChoice,
    device: torch.device,
) -> list[CachedGrids]:
    """The grids of all clips of a reader by every backbone; each clip is read once."""
    kept: list[list[Tensor]] = [[torch.empty(0, dtype=torch.bfloat16)] for _ in backbones]
    clip_ids = [torch.empty(0, dtype=torch.int64)]
    boxes: list[Tensor] = []
    box_idx: list[Tensor] = []
    bad: list[tuple[str, str]] = []
    for clips, packed in _read_all(reader, config, BATCH_SIZE, bad):
        counts = torch.bincount(clips.clip_idx, minlength=len(clips)).tolist()
        clip_ids.append(clips.clip_ids)
        boxes += torch.split(clips.person_boxes, counts)
        box_idx += torch.split(clips.box_idx, counts)
        for backbone, parts in zip(backbones, kept, strict=True):
            parts.append(_grids(backbone.to(device), packed.to(device), precision, device).bfloat16().cpu())
    return [CachedGrids(torch.cat(p), torch.cat(clip_ids), tuple(boxes), tuple(box_idx), tuple(bad)) for p in kept]


@dataclass(frozen=True, slots=True)
class ScoredPeople:
    """Probabilities ``[people, classes]`` by module, which rows have them (bool ``[people]``), and clips not read."""

    by_name: dict[str, NDArray[np.float64]]
    is_scored: NDArray[np.bool_]
    bad: tuple[tuple[str, str], ...]


@torch.no_grad()
def score_people(
    modules: Mapping[str, ActionLocalization],
    reader: KeyFrameReader,
    config: Config,
    *,
    batch_size: int,
    precision: PrecisionChoice,
    device: torch.device,
) -> ScoredPeople:
    """Sigmoids of every module for all people of a reader, in boxes enlarged by 10 % and 5 %; clips are read once."""
    n_people = len(reader.people.boxes)
    scores = {name: np.zeros((n_people, module.n_classes)) for name, module in modules.items()}
    is_scored = np.zeros(n_people, dtype=np.bool_)
    bad: list[tuple[str, str]] = []
    for module in modules.values():
        module.to(device).eval()
    for clips, packed in _read_all(reader, config, batch_size, bad):
        boxes = enlarge_boxes(clips.person_boxes).clamp(0.0, 1.0)
        rows = clips.box_idx.numpy()
        is_scored[rows] = True
        on_device = packed.to(device)
        grids_of = {b: _grids(b, on_device, precision, device) for b in {m.backbone for m in modules.values()}}
        for name, module in modules.items():
            found = module.classify(grids_of[module.backbone], boxes.to(device), clips.clip_idx.to(device))
            scores[name][rows] = found.double().sigmoid().cpu().numpy()
    return ScoredPeople(scores, is_scored, tuple(bad))


@torch.no_grad()
def _grids(backbone: Backbone, packed: PackedTokens, precision: PrecisionChoice, device: torch.device) -> Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_autocast):
        latents = backbone("video", packed)
    return feature_grids(latents, packed, backbone.config.tokens)


def _read_all(
    reader: KeyFrameReader, config: Config, batch_size: int, bad: list[tuple[str, str]]
) -> Iterator[tuple[KeyFrameClips, PackedTokens]]:
    """Every clip that can be read, whole; the others go to ``bad``."""
    with Progress(len(reader), unit="clips") as progress:
        for start in range(0, len(reader), batch_size):
            chosen = range(start, min(start + batch_size, len(reader)))
            read = reader.read(chosen, EvaluationWindow())
            bad += read.bad
            progress.advance(0.0, len(chosen))
            if read.clips is not None:
                yield _with_people(read.clips), tokens_of(read.clips, config, "video")


def _with_people(clips: ClipBatch) -> KeyFrameClips:
    if not isinstance(clips, KeyFrameClips):
        raise TypeError(f"{type(clips).__name__}: localization reads clips with people")
    return clips
