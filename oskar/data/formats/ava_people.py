"""The boxes of detected people that AVA's papers share, in their three forms."""

import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oskar.data.boxes import Floats, PersonBoxes
from oskar.data.columns import read_text, shown
from oskar.data.formats.arrays_pickle import load_array_pickle
from oskar.data.formats.ava_rows import FARTHEST_SHARE, RowReader, image_key
from oskar.errors import InputError

_VIDEO_KEYS = ("movie", "video_id", "video")


def read_people(path: Path, image_table: Path | None = None) -> PersonBoxes:
    """People in shares of the frame, with the detector's score, from a file of any of the three forms.

    ``.csv``: the columns of the labels with an empty action and the score in the 8th cell.
    ``.pkl``: a dict from "video,0902" to an array ``[n, 5]`` of x1, y1, x2, y2, score.
    ``.json``: a list of {image_id, bbox: [x, y, width, height] in pixels, score}, or an object with
    it under "annotations". The images, a list of {id, movie or video_id, timestamp, width, height}
    under "images", stand in the same file or in ``image_table``.

    Raises:
        InputError: another suffix, or a file that is not as described, with its line or key.
    """
    readers: Mapping[str, Callable[[Path], PersonBoxes]] = {
        ".csv": _read_csv,
        ".pkl": _read_pickle,
        ".pickle": _read_pickle,
        ".json": lambda file: _read_json(file, image_table or file),
    }
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: suffix {path.suffix!r}", fix=f"use one of {', '.join(readers)}")
    return readers[path.suffix.lower()](path)


def _read_csv(path: Path) -> PersonBoxes:
    rows = RowReader(path)
    scores: list[float] = []
    for cells in rows.read((8,)):
        if cells[6]:
            raise rows.error("action_id", cells[6], "leave it empty: these are people, not actions")
        if rows.box(cells) != len(scores):
            raise rows.error("box", ",".join(cells[2:6]), "list each box of an image once")
        scores.append(rows.number("score", cells[7]))
    images, image_idx, boxes = rows.table()
    return PersonBoxes(images=images, image_idx=image_idx, boxes=boxes, scores=np.array(scores, dtype=np.float64))


def _read_pickle(path: Path) -> PersonBoxes:
    by_key = load_array_pickle(path)
    if not isinstance(by_key, dict):
        raise InputError(f"{path}: holds a {type(by_key).__name__}", fix='store a dict from "video,0902" to arrays')
    found: dict[str, Floats] = {}
    for key, values in by_key.items():
        array = np.asarray(values)
        where = f"{path}: key {shown(str(key))}"
        if array.size and (array.ndim != 2 or array.shape[1] != 5 or array.dtype.kind != "f"):
            raise InputError(f"{where}: {array.dtype} {list(array.shape)}", fix="store [n, 5]: x1, y1, x2, y2, score")
        people = array.reshape(-1, 5).astype(np.float64) if array.size else np.empty((0, 5))
        _check_people(people, where)
        image = _key_of(*str(key).rpartition(",")[::2], where)
        if image in found:
            raise InputError(f"{where}: image {image} is there twice", fix="keep one of the two")
        found[image] = people
    return _joined(found)


def _read_json(path: Path, table_path: Path) -> PersonBoxes:
    table = _load_json(table_path)
    people = table if table_path == path else _load_json(path)
    listed = people.get("annotations") if isinstance(people, dict) else people
    images = table.get("images") if isinstance(table, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{path}: no list of boxes", fix='store a list, or an object with "annotations"')
    if not isinstance(images, list):
        raise InputError(
            f'{table_path}: no list "images"', fix="name a file with the ids, names and sizes of the images"
        )
    known = _read_images(images, table_path)
    found: dict[str, list[list[float]]] = {name: [] for name, _, _ in known.values()}
    for i, entry in enumerate(listed):
        where = f"{path}: box {i}"
        image_id, (x, y, width, height), score = _box_of(entry, where)
        if image_id not in known:
            raise InputError(f"{where}: image_id = {image_id!r}", fix=f"list this image in {table_path}")
        name, across, down = known[image_id]
        found[name].append([x / across, y / down, (x + width) / across, (y + height) / down, score])
    arrays = {name: np.array(values, dtype=np.float64).reshape(-1, 5) for name, values in found.items()}
    for name, people in arrays.items():
        _check_people(people, f"{path}: image {name}")
    return _joined(arrays)


def _read_images(images: Iterable[Any], path: Path) -> dict[Hashable, tuple[str, float, float]]:
    """Key, width and height in pixels of every image id."""
    known: dict[Hashable, tuple[str, float, float]] = {}
    names: set[str] = set()
    for i, entry in enumerate(images):
        where = f"{path}: image {i}"
        try:
            image_id, width, height = entry["id"], float(entry["width"]), float(entry["height"])
            video = next(str(entry[key]) for key in _VIDEO_KEYS if key in entry)
            name = _key_of(video, str(entry["timestamp"]), where)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise InputError(
                f"{where}: {shown(json.dumps(entry))}", fix="give id, movie, timestamp, width and height"
            ) from error
        is_usable = isinstance(image_id, str | int) and 0 < min(width, height) <= max(width, height) < math.inf
        if not is_usable or image_id in known or name in names:
            raise InputError(f"{where}: {shown(json.dumps(entry))}", fix="give each image an id and a size of its own")
        known[image_id] = name, width, height
        names.add(name)
    return known


def _box_of(entry: Any, where: str) -> tuple[Hashable, list[float], float]:
    try:
        image_id, corners, score = entry["image_id"], [float(value) for value in entry["bbox"]], float(entry["score"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {shown(json.dumps(entry))}", fix="give image_id, bbox and score") from error
    if len(corners) != 4 or not isinstance(image_id, str | int):
        raise InputError(
            f"{where}: bbox = {corners}, image_id = {image_id!r}", fix="give x, y, width, height and an id"
        )
    return image_id, corners, score


def _check_people(people: Floats, where: str) -> None:
    if not np.isfinite(people).all() or (np.abs(people[:, :4]) > FARTHEST_SHARE).any():
        raise InputError(
            f"{where}: boxes {people.tolist()!s:.80}", fix="give boxes inside the frame, and finite scores"
        )


def _key_of(video_id: str, timestamp: str, where: str) -> str:
    try:
        return image_key(video_id, timestamp)
    except InputError as error:
        raise InputError(
            f"{where}: video {shown(video_id)}, timestamp {shown(timestamp)}", fix="name a video and a whole second"
        ) from error


def _load_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})", fix="fetch or write it again") from error


def _joined(found: Mapping[str, Floats]) -> PersonBoxes:
    people = np.concatenate([np.empty((0, 5)), *found.values()])
    counts = [len(values) for values in found.values()]
    return PersonBoxes(
        images=tuple(found),
        image_idx=np.repeat(np.arange(len(counts)), counts),
        boxes=people[:, :4],
        scores=people[:, 4],
    )
