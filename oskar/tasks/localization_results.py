"""Who is tested, and what the scores are worth: files in AVA's format, frame mAP, chance."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.data.boxes import LabelledBoxes, PersonBoxes, ScoredBoxes, score_every_class
from oskar.data.formats.ava import read_detections, read_labels, write_detections, write_labels
from oskar.data.formats.ava_people import read_people
from oskar.data.key_frame_data import KeyFrameData
from oskar.errors import InputError
from oskar.metrics.detection import FrameMAP, frame_map

TRUTH = "truth"  # instead of the path of a file of boxes
GROUND_TRUTH_FILE = "ground_truth.csv"

Measured = dict[str, FrameMAP]  # by protocol


@dataclass(frozen=True, slots=True)
class TestedPeople:
    """Whose actions are told: people with the detector's score, and how many found boxes were left out."""

    people: PersonBoxes
    n_below_score: int
    n_elsewhere: int  # on images that the split does not have, or that are excluded

    @property
    def images(self) -> tuple[str, ...]:
        """The images that show somebody, in the order of the table."""
        return tuple(self.people.images[i] for i in np.unique(self.people.image_idx).tolist())


def people_to_test(data: KeyFrameData, boxes: str, image_table: str | None, min_score: float) -> TestedPeople:
    """People of the ground truth (score 1) or of a file of detections, on images that are not excluded.

    Raises InputError where none is left.
    """
    if boxes == TRUTH:
        truth, ones = data.truth, np.ones(len(data.truth.boxes))
        people = PersonBoxes(images=truth.images, image_idx=truth.image_idx, boxes=truth.boxes, scores=ones)
    else:
        people = read_people(Path(boxes), None if image_table is None else Path(image_table))
    is_sure = (people.scores >= min_score) | (boxes == TRUTH)
    is_here = np.array([data.has_image(i) and i not in data.excluded for i in people.images], dtype=np.bool_)
    is_tested = is_sure & is_here[people.image_idx]
    if not is_tested.any():
        example = data.truth.images[0] if data.truth.images else "video,0902"
        raise InputError(
            f"boxes = {boxes}: of {len(is_sure)} people {int(is_sure.sum())} have a score of {min_score:g} or more,"
            f" none of them on an image of data {data.name}",
            fix=f"lower min_box_score, or name images as the data do, such as {example}",
        )
    return TestedPeople(some_people(people, is_tested), int((~is_sure).sum()), int((is_sure & ~is_tested).sum()))


def some_people(people: PersonBoxes, chosen: NDArray[Any]) -> PersonBoxes:
    """Some rows, by bool or by index; the images stay."""
    return PersonBoxes(
        images=people.images,
        image_idx=people.image_idx[chosen],
        boxes=people.boxes[chosen],
        scores=people.scores[chosen],
    )


def write_ground_truth(folder: Path, data: KeyFrameData) -> LabelledBoxes:
    """Write it, and give back what the file says: people with one box in one image are one."""
    write_labels(folder / GROUND_TRUTH_FILE, data.truth)
    return read_labels(folder / GROUND_TRUTH_FILE)


def write_and_measure(
    path: Path, truth: LabelledBoxes, people: PersonBoxes, scores: NDArray[np.float64], data: KeyFrameData
) -> Measured:
    """Write detections, probability ``[people, classes]`` times the person's score; measure what the file says."""
    write_detections(path, score_every_class(people, scores * people.scores[:, None]))
    return measure(truth, read_detections(path), data)


def measure(truth: LabelledBoxes, detections: ScoredBoxes, data: KeyFrameData) -> Measured:
    """Frame mAP by both protocols."""
    return {
        "exclusion": frame_map(truth, detections, classes=data.classes, protocol="exclusion", excluded=data.excluded),
        "activitynet": frame_map(truth, detections, classes=data.classes, protocol="activitynet"),
    }


def chance(
    truth: LabelledBoxes, people: PersonBoxes, data: KeyFrameData, train: KeyFrameData, seed: int
) -> dict[str, Any]:
    """What scores that know nothing of the picture get, times the person's score.

    ``chance`` draws them uniformly. ``class_prior`` is each class's share of the people learnt from,
    ties in an order drawn by the seed: in that of the file, data sorted by class would win.
    """
    rng = np.random.default_rng(seed)
    shuffled = some_people(people, rng.permutation(len(people.boxes)))
    shape = len(people.boxes), data.n_classes
    prior = train.truth.label_matrix(data.n_classes).mean(axis=0)
    drawn = {"chance": rng.random(shape), "class_prior": np.tile(prior, (len(people.boxes), 1))}
    return {
        name: values(measure(truth, score_every_class(shuffled, scores * shuffled.scores[:, None]), data))
        for name, scores in drawn.items()
    }


def values(measured: Measured) -> dict[str, float | None]:
    """The two means in percent; ``map``, the headline, is that of "exclusion", as the compared papers have it."""
    return {
        "map": _percent(measured["exclusion"].mean),
        "map_activitynet": _percent(measured["activitynet"].mean),
    }


def by_class(measured: Measured, data: KeyFrameData) -> list[dict[str, Any]]:
    """AP in percent (None without ground truth) and the ground-truth boxes of each class; ids from 1."""
    exclusion, activitynet = measured["exclusion"], measured["activitynet"]
    return [
        {
            "id": name + 1,
            "name": data.classes[name],
            "n_labels": int(exclusion.n_labels[i]),
            "ap": _percent(exclusion.average_precision[i]),
            "ap_activitynet": _percent(activitynet.average_precision[i]),
        }
        for i, name in enumerate(exclusion.classes)
    ]


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100.0 * float(share)
