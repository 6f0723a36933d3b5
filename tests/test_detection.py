"""Frame mAP: by hand, against a derivation in exact fractions, and against COCO's evaluation where both agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.frame_map import Box, FoundRow, TrueRow, frame_ap

from oskar.data.boxes import ImageBoxes, LabelledBoxes, ScoredBoxes, score_every_class
from oskar.errors import InputError
from oskar.metrics.detection import EvaluationProtocol, FrameMAP, frame_map

NAN = float("nan")


def labelled(rows: Sequence[TrueRow], images: Sequence[str] = ()) -> LabelledBoxes:
    """A box of its own for every row; ``images`` are declared besides."""
    keys = tuple(dict.fromkeys([*images, *(row[0] for row in rows)]))
    return LabelledBoxes(
        images=keys,
        image_idx=np.array([keys.index(row[0]) for row in rows], dtype=np.int64),
        boxes=np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        box_idx=np.arange(len(rows)),
        class_idx=np.array([row[2] for row in rows], dtype=np.int64),
        person_ids=np.full(len(rows), -1),
    )


def scored(rows: Sequence[FoundRow]) -> ScoredBoxes:
    """Rows of equal image and box share a box, as in a file."""
    keys = tuple(dict.fromkeys(row[0] for row in rows))
    boxes = list(dict.fromkeys((row[0], row[1]) for row in rows))
    return ScoredBoxes(
        images=keys,
        image_idx=np.array([keys.index(key) for key, _ in boxes], dtype=np.int64),
        boxes=np.array([box for _, box in boxes], dtype=np.float64).reshape(-1, 4),
        box_idx=np.array([boxes.index((row[0], row[1])) for row in rows], dtype=np.int64),
        class_idx=np.array([row[2] for row in rows], dtype=np.int64),
        scores=np.array([row[3] for row in rows], dtype=np.float64),
    )


def evaluate(true: Sequence[TrueRow], found: Sequence[FoundRow], protocol: EvaluationProtocol, **more: Any) -> FrameMAP:
    images = more.pop("images", ())
    return frame_map(labelled(true, images), scored(found), protocol=protocol, **{"classes": [0], **more})


def both(true: Sequence[TrueRow], found: Sequence[FoundRow], **more: Any) -> tuple[float, float]:
    """Means under ``"activitynet"`` and ``"exclusion"``."""
    return evaluate(true, found, "activitynet", **more).mean, evaluate(true, found, "exclusion", **more).mean


A, B = (0, 0, 10, 10), (20, 0, 30, 10)


@pytest.mark.parametrize(
    ("true", "found", "expected"),
    [
        ([("i", A, 0)], [("i", A, 0, 0.1)], 1.0),
        # IoU exactly 0.5 is right, a hair less is not
        ([("i", A, 0)], [("i", (0, 0, 5, 10), 0, 0.1)], 1.0),
        ([("i", (0, 0, 1000, 1000), 0)], [("i", (0, 0, 499, 1000), 0, 0.1)], 0.0),
        # touching is no overlap, and there is no pixel to add: 6 x 6 in 8 x 9 is 36 / 72
        ([("i", (0, 0, 8, 9), 0)], [("i", (1, 1, 7, 7), 0, 0.1)], 1.0),
        ([("i", A, 0)], [("i", (10, 0, 20, 10), 0, 0.1)], 0.0),
        # no detection, another class, another image with ground truth
        ([("i", A, 0)], [], 0.0),
        ([("i", A, 0), ("i", A, 1)], [("i", A, 1, 0.5)], 0.0),
        ([("i", A, 0), ("j", B, 0)], [("j", A, 0, 0.5)], 0.0),
        # a second detection of a box is wrong; after both, precision of the last is 2 / 3
        ([("i", A, 0), ("i", B, 0)], [("i", A, 0, 0.9), ("i", A, 0, 0.8), ("i", B, 0, 0.7)], (1 + 2 / 3) / 2),
        # a worse precision before a better one counts as the better one: ranks wrong, right, right
        ([("i", A, 0), ("j", A, 0)], [("i", B, 0, 0.9), ("i", A, 0, 0.8), ("j", A, 0, 0.7)], 2 / 3),
        # the order of rows is not the order of scores
        ([("i", A, 0), ("j", A, 0)], [("j", A, 0, 0.7), ("i", A, 0, 0.8), ("i", B, 0, 0.9)], 2 / 3),
        # equal scores: the earlier row first
        ([("i", A, 0)], [("i", A, 0, 0.5), ("i", B, 0, 0.5)], 1.0),
        ([("i", A, 0)], [("i", B, 0, 0.5), ("i", A, 0, 0.5)], 0.5),
        # its best box is taken: no second choice, though the other overlaps by 9 / 11
        ([("i", A, 0), ("i", (0, 0, 10, 11), 0)], [("i", A, 0, 0.9), ("i", A, 0, 0.8)], 0.5),
        # of equal overlaps the first box: one row of ground truth twice can be found once
        ([("i", A, 0), ("i", A, 0)], [("i", A, 0, 0.9), ("i", A, 0, 0.8)], 0.5),
        # no area: discarded, where a false positive would cost half
        ([("i", A, 0)], [("i", (5, 0, 5, 10), 0, 0.9), ("i", (0, 8, 10, 7), 0, 0.8), ("i", A, 0, 0.7)], 1.0),
        # ground truth without area cannot be found
        ([("i", A, 0), ("i", (3, 0, 3, 5), 0)], [("i", A, 0, 0.9)], 0.5),
    ],
)
def test_by_hand(true: list[TrueRow], found: list[FoundRow], expected: float) -> None:
    assert both(true, found) == pytest.approx((expected, expected), abs=1e-12)


def test_images_without_ground_truth() -> None:
    true, found = [("i", A, 0)], [("i", A, 0, 0.5), ("j", A, 0, 0.9)]
    assert both(true, found) == (1.0, 0.5)  # no image of the ground-truth file: ignored by one protocol
    assert both(true, found, images=["j"]) == (0.5, 0.5)  # declared without boxes
    assert both([*true, ("j", A, 7)], found) == (0.5, 0.5)  # only rows of classes that do not count


def test_excluded_images_vanish_from_both_sides_of_one_protocol() -> None:
    true = [("i", A, 0), ("j", A, 0)]
    found = [("j", B, 0, 0.9), ("i", A, 0, 0.5)]
    assert both(true, found, excluded=["j"]) == (0.25, 1.0)
    result = evaluate(true, found, "exclusion", excluded=["j"])
    assert (result.n_images, result.n_boxes, result.n_detections) == (1, 1, 1)


def test_the_limit_is_fifty_of_all_classes_that_count() -> None:
    right = ("i", A, 0, 0.1)
    other = [("i", B, 1, 0.9)] * 49
    true = [("i", A, 0), ("i", B, 1)]
    for n, classes, expected in ((49, [0, 1], 1.0), (50, [0, 1], 0.0), (50, [0], 1.0)):
        found = [right, *other, ("i", B, 1, 0.9)][: n + 1]
        activitynet = evaluate(true, found, "activitynet", classes=classes)
        assert activitynet.average_precision[0] == expected
        assert evaluate(true, found, "exclusion", classes=classes).average_precision[0] == 1.0
        assert activitynet.n_detections == min(50, len(found) if 1 in classes else 1)
    # boxes without area take places, as in the official evaluator; of equal scores the earlier stays
    empty = [("i", (5, 0, 5, 10), 0, 0.9)] * 50
    assert both(true[:1], [*empty, right]) == (0.0, 1.0)
    level = [("i", B, 0, 0.5)] * 49
    assert both(true[:1], [*level, ("i", A, 0, 0.5), ("i", B, 0, 0.5)]) == (0.02, 0.02)
    assert both(true[:1], [*level, ("i", B, 0, 0.5), ("i", A, 0, 0.5)]) == pytest.approx((0.0, 1 / 51))


def test_classes_without_ground_truth_are_left_out_of_the_mean() -> None:
    result = evaluate([("i", A, 0)], [("i", A, 0, 0.5), ("i", A, 2, 0.5)], "exclusion", classes=[2, 0, 5])
    assert result.classes == (0, 2, 5)
    np.testing.assert_equal(result.average_precision, [1.0, NAN, NAN])
    assert result.mean == 1.0
    assert result.n_labels.tolist() == [1, 0, 0]
    nothing = evaluate([], [], "activitynet")
    assert np.isnan(nothing.mean)
    assert (nothing.n_images, nothing.n_boxes, nothing.n_detections) == (0, 0, 0)


def test_no_class_is_an_error() -> None:
    for classes in ([], [-1, 3]):
        with pytest.raises(InputError, match=r"classes = .*Fix: name the evaluated classes, counted from 0"):
            evaluate([("i", A, 0)], [], "exclusion", classes=classes)


places = st.integers(0, 5)
boxes = st.tuples(places, places, st.integers(1, 4), st.integers(1, 4)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
flat = st.tuples(places, places, places, places)
keys = st.sampled_from("ijkl")
true_rows = st.lists(st.tuples(keys, boxes, st.integers(0, 2)), max_size=12)
found_rows = st.lists(
    st.tuples(keys, st.one_of(boxes, boxes, flat), st.integers(0, 3), st.sampled_from([0.1, 0.2, 0.5, 0.9])),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(
    true=true_rows,
    found=found_rows,
    declared=st.sets(keys),
    excluded=st.sets(keys, max_size=2),
    limit=st.integers(1, 9),
)
def test_it_is_the_derivation_in_fractions(
    true: list[TrueRow], found: list[FoundRow], declared: set[str], excluded: set[str], limit: int
) -> None:
    """Few places and scores, so that ties, equal boxes and IoU of exactly 0.5 are frequent."""
    classes = (0, 1, 3)
    images = {row[0] for row in true} | declared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oskar.metrics.detection.MOST_PER_IMAGE", limit)
        activitynet = evaluate(true, found, "activitynet", classes=classes, images=sorted(declared), excluded=excluded)
    exclusion = evaluate(true, found, "exclusion", classes=classes, images=sorted(declared), excluded=excluded)
    by_limit = frame_ap(true, found, classes=classes, images=images, excluded=(), limit=limit)
    by_exclusion = frame_ap(true, found, classes=classes, images=None, excluded=excluded, limit=None)
    for result, expected in ((activitynet, by_limit), (exclusion, by_exclusion)):
        values = [NAN if expected[name] is None else float(expected[name] or 0) for name in classes]
        np.testing.assert_allclose(result.average_precision, values, rtol=1e-12, atol=1e-15)
        defined = [value for value in values if value == value]
        assert result.mean == pytest.approx(np.mean(defined) if defined else NAN, nan_ok=True, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(true=true_rows, found=found_rows, seed=st.integers(0, 999))
def test_what_does_not_matter(true: list[TrueRow], found: list[FoundRow], seed: int) -> None:
    """Order of rows without ties, units of boxes, and any increasing map of scores."""
    rng = np.random.default_rng(seed)
    found = [(*row[:3], score) for row, score in zip(found, rng.permutation(len(found)) / 100 + 0.01, strict=True)]
    before = both(true, found, classes=[0, 1, 2])
    order = rng.permutation(len(found))

    def moved(b: Box) -> Box:
        return (b[0] * 32, b[1] * 8, b[2] * 32, b[3] * 8)

    after = both(
        [(key, moved(box), of) for key, box, of in true],
        [(found[i][0], moved(found[i][1]), found[i][2], found[i][3] ** 3) for i in order],
        classes=[0, 1, 2],
    )
    np.testing.assert_allclose(after, before, rtol=1e-12)


def test_a_multi_label_head_is_scored_class_by_class() -> None:
    people = ImageBoxes(images=("i", "j"), image_idx=np.array([1, 0]), boxes=np.array([A, B], dtype=np.float32))
    scores = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=np.float32)
    found = score_every_class(people, scores)
    rows = [("j", A, 0, 0.1), ("j", A, 1, 0.2), ("j", A, 2, 0.3), ("i", B, 0, 0.4), ("i", B, 1, 0.5), ("i", B, 2, 0.6)]
    assert [
        (found.images[found.image_idx[b]], tuple(found.boxes[b]), c)
        for b, c in zip(found.box_idx, found.class_idx, strict=True)
    ] == [r[:3] for r in rows]
    true = labelled([("j", A, 0), ("i", A, 1)])
    expected = frame_map(true, scored(rows), classes=[0, 1], protocol="exclusion").average_precision
    np.testing.assert_array_equal(expected, [0.5, 0.0])
    np.testing.assert_array_equal(
        frame_map(true, found, classes=[0, 1], protocol="exclusion").average_precision, expected
    )
    with pytest.raises(InputError, match=r"scores of shape \[3, 2\]. Fix: it needs \[2, 2\]"):
        score_every_class(people, scores.reshape(3, 2))


def test_where_nothing_is_ambiguous_it_is_coco() -> None:
    """COCO matches otherwise and samples recall; with one near box each and recall at every k / n both agree."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    true = [(f"{i}", (100 * j, 0, 100 * j + 40, 80), int(rng.integers(2))) for i in range(20) for j in range(5)]
    scores = iter(rng.permutation(2 * len(true)) / 1000)
    found: list[FoundRow] = []
    for key, (x1, y1, x2, y2), name in true:
        for _ in range(rng.integers(0, 3)):
            dx, dy = rng.integers(0, 20, 2)
            found.append((key, (x1 + int(dx), y1 + int(dy), x2 + int(dx), y2 + int(dy)), name, float(next(scores))))
    result = evaluate(true, found, "exclusion", classes=[0, 1])

    def entry(number: int, row: tuple[Any, ...]) -> dict[str, Any]:
        x1, y1, x2, y2 = row[1]
        common = {"id": number, "image_id": int(row[0]), "category_id": row[2] + 1, "iscrowd": 0}
        shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        return {**common, **shape, "score": row[3] if len(row) > 3 else 1.0}

    truth = coco.COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(20)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [entry(i, row) for i, row in enumerate(true, start=1)],
    }
    truth.createIndex()
    for name in (0, 1):
        n_true = int(result.n_labels[name])
        evaluation = cocoeval.COCOeval(truth, truth.loadRes([entry(i, row) for i, row in enumerate(found, 1)]), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.recThrs = np.arange(1, n_true + 1) / n_true
        evaluation.evaluate()
        evaluation.accumulate()
        assert result.average_precision[name] == pytest.approx(evaluation.eval["precision"][0, :, name, 0, -1].mean())
