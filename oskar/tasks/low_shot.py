"""Recognition learned from few labels: nested random subsets of the training clips, mean and deviation over them."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from oskar.data.low_shot import low_shot_ids
from oskar.files import write_text_atomic
from oskar.modalities import Modality
from oskar.settings import require
from oskar.tasks import finetuning
from oskar.tasks.finetuning import FinetuneConfig, new_recogniser
from oskar.tasks.labelled import ENCODERS, LabelledData, ids_json, ids_sha256, labels_of, open_labelled
from oskar.tasks.recognition import ProbeConfig, encode_splits, fit_heads, score_heads
from oskar.tasks.saved_head import HEADS_FOLDER
from oskar.tasks.scored_clips import Conditions, ScoredClips, write_results
from oskar.train.device import choose_device
from oskar.train.precision import choose_precision

SHOTS = (0.05, 0.1, 0.5)

# From the name of an encoder, the ids of a subset and a folder to the scores of the heads that learned on it.
Learn = Callable[[str, tuple[str, ...], Path], ScoredClips]


@dataclass(frozen=True, kw_only=True, slots=True)
class LowShotConfig(ProbeConfig):
    """Frozen probes on shares of the training clips; ``steps`` are those of all of them: the epochs stay the same."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    shots: tuple[float, ...] = SHOTS
    subset_seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        ProbeConfig.__post_init__(self)
        _check(self.shots, self.subset_seeds, self.head)


@dataclass(frozen=True, kw_only=True, slots=True)
class LowShotFinetuneConfig(FinetuneConfig):
    """Fine-tuning on shares of the training clips; ``steps`` are those of all of them: the epochs stay the same."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    shots: tuple[float, ...] = SHOTS
    subset_seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        FinetuneConfig.__post_init__(self)
        _check(self.shots, self.subset_seeds, self.head)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """A share of the training clips of every class, drawn by a seed."""

    share: float
    seed: int
    ids: tuple[str, ...]

    @property
    def size_name(self) -> str:
        return f"{100 * self.share:g}_percent"

    @property
    def name(self) -> str:
        return f"{self.size_name}_seed{self.seed}"


def evaluate_low_shot(
    run: Path, data: list[str], modality: Modality, out: Path, config: LowShotConfig
) -> dict[str, Any]:
    """Frozen recognition from each subset; writes and returns ``summary.json``, and saves the lists of ids.

    ``predictions.csv`` has a column for each head, encoder and subset. Raises InputError as ``evaluate_recognition``.
    """
    opened = open_labelled(run, data, modality, out, config.split)
    device = choose_device(config.device)
    features = encode_splits(opened, config, config.seed, device)
    encoded = features[ENCODERS[0]].train
    assert encoded is not None

    def learn(name: str, ids: tuple[str, ...], folder: Path) -> ScoredClips:
        heads = fit_heads(features[name], opened, config, folder, device, ids=ids)
        return score_heads(heads, features[name].test, config, device)

    subsets = draw_subsets(labels_of(opened.train.reader), config.shots, config.subset_seeds)
    conditions = Conditions.of("low-shot", "frozen", config, len(encoded), dict(encoded.bad))
    return _evaluate(opened, subsets, learn, out, conditions)


def evaluate_low_shot_finetuned(
    run: Path, data: list[str], modality: Modality, out: Path, config: LowShotFinetuneConfig
) -> dict[str, Any]:
    """As ``evaluate_low_shot`` with the encoder fine-tuned on each subset."""
    opened = open_labelled(run, data, modality, out, config.split, config.clip)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    label_of, bad_train = labels_of(opened.train.reader), dict[str, str]()

    def learn(name: str, ids: tuple[str, ...], folder: Path) -> ScoredClips:
        steps = max(1, round(config.steps * len(ids) / len(label_of)))
        settings = dataclasses.replace(config, steps=steps)
        model = new_recogniser(opened, name, settings, config.seed)
        bad_train.update(finetuning.train(model, opened, settings, folder, precision, device, ids).bad)
        return finetuning.score(model, opened, settings, precision, device)

    subsets = draw_subsets(label_of, config.shots, config.subset_seeds)
    return _evaluate(
        opened, subsets, learn, out, Conditions.of("low-shot", "finetune", config, len(label_of), bad_train)
    )


def draw_subsets(label_of: Mapping[str, int], shots: Sequence[float], seeds: Sequence[int]) -> list[Subset]:
    """A subset of every share by every seed; those of one seed are nested."""
    return [
        Subset(share=share, seed=seed, ids=low_shot_ids(label_of, share=share, seed=seed))
        for share in shots
        for seed in seeds
    ]


def _check(shots: tuple[float, ...], seeds: tuple[int, ...], head: str | None) -> None:
    is_fine = bool(shots) and all(0 < share <= 1 for share in shots) and len(set(shots)) == len(shots)
    require(is_fine, "shots", shots, "use different shares above 0 and at most 1, such as [0.05,0.1,0.5]")
    require(
        bool(seeds) and len(set(seeds)) == len(seeds), "subset_seeds", seeds, "use different seeds, such as [0,1,2]"
    )
    require(head is None, "head", head, "leave it out: each subset has heads of its own")


def _evaluate(
    data: LabelledData, subsets: list[Subset], learn: Learn, out: Path, conditions: Conditions
) -> dict[str, Any]:
    """Save the lists of ids, learn on each of them, and write the results."""
    (out / "subsets").mkdir()
    saved = []
    for subset in subsets:
        file = f"subsets/{subset.name}.json"
        write_text_atomic(out / file, ids_json(subset.ids))
        described = {"share": subset.share, "seed": subset.seed, "n_clips": len(subset.ids), "ids": file}
        saved.append({**described, "ids_sha256": ids_sha256(subset.ids)})
    scored = {
        f"{name}_{subset.name}": learn(name, subset.ids, out / HEADS_FOLDER / name / subset.name)
        for subset in subsets
        for name in ENCODERS
    }
    each = {name: _by_subset(name, subsets, scored, len(labels_of(data.test.reader))) for name in ENCODERS}
    values = {name: _mean_and_deviation(accuracies) for name, accuracies in each.items()}
    facts = {"subsets": saved, "accuracies_by_seed": each}
    return write_results(out, data, scored, values, dataclasses.replace(conditions, facts=facts))


def _by_subset(
    name: str, subsets: list[Subset], scored: Mapping[str, ScoredClips], n_expected: int
) -> dict[str, list[float]]:
    """Accuracies of an encoder by head and share, in the order of the seeds."""
    values: dict[str, list[float]] = {}
    for subset in subsets:
        for key, accuracy in scored[f"{name}_{subset.name}"].accuracies(n_expected).items():
            head, _, top = key.rpartition("_")
            values.setdefault(f"{head}_{subset.size_name}_{top}", []).append(accuracy)
    return values


def _mean_and_deviation(accuracies: Mapping[str, list[float]]) -> dict[str, float | None]:
    """The mean of each, and the sample deviation as ``<name>_std``, None of a single value."""
    means = {key: statistics.fmean(each) for key, each in accuracies.items()}
    deviations = {f"{key}_std": statistics.stdev(e) if len(e) > 1 else None for key, e in accuracies.items()}
    return {**means, **deviations}
