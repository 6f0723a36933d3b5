"""Frame mAP on evaluator inputs whose outcome is known, and on real boxes."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from oskar.data.boxes import LabelledBoxes, ScoredBoxes
from oskar.data.formats.ava import image_key, read_detections, read_excluded, read_label_map, read_labels
from oskar.metrics.detection import EvaluationProtocol, frame_map

SHARED = Path(__file__).parents[2] / "shared"
AVA = SHARED / "spec" / "fixtures" / "ava"
MMACTION2 = SHARED / "data" / "eval_fixtures" / "mmaction2" / "eval_detection"
UCF101_24 = SHARED / "data" / "ucf101_24_boxes"
NAN = float("nan")


def there(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"not there: {folder}")
    return folder


@pytest.mark.parametrize(
    ("protocol", "expected", "mean", "n_images", "n_boxes", "n_detections"),
    [
        ("activitynet", [0.5, NAN, 0.833333, 1.0], 0.777778, 4, 5, 9),
        ("exclusion", [0.5, NAN, 0.75, 1.0], 0.75, 4, 4, 9),
    ],
)
def test_the_fixture_gives_what_the_official_code_gives(
    protocol: EvaluationProtocol, expected: list[float], mean: float, n_images: int, n_boxes: int, n_detections: int
) -> None:
    folder = there(AVA)
    labels, found = read_labels(folder / "ava_val_v2.2.csv"), read_detections(folder / "detections.csv")
    classes = read_label_map(folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    excluded = read_excluded(folder / "ava_val_excluded_timestamps_v2.2.csv")
    result = frame_map(labels, found, classes=classes, protocol=protocol, excluded=excluded)
    assert result.classes == (0, 2, 11, 79)
    np.testing.assert_allclose(result.average_precision, expected, atol=5e-7)
    assert result.mean == pytest.approx(mean, abs=5e-7)
    assert (result.n_images, result.n_boxes, result.n_detections) == (n_images, n_boxes, n_detections)
    assert result.n_labels.tolist() == ([1, 0, 3, 2] if protocol == "activitynet" else [1, 0, 2, 2])


@pytest.mark.parametrize("protocol", ["activitynet", "exclusion"])
def test_mmaction2s_known_outcome(protocol: EvaluationProtocol) -> None:
    folder = there(MMACTION2)
    labels, found = read_labels(folder / "gt.csv"), read_detections(folder / "pred.csv")
    classes = read_label_map(folder / "action_list.txt")
    assert frame_map(labels, found, classes=classes, protocol=protocol).mean == pytest.approx(0.09385522, abs=5e-9)


@pytest.fixture(scope="module")
def ucf101_24() -> LabelledBoxes:
    """Every box a person with one class, in pixels; frames count as seconds."""
    folder = there(UCF101_24)
    with (folder / "tubes.csv").open(newline="", encoding="utf-8") as stream:
        tubes = list(csv.DictReader(stream))
    with np.load(folder / "boxes.npz", allow_pickle=False) as file:
        x, y, width, height = file["boxes_xywh"].astype(np.float64).T
    keys: dict[str, int] = {}
    image_idx, class_idx = np.empty(len(x), dtype=np.int64), np.empty(len(x), dtype=np.int64)
    for tube in tubes:
        start, end, first = int(tube["box_start"]), int(tube["box_end"]), int(tube["start_frame"])
        frames = range(first, first + end - start)
        image_idx[start:end] = [keys.setdefault(image_key(tube["video"], frame), len(keys)) for frame in frames]
        class_idx[start:end] = int(tube["label_id"])
    return LabelledBoxes(
        images=tuple(keys),
        image_idx=image_idx,
        boxes=np.stack([x, y, x + width, y + height], axis=1),
        box_idx=np.arange(len(x)),
        class_idx=class_idx,
        person_ids=np.full(len(x), -1),
    )


@pytest.mark.parametrize("protocol", ["activitynet", "exclusion"])
def test_real_boxes_as_their_own_detections_are_perfect(ucf101_24: LabelledBoxes, protocol: EvaluationProtocol) -> None:
    """But for 152 boxes of two videos that the annotations hold twice: one of each pair cannot be found."""
    true = ucf101_24
    rows = np.column_stack([true.image_idx, true.class_idx, true.boxes])
    _, first = np.unique(rows, axis=0, return_index=True)
    is_first = np.isin(true.box_idx, first)
    assert (len(rows), int((~is_first).sum())) == (573_862, 152)
    scores = np.where(is_first, np.random.default_rng(0).uniform(0.1, 1.0, len(rows)), 0.0)
    found = ScoredBoxes(
        images=true.images[::-1],
        image_idx=len(true.images) - 1 - true.image_idx,
        boxes=true.boxes,
        box_idx=true.box_idx,
        class_idx=true.class_idx,
        scores=scores,
    )
    result = frame_map(true, found, classes=range(24), protocol=protocol)
    n_true = np.bincount(true.class_idx)
    expected = 1 - np.bincount(true.class_idx[~is_first], minlength=24) / n_true
    assert (expected < 1).sum() == 2
    np.testing.assert_allclose(result.average_precision, expected, rtol=1e-12)
    assert result.n_labels.tolist() == n_true.tolist()
    assert (result.n_boxes, result.n_detections, result.n_images) == (573_862, 573_862, len(true.images))

    shift = 1.5 * (true.boxes[:, 2] - true.boxes[:, 0])  # beyond the person itself, perhaps onto another
    moved = dataclasses.replace(found, boxes=true.boxes + shift[:, None] * [1, 0, 1, 0])
    assert frame_map(true, moved, classes=range(24), protocol=protocol).mean < 0.01
