"""Where a run predicts badly: the error of every token of a clip, averaged over many draws of its targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.masking.packing import build_batch
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.pretraining import MaskedPrediction
from oskar.reporting.exhibit import Block, Exhibit, Picture, Strip, Table, heat_map, heat_scale, png, smaller
from oskar.reporting.pictured_run import Scene, has_all
from oskar.tokens.layouts import INTERNAL

MOST_DRAWS, FEWEST_DRAWS = 96, 8
_OPERATIONS = 4e11
_DRAWS_AT_ONCE = 24
N_SHOWN_STEPS = 4
_TITLE = "Prediction error over space and time"


@dataclass(frozen=True, slots=True)
class ErrorMap:
    """Mean error ``[N]`` of each token of one clip and modality, NaN where it was a target in no draw."""

    errors: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Over the tokens that were targets; NaN where none was."""
        known = self.errors[~np.isnan(self.errors)]
        return float(known.mean()) if len(known) else float("nan")


def error_exhibit(scene: Scene) -> Exhibit:
    """The errors of one clip by the run and by the weights it started from, over the same draws."""
    config, weights = scene.config, scene.weights
    if not weights.has_predictor:
        return Exhibit(_TITLE, ("The run has no checkpoint any more, and its encoder alone predicts nothing.",))
    row = has_all(scene.sample.clips, config)
    n_draws = draws_of(config)
    maps = {
        name: clip_errors(module, scene.sample.clips, row, config, n_draws)
        for name, module in (("run", weights.run), ("random weights", weights.start))
    }
    paragraphs = (
        f"Clip {scene.sample.clip_ids[row]}, with {n_draws} draws of visible and target tokens. The error of a token "
        "is the mean over the draws in which it was a target, as the loss counts it; crossed cells never were. Random "
        "weights are those the run started from: they predict what their own targets are, over the same draws.",
        *(
            ["Where targets are latents of unit size, an error near 1 is what predicting nothing earns."]
            if config.target.space == "latent" and config.target.loss == "mse" and config.target.normalise
            else []
        ),
    )
    blocks = [_means(maps)]
    for name in maps["run"]:
        by_weights = {weights_name: by_modality[name] for weights_name, by_modality in maps.items()}
        if name == "video":
            blocks.append(_video(scene, row, by_weights))
        elif name == "skeleton":
            blocks.append(_skeleton(config, by_weights))
        else:
            blocks.append(_words(scene, row, by_weights))
    return Exhibit(_TITLE, paragraphs, tuple(blocks))


def draws_of(config: Config) -> int:
    """Draws that a model of this size can make in a bearable time."""
    specs = modality_specs(config.tokens)
    n_all = sum(spec.n_tokens for spec in specs.values())
    masking = config.masking
    is_all_seen = config.target.context == "all" or masking.n_visible is None or masking.n_target is None
    n_seen = 2 * n_all if is_all_seen else (masking.n_visible or 0) + 2 * (masking.n_target or 0)
    n_parameters = 12 * config.model.width**2 * config.model.n_blocks
    return int(min(max(_OPERATIONS / (2 * n_parameters * n_seen), FEWEST_DRAWS), MOST_DRAWS))


def repeated(clips: ClipBatch, rows: Tensor, first: int = 0) -> ClipBatch:
    """The clips at ``rows`` int64 ``[n]``, numbered from ``first``, so that each is masked in its own way."""
    return replace(clips.rows(rows), clip_ids=torch.arange(first, first + len(rows)))


@torch.no_grad()
def clip_errors(
    module: MaskedPrediction, clips: ClipBatch, row: int, config: Config, n_draws: int
) -> dict[Modality, ErrorMap]:
    """The error map of every modality of one clip."""
    specs = modality_specs(config.tokens)
    sums = {name: torch.zeros(spec.n_tokens, dtype=torch.float64) for name, spec in specs.items()}
    counts = {name: torch.zeros(spec.n_tokens, dtype=torch.float64) for name, spec in specs.items()}
    for first in range(0, n_draws, _DRAWS_AT_ONCE):
        n = min(_DRAWS_AT_ONCE, n_draws - first)
        batch = build_batch(repeated(clips, torch.full((n,), row), first), config, 0)
        for output in module.compare(batch):
            errors = output.comparison.error.flatten().double()
            for name, tokens in output.target.tokens.items():
                sums[name].index_add_(0, tokens.token_idx, errors[tokens.slots])
                counts[name].index_add_(0, tokens.token_idx, torch.ones_like(errors[tokens.slots]))
    maps = {name: ErrorMap((sums[name] / counts[name]).numpy()) for name in specs}  # 0 / 0 is NaN
    return {name: found for name, found in maps.items() if not np.isnan(found.errors).all()}


def _means(maps: dict[str, dict[Modality, ErrorMap]]) -> Block:
    names = list(maps["run"])
    rows = tuple((name, *(f"{by_modality[name].mean:.3f}" for by_modality in maps.values())) for name in names)
    return Block(table=Table("Mean error of the clip's tokens.", ("modality", *maps), rows))


def shown_steps(n_steps: int) -> list[int]:
    """At most ``N_SHOWN_STEPS`` of the time steps, evenly."""
    chosen: list[int] = np.unique(np.linspace(0, n_steps - 1, min(n_steps, N_SHOWN_STEPS)).round().astype(int)).tolist()
    return chosen


def frame_strip(clips: ClipBatch, row: int, config: Config) -> Strip:
    """The first frames of the shown time steps of a clip that has a video."""
    assert clips.frames is not None
    frames = [
        (step * config.tokens.tubelet_frames, clips.frames[row, step * config.tokens.tubelet_frames])
        for step in shown_steps(config.tokens.n_frames // config.tokens.tubelet_frames)
    ]
    pictures = (
        Picture(
            source=png(smaller(frame.permute(1, 2, 0).contiguous().numpy())),
            alt=f"Frame {number}",
            caption=f"frame {number}",
        )
        for number, frame in frames
    )
    return Strip("the clip", tuple(pictures))


def _range(maps: dict[str, ErrorMap]) -> tuple[float, float]:
    values = np.concatenate([found.errors for found in maps.values()])
    values = values[~np.isnan(values)]
    return float(values.min()), float(values.max())


def _video(scene: Scene, row: int, maps: dict[str, ErrorMap]) -> Block:
    tokens = scene.config.tokens
    n_steps, side = tokens.n_frames // tokens.tubelet_frames, tokens.resolution // tokens.patch_size
    low, high = _range(maps)
    strips = [frame_strip(scene.sample.clips, row, scene.config)]
    for name, found in maps.items():
        grid = found.errors.reshape(n_steps, side, side)
        strips.append(
            Strip(name, tuple(_map_picture(name, step, grid[step], low, high) for step in shown_steps(n_steps)))
        )
    return Block(heading="Video", strips=tuple(strips), scale=heat_scale(low, high))


def _map_picture(name: str, step: int, grid: npt.NDArray[np.float64], low: float, high: float) -> Picture:
    known = grid[~np.isnan(grid)]
    mean = f"mean {known.mean():.3f}" if len(known) else "no target"
    alt = f"Errors of {name} at time step {step}, {mean}"
    return Picture(source=png(heat_map(grid, low, high)), alt=alt, caption=mean)


def _skeleton(config: Config, maps: dict[str, ErrorMap]) -> Block:
    """Of every person, time down and joints across; people without a target are left out."""
    low, high = _range(maps)
    strips = []
    for name, found in maps.items():
        people = found.errors.reshape(config.tokens.n_people, -1, N_JOINTS)
        pictures = [
            Picture(
                source=png(heat_map(person, low, high)),
                alt=f"Errors of {name} for person {number}: {_worst_joints(person)}",
                caption=f"person {number}; {_worst_joints(person)}",
            )
            for number, person in enumerate(people)
            if not np.isnan(person).all()
        ]
        strips.append(Strip(name, tuple(pictures), is_wide=True))
    note = f"A row is a time segment, a column a joint: {', '.join(joint.replace('_', ' ') for joint in INTERNAL)}."
    return Block(heading="Skeleton", note=note, strips=tuple(strips), scale=heat_scale(low, high))


def _worst_joints(person: npt.NDArray[np.float64], n: int = 2) -> str:
    known = ~np.isnan(person)
    means = np.where(known, person, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    worst: Sequence[int] = np.argsort(-np.where(known.any(0), means, -np.inf))[:n].tolist()
    return "worst " + ", ".join(f"{INTERNAL[joint].replace('_', ' ')} {means[joint]:.2f}" for joint in worst)


def _words(scene: Scene, row: int, maps: dict[str, ErrorMap]) -> Block:
    ids, words = scene.sample.clips.word_ids, scene.words
    assert ids is not None
    assert words is not None
    pieces = []
    for place, word_id in enumerate(ids[row].tolist()):
        values = [found.errors[place] for found in maps.values()]
        if word_id >= 0:
            shown = ("never" if np.isnan(value) else f"{value:.2f}" for value in values)
            pieces.append((str(words.tokenizer.id_to_token(word_id)), " / ".join(shown)))
    return Block(heading="Text", note=f"Under each word piece: {' / '.join(maps)}.", words=tuple(pieces))
