"""All pictures of a run, as far as its data and weights are there; what is missing is said, the rest is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oskar.data.open import open_training
from oskar.errors import InputError
from oskar.reporting.drawn_clip import DrawnBatch, draw_batch, draw_people
from oskar.reporting.error_map import error_exhibit
from oskar.reporting.exhibit import Exhibit
from oskar.reporting.feature_pictures import component_exhibit, encode_both, neighbour_exhibit
from oskar.reporting.pictured_run import Sample, Scene, Weights, load_weights, places_of_data, take_sample
from oskar.reporting.poses import pose_exhibit
from oskar.reporting.retrieval_examples import retrieval_exhibit
from oskar.reporting.run_folder import RunFolder

_N_LISTED = 3


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is drawn, and ``notes`` on what could not be."""

    batch: DrawnBatch | None
    exhibits: tuple[Exhibit, ...]
    notes: tuple[str, ...]


def draw_pictures(run: RunFolder, data: Sequence[str]) -> Pictures:
    """Draw a run on clips of ``data``, or of the data that it says it learned from.

    Raises:
        InputError: ``data`` were named and cannot be read, or saved predictions are damaged.
    """
    notes: list[str] = []
    sample = _sample(run, data, notes)
    weights = _weights(run, notes)
    exhibits: list[Exhibit] = []
    if sample is not None and weights is not None:
        scene = Scene(run.config, run.words, weights, sample)
        features = encode_both(scene)
        exhibits += [error_exhibit(scene), component_exhibit(scene, features), neighbour_exhibit(scene, features)]
        if "skeleton" in run.modalities:
            exhibits.append(pose_exhibit(scene, run.path))
    if "text" in run.modalities:
        exhibits.append(retrieval_exhibit(run.path, () if sample is None else sample.opened))
    if sample is not None and sample.drawn is not None:
        batch: DrawnBatch | None = draw_batch(sample.drawn, sample.drawn_ids, run.config, run.words)
    else:
        batch = draw_people(run.config, run.words)
    return Pictures(batch, tuple(exhibits), tuple(notes))


def _sample(run: RunFolder, data: Sequence[str], notes: list[str]) -> Sample | None:
    places = list(data) or places_of_data(run.environment)
    if not places:
        notes.append("The run does not say where its data lie, so no clip of them is drawn: name them with --data.")
        return None
    try:
        sample = take_sample(places, run.config, run.words)
        known = _data_of(run).get("sha256")
        if known is not None and open_training(places, run.config, run.words).sha256 != known:
            notes.append(f"Clips are of {', '.join(places)}, which are not the data the run learned from.")
    except InputError as error:
        if data:
            raise
        notes.append(f"The data the run learned from cannot be read, so no clip of them is drawn: {error}")
        return None
    if sample.bad:
        listed = "; ".join(f"{name}: {reason}" for name, reason in sample.bad[:_N_LISTED])
        notes.append(f"{len(sample.bad)} of the clips chosen for pictures could not be read ({listed}).")
    return sample


def _weights(run: RunFolder, notes: list[str]) -> Weights | None:
    try:
        weights = load_weights(run.path, run.config)
    except InputError as error:
        notes.append(f"There are no weights to draw with: {error}")
        return None
    n_steps = run.config.train.steps
    if weights.step is not None and weights.step < n_steps:
        notes.append(f"Pictures are of step {weights.step:,} of {n_steps:,}, the newest checkpoint.")
    return weights


def _data_of(run: RunFolder) -> Mapping[str, Any]:
    data = (run.environment or {}).get("data")
    return data if isinstance(data, dict) else {}
