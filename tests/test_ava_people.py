"""Boxes of detected people in three forms that say the same, and their faults."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oskar.data.formats.ava_people import read_people
from oskar.errors import InputError

ENTRIES: list[dict[str, Any]] = [
    {"image_id": 7, "bbox": [10, 20, 30, 40], "score": 0.9, "category_id": 1},
    {"image_id": "b", "bbox": [0, 0, 64, 48], "score": 0.5},
    {"image_id": 7, "bbox": [32, 12, 16, 24], "score": 0.25},
]
IMAGES: list[dict[str, Any]] = [
    {"id": 7, "movie": "vid", "timestamp": 902, "width": 100, "height": 80},
    {"id": "b", "video_id": "vid", "timestamp": "0903", "width": 128, "height": 96},
    {"id": 9, "movie": "wid", "timestamp": 1000.0, "width": 100, "height": 100},
]
PEOPLE = {  # the same by hand
    "vid,0902": [[0.1, 0.25, 0.4, 0.75, 0.9], [0.32, 0.15, 0.48, 0.45, 0.25]],
    "vid,0903": [[0.0, 0.0, 0.5, 0.5, 0.5]],
    "wid,1000": [],
}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_pickle(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def test_three_forms_say_the_same(tmp_path: Path) -> None:
    csv_path = tmp_path / "people.csv"
    rows = [(*key.split(","), *map(str, p[:4]), "", str(p[4])) for key, people in PEOPLE.items() for p in people]
    csv_path.write_text("\n".join(map(",".join, rows)))
    arrays = {key: np.array(people).reshape(-1, 5) for key, people in PEOPLE.items()}
    table = write(tmp_path / "images.json", {"images": IMAGES})
    listed = write(tmp_path / "listed.json", ENTRIES)
    for path, image_table, n_images in (
        (csv_path, None, 2),
        (write_pickle(tmp_path / "people.pkl", arrays), None, 3),
        (
            write_pickle(tmp_path / "people.PICKLE", {k.replace(",0", ","): v.astype("f4") for k, v in arrays.items()}),
            None,
            3,
        ),
        (listed, table, 3),
        (write(tmp_path / "whole.json", {"images": IMAGES, "annotations": ENTRIES}), None, 3),
        (write(tmp_path / "half.json", {"annotations": ENTRIES}), table, 3),
    ):
        found = read_people(path, image_table)
        assert found.images == tuple(PEOPLE)[:n_images]
        assert found.image_idx.tolist() == [0, 0, 1]
        together = np.column_stack([found.boxes, found.scores])
        np.testing.assert_allclose(together, [p for people in PEOPLE.values() for p in people], atol=1e-7)


def test_nobody_at_all(tmp_path: Path) -> None:
    found = read_people(write_pickle(tmp_path / "x.pkl", {"v,1": np.zeros((0,)), "v,2": []}))
    assert (found.images, found.boxes.shape, found.scores.shape) == (("v,0001", "v,0002"), (0, 4), (0,))
    assert read_people(write_pickle(tmp_path / "x.pkl", {})).images == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r": holds a list\. Fix: store a dict"),
        ({"v,902": np.zeros((2, 4))}, r": key 'v,902': float64 \[2, 4\]\. Fix: store \[n, 5\]"),
        ({"v,902": np.zeros(5)}, r": key 'v,902': float64 \[5\]\. Fix: store"),
        ({"v,902": "people"}, r": key 'v,902': <U6 \[\]\. Fix: store"),
        ({"v 902": np.zeros((1, 5))}, r": key 'v 902': video '', timestamp 'v 902'\. Fix: name a video and a whole"),
        ({"v,902": np.zeros((1, 5)), "v,0902": np.zeros((1, 5))}, r": key 'v,0902': image v,0902 is there twice\. Fix"),
        ({"v,902": np.full((1, 5), 30.0)}, r": key 'v,902': boxes \[\[30\.0.*Fix: give boxes inside the frame"),
        ({"v,902": np.full((1, 5), np.nan)}, r": key 'v,902': boxes .*Fix: give boxes inside the frame"),
        ({"v,902": print}, r": the pickle names builtins\.print"),
    ],
)
def test_broken_pickles(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"x\.pkl{message}"):
        read_people(write_pickle(tmp_path / "x.pkl", value))


@pytest.mark.parametrize(
    ("boxes", "images", "message"),
    [
        ({}, IMAGES, r"boxes\.json: no list of boxes\. Fix: store a list"),
        (ENTRIES, None, r'images\.json: no list "images"\. Fix: name a file with the ids'),
        ([{**ENTRIES[0], "image_id": 5}], IMAGES, r"boxes\.json: box 0: image_id = 5\. Fix: list this image in"),
        ([ENTRIES[0], {"image_id": 7}], IMAGES, r"boxes\.json: box 1: .*Fix: give image_id, bbox and score"),
        ([7], IMAGES, r"boxes\.json: box 0: '7'\. Fix: give image_id, bbox and score"),
        ([{**ENTRIES[0], "bbox": [1, 2, 3]}], IMAGES, r"boxes\.json: box 0: bbox = \[1\.0, .*Fix: give x, y, width"),
        ([{**ENTRIES[0], "image_id": [7]}], IMAGES, r"boxes\.json: box 0: .*image_id = \[7\]\. Fix"),
        ([{**ENTRIES[0], "score": float("nan")}], IMAGES, r"boxes\.json: image vid,0902: boxes .*Fix: give boxes"),
        ([{**ENTRIES[0], "bbox": [0, 0, 900, 9]}], IMAGES, r"boxes\.json: image vid,0902: boxes .*Fix: give boxes"),
        (ENTRIES, [{**IMAGES[0], "width": 0}], r"images\.json: image 0: .*Fix: give each image an id and a size"),
        (ENTRIES, [IMAGES[0], IMAGES[0]], r"images\.json: image 1: .*Fix: give each image an id and a size"),
        (ENTRIES, [IMAGES[0], {**IMAGES[0], "id": 8}], r"images\.json: image 1: .*Fix: give each image an id"),
        (ENTRIES, [{"id": 7, "width": 1, "height": 1}], r"images\.json: image 0: .*Fix: give id, movie, timestamp"),
        (ENTRIES, [{**IMAGES[0], "timestamp": 1.5}], r"images\.json: image 0: video 'vid', timestamp '1\.5'\. Fix"),
    ],
)
def test_broken_json(tmp_path: Path, boxes: Any, images: Any, message: str) -> None:
    table = write(tmp_path / "images.json", {"images": images} if images else [])
    with pytest.raises(InputError, match=message):
        read_people(write(tmp_path / "boxes.json", boxes), table)


def test_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("v,902,0.1,0.1,0.3,0.5,12,0.9")
    with pytest.raises(InputError, match=r"people\.csv line 1, action_id = '12'\. Fix: leave it empty"):
        read_people(path)
    path.write_text("v,902,0.1,0.1,0.3,0.5,,0.9\nv,902,0.1,0.1,0.30,0.5,,0.8")
    with pytest.raises(InputError, match=r"people\.csv line 2, box = '0\.1,0\.1,0\.30,0\.5'\. Fix: list each box"):
        read_people(path)
    with pytest.raises(
        InputError, match=r"people\.npz: suffix '\.npz'\. Fix: use one of \.csv, \.pkl, \.pickle, \.json"
    ):
        read_people(tmp_path / "people.npz")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json: is not JSON .*Fix: fetch or write it again"):
        read_people(tmp_path / "x.json")
