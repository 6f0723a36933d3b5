"""The files of AVA: what the fixtures hold, what is written is read again, and every fault names its line."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oskar.data.boxes import ImageBoxes, LabelledBoxes, ScoredBoxes
from oskar.data.formats.ava import (
    image_key,
    read_detections,
    read_excluded,
    read_label_map,
    read_labels,
    write_detections,
    write_labels,
)
from oskar.errors import InputError

SHARED = Path(__file__).parents[2] / "shared"
AVA = SHARED / "spec" / "fixtures" / "ava"
REAL = SHARED / "data" / "eval_fixtures"


def there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"not there: {path}")
    return path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "made.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_the_fixture_are_five_people() -> None:
    labels = read_labels(there(AVA) / "ava_val_v2.2.csv")
    assert labels.images == ("exvidAAAAAA,0902", "exvidAAAAAA,0903", "exvidBBBBBB,1000", "exvidBBBBBB,1001")
    assert labels.image_idx.tolist() == [0, 0, 1, 2, 3]
    assert labels.boxes[1].tolist() == [0.5, 0.2, 0.7, 0.9]
    assert labels.person_ids.tolist() == [0, 1, 0, 0, 3]
    does = [np.flatnonzero(row).tolist() for row in labels.label_matrix(80)]
    assert does == [[11, 79], [11], [0, 1], [11], [79]]


def test_the_other_fixtures() -> None:
    found = read_detections(there(AVA) / "detections.csv")
    assert len(found.scores) == 10
    assert (found.class_idx[0], found.scores[0]) == (11, 0.9)
    assert len(found.boxes) == 9  # one of them stands and watches
    assert found.box_idx.tolist() == [0, 1, 2, 0, 3, 4, 5, 6, 7, 8]
    assert read_excluded(AVA / "ava_val_excluded_timestamps_v2.2.csv") == {"exvidBBBBBB,1000"}
    classes = read_label_map(AVA / "ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    assert classes == {0: "bend/bow (at the waist)", 2: "crouch/kneel", 11: "stand", 79: "watch (a person)"}


def test_real_files() -> None:
    folder = there(REAL)
    labels = read_labels(folder / "mmaction2" / "ava_dataset" / "ava_sample.csv")
    assert [np.flatnonzero(row).tolist() for row in labels.label_matrix(80)] == [[11, 16, 78], [11, 16], [11, 73, 79]]
    excluded = read_excluded(folder / "mmaction2" / "ava_dataset" / "ava_excluded_timestamps_sample.csv")
    assert excluded == {"0f39OWEqJ24,0903", "_-Z6wFjXtGQ,0902"}
    names = read_label_map(folder / "mmaction2" / "ava_dataset" / "action_list.txt")
    assert names == {11: "action1", 16: "action2", 78: "action3", 79: "action3"}
    official = read_label_map(folder / "activitynet" / "ava_action_list_v2.1_for_activitynet_2018.pbtxt.txt")
    evaluated = [1, *range(3, 16), 17, 20, 22, 24, *range(26, 31), 34, *range(36, 39), 41, 43, *range(45, 50)]
    evaluated += [51, 52, 54, *range(56, 71), *range(72, 75), *range(76, 81)]
    assert [class_idx + 1 for class_idx in official] == evaluated
    assert (len(official), official[11]) == (60, "stand")


@pytest.mark.parametrize("timestamp", ["0902", "902", "902.0", "00902.", " 902 ", 902, 902.0])
def test_one_second_has_one_key(timestamp: str | float) -> None:
    assert image_key("vid", timestamp) == "vid,0902"


def test_keys_of_other_seconds() -> None:
    assert image_key("a,b", 7) == "a,b,0007"
    assert image_key("v", 12345) == "v,12345"
    for video_id, timestamp in (("v", "902.5"), ("v", "-1"), ("v", ""), ("v", "1e3"), ("", "902"), ("v", float("nan"))):
        with pytest.raises(InputError, match=r"timestamp.*Fix: name a video and a whole second"):
            image_key(video_id, timestamp)


def test_rows_with_equal_box_are_one_person_however_written(tmp_path: Path) -> None:
    text = (
        "v,0902,0.1,0.1,0.30,0.5,12,4\n"
        "w,0902,0.1,0.1,0.3,0.5,12,5\n"
        "\n"
        "v,902.0,0.100,.1,0.3,0.5,80,4\r\n"
        "v,903,0.1,0.1,0.3,0.5,,6\n"
        "v,0904\n"
        "v,902,0.1,0.1,0.3,0.51,80\n"
        "v,902,0.1,0.1,0.3,0.5,12,4\n"
    )
    labels = read_labels(written(tmp_path, "\ufeff" + text))
    assert labels.images == ("v,0902", "w,0902", "v,0903", "v,0904")
    assert labels.image_idx.tolist() == [0, 1, 2, 0]
    assert labels.person_ids.tolist() == [4, 5, 6, -1]
    assert list(zip(labels.box_idx.tolist(), labels.class_idx.tolist(), strict=True)) == [
        *((0, 11), (1, 11), (0, 79), (3, 79), (0, 11))  # said twice, kept twice: the evaluator counts rows
    ]
    assert labels.label_matrix(80).sum(axis=1).tolist() == [2, 1, 0, 1]
    with pytest.raises(InputError, match=r"class_idx = 79 of 79 classes\. Fix: raise n_classes"):
        labels.label_matrix(79)


videos = st.sampled_from(["vid", "-_Q", 'a "b", c', "é"])
shares = st.floats(-0.5, 1.5) | st.sampled_from([0.0, 0.1, 0.25, 1.0])
corners = st.tuples(shares, shares, shares, shares)
people = st.dictionaries(
    st.tuples(videos, st.integers(0, 12000), corners),
    st.tuples(st.lists(st.integers(0, 79), max_size=3), st.integers(-1, 500)),
    max_size=8,
)


def tables(drawn: dict[tuple[str, int, tuple[float, ...]], tuple[list[int], int]]) -> LabelledBoxes:
    images = tuple(dict.fromkeys(image_key(video, second) for video, second, _ in drawn))
    return LabelledBoxes(
        images=images,
        image_idx=np.array([images.index(image_key(v, s)) for v, s, _ in drawn], dtype=np.int64),
        boxes=np.array([box for _, _, box in drawn], dtype=np.float64).reshape(-1, 4),
        box_idx=np.array([i for i, (classes, _) in enumerate(drawn.values()) for _ in classes], dtype=np.int64),
        class_idx=np.array([c for classes, _ in drawn.values() for c in classes], dtype=np.int64),
        person_ids=np.array([person for _, person in drawn.values()], dtype=np.int64),
    )


def assert_same(found: ImageBoxes, expected: ImageBoxes) -> None:
    for field in dataclasses.fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)


@settings(max_examples=100, deadline=None)
@given(drawn=people, bare=st.sets(st.integers(12001, 12009), max_size=3))
def test_written_labels_are_read_again(
    drawn: dict[tuple[str, int, tuple[float, ...]], tuple[list[int], int]],
    bare: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    labels = tables(drawn)
    labels = dataclasses.replace(labels, images=(*labels.images, *(image_key("vid", second) for second in bare)))
    write_labels(path, labels)
    assert_same(read_labels(path), labels)


@settings(max_examples=100, deadline=None)
@given(drawn=people, seed=st.integers(0, 999))
def test_written_detections_are_read_again(
    drawn: dict[tuple[str, int, tuple[float, ...]], tuple[list[int], int]],
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "detections.csv"
    rng = np.random.default_rng(seed)
    labels = tables({key: ([*classes, 7], person) for key, (classes, person) in drawn.items()})
    scores = rng.normal(size=len(labels.box_idx)) * 10.0 ** rng.integers(-9, 9, len(labels.box_idx))
    found = ScoredBoxes(
        images=labels.images,
        image_idx=labels.image_idx,
        boxes=labels.boxes,
        box_idx=labels.box_idx,
        class_idx=labels.class_idx,
        scores=scores,
    )
    write_detections(path, found)
    assert_same(read_detections(path), found)


def test_what_is_written(tmp_path: Path) -> None:
    """Ids from 1, four digits, the score or the person last; the fixture comes out as it was, but for zeros."""
    source = there(AVA)
    write_labels(tmp_path / "ava_val_v2.2.csv", read_labels(source / "ava_val_v2.2.csv"))
    write_detections(tmp_path / "detections.csv", read_detections(source / "detections.csv"))
    for name in ("ava_val_v2.2.csv", "detections.csv"):
        wanted = re.sub(r"(\.\d*?[1-9])0+\b|\.0+\b", lambda found: found[1] or ".0", (source / name).read_text())
        assert (tmp_path / name).read_text() == wanted
    with pytest.raises(InputError, match=r"gone/x\.csv: cannot be written .*Fix: check the folder"):
        write_labels(tmp_path / "gone" / "x.csv", read_labels(source / "ava_val_v2.2.csv"))
    odd = dataclasses.replace(tables({("v", 1, (0.0, 0.0, 1.0, 1.0)): ([], 0)}), images=("v,1",))
    with pytest.raises(InputError, match=r"image 'v,1'\. Fix: name images with image_key"):
        write_labels(tmp_path / "x.csv", odd)


GOOD = "v,0902,0.1,0.1,0.3,0.5,12,0\n"


@pytest.mark.parametrize("read", [read_labels, read_detections])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,0902,0.1,0.1,0.3,0.5", r"line 3: 6 cells\. Fix: .*8 are needed, no header"),
        ("v,0902,0.1,0.1,0.3,0.5,12,0,1", r"line 3: 9 cells\. Fix"),
        ("v,9o2,0.1,0.1,0.3,0.5,12,0", r"line 3, video_id, timestamp = 'v,9o2'\. Fix: name a video and a whole second"),
        (",902,0.1,0.1,0.3,0.5,12,0", r"line 3, video_id, timestamp = ',902'\. Fix: name a video"),
        ("v,902,0.1,0.l,0.3,0.5,12,0", r"line 3, y1 = '0\.l'\. Fix: write a number"),
        ("v,902,0.1,0.1,nan,0.5,12,0", r"line 3, x2 = 'nan'\. Fix: write a number"),
        ("v,902,0.1,0.1,0.3,480,12,0", r"line 3, y2 = '480'\. Fix: write boxes in shares of the frame, 0 to 1"),
        ("v,902,0.1,0.1,0.3,0.5,0,0", r"line 3, action_id = '0'\. Fix: write a whole number of at least 1"),
        ("v,902,0.1,0.1,0.3,0.5,stand,0", r"line 3, action_id = 'stand'\. Fix: write a whole number"),
        ("v,902,0.1,0.1,0.3,0.5,1_2,0", r"line 3, action_id = '1_2'\. Fix: write a whole number"),
        ('v,902,"0.1"x,0.1,0.3,0.5,12,0', r"after line 2: no CSV text .*Fix"),
    ],
)
def test_a_broken_row_is_named(
    tmp_path: Path, read: Callable[[Path], LabelledBoxes | ScoredBoxes], row: str, message: str
) -> None:
    with pytest.raises(InputError, match=rf"made\.csv {message}"):
        read(written(tmp_path, f"{GOOD}\n{row}\n{GOOD}"))


def test_what_only_labels_or_only_detections_may_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1, person_id = '0\.93'\. Fix: write a whole number"):
        read_labels(written(tmp_path, "v,902,0.1,0.1,0.3,0.5,12,0.93"))
    with pytest.raises(InputError, match=r"line 1: 7 cells\. Fix: 8 are needed"):
        read_detections(written(tmp_path, "v,902,0.1,0.1,0.3,0.5,12"))
    with pytest.raises(InputError, match=r"line 1, action_id = ''\. Fix"):
        read_detections(written(tmp_path, "v,902,0.1,0.1,0.3,0.5,,0.5"))
    with pytest.raises(InputError, match=r"line 1, score = 'inf'\. Fix: write a number"):
        read_detections(written(tmp_path, "v,902,0.1,0.1,0.3,0.5,12,inf"))
    with pytest.raises(InputError, match=r"line 2: 8 cells\. Fix: 2 are needed"):
        read_excluded(written(tmp_path, "v,902\n" + GOOD))


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "bytes.csv"
    path.write_bytes(GOOD.encode() + b"\xff\xfe")
    with pytest.raises(InputError, match=r"bytes\.csv after line \d+: no CSV text .*Fix: write it again as UTF-8"):
        read_labels(path)
    with pytest.raises(InputError, match=r"none\.csv: cannot be read .*Fix: check the file"):
        read_excluded(tmp_path / "none.csv")
    empty = read_labels(written(tmp_path, ""))
    assert (empty.images, empty.boxes.shape, empty.label_matrix(80).shape) == ((), (0, 4), (0, 80))


def test_label_maps_of_both_kinds(tmp_path: Path) -> None:
    text = (
        '# AVA\nlabel {\n  name: "stand"\n  label_id: 12\n  label_type: PERSON_MOVEMENT\n}\n'
        'item{\nid: 1\nname: "x: {y}"\n}\n'
    )
    assert read_label_map(written(tmp_path, text)) == {11: "stand", 0: "x: {y}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r": ends without a whole block\. Fix: write blocks"),
        ('item {\n name: "a"\n id: 1\n', r": ends without a whole block"),
        ('item {\n name: "a"\n}\n', r" line 3: the block says .*Fix: give it name"),
        ("item {\n name: a\n id: 1\n}\n", r" line 4: the block says .*Fix: give it name"),
        ('item {\n name: "a"\n id: 0\n}\n', r" line 4: the block says .*n counted from 1"),
        ('item {\n name: "a"\n id: 1\n}\n' * 2, r" line 8: id 1 was there before\. Fix: give every class its own id"),
        ("stand 12\n", r" line 1: 'stand 12'\. Fix: write blocks"),
        ("item {\nitem {\n", r" line 2: 'item \{'\. Fix: write blocks"),
    ],
)
def test_a_broken_label_map_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"made\.csv{message}"):
        read_label_map(written(tmp_path, text))


def test_tables_that_cannot_be() -> None:
    good = tables({("v", 1, (0.0, 0.0, 1.0, 1.0)): ([3], 0)})
    for changes, message in (
        ({"images": ("v,0001", "v,0001")}, r"images: 2 keys, some of them twice\. Fix: list each image once"),
        ({"boxes": np.zeros((1, 5))}, r"boxes of shape \[1, 5\]\. Fix: it needs \[1, 4\]"),
        ({"image_idx": np.array([1])}, r"image_idx = 1\. Fix: use 0 to 0"),
        ({"box_idx": np.array([-1])}, r"box_idx = -1\. Fix: use 0 to 0"),
        ({"class_idx": np.array([-1])}, r"class_idx = -1\. Fix: count from 0"),
        ({"class_idx": np.array([1, 2])}, r"class_idx of shape \[2\]\. Fix: it needs \[1\]"),
        ({"person_ids": np.array([1, 2])}, r"person_ids of shape \[2\]\. Fix: it needs \[1\]"),
        ({"boxes": np.array([[0, 0, np.nan, 1]])}, r"boxes\[0, 2\] = nan\. Fix: leave out"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(good, **changes)
