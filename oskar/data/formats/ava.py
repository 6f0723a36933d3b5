"""The official files of AVA: labels, detections, excluded timestamps and the label map.

An image is a key frame, ``video_id,timestamp`` with the second in four digits; 0902, 902 and 902.0
are the same. Boxes are shares of the frame. Classes count from 1 in the files and from 0 here.
"""

import csv
import re
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from oskar.data.boxes import ImageBoxes, LabelledBoxes, ScoredBoxes
from oskar.data.columns import read_text, shown
from oskar.data.formats.ava_rows import RowReader, image_key
from oskar.errors import InputError

__all__ = [
    "image_key",
    "read_detections",
    "read_excluded",
    "read_label_map",
    "read_labels",
    "write_detections",
    "write_labels",
]

_BLOCK = re.compile(r"\w+\s*\{")
_FIELD = re.compile(r"(\w+)\s*:\s*(.+)")
_QUOTED = re.compile(r'"([^"]+)"')
_WIDTHS_OF_LABELS = (2, 7, 8)


def read_labels(path: Path) -> LabelledBoxes:
    """Ground truth, ``video_id,timestamp,x1,y1,x2,y2,action_id,person_id`` without a header.

    Rows of one image and one box are one person; its number is that of its first row. A row may have
    no action, and may leave the person out. A row of two cells is an image, perhaps without people.
    Raises InputError with line, value and fix.
    """
    rows = RowReader(path)
    box_idx, class_idx, person_ids = array("q"), array("q"), array("q")
    for cells in rows.read(_WIDTHS_OF_LABELS):
        if len(cells) == 2:
            rows.image(cells)
            continue
        box = rows.box(cells)
        if box == len(person_ids):
            person_ids.append(rows.whole("person_id", cells[7], least=-1) if len(cells) == 8 else -1)
        if cells[6]:
            box_idx.append(box)
            class_idx.append(rows.whole("action_id", cells[6], least=1) - 1)
    images, image_idx, boxes = rows.table()
    return LabelledBoxes(
        images=images,
        image_idx=image_idx,
        boxes=boxes,
        box_idx=np.array(box_idx),
        class_idx=np.array(class_idx),
        person_ids=np.array(person_ids),
    )


def read_detections(path: Path) -> ScoredBoxes:
    """Results, ``video_id,timestamp,x1,y1,x2,y2,action_id,score`` without a header, in the order of the rows.

    Raises InputError with line, value and fix.
    """
    rows = RowReader(path)
    box_idx, class_idx, scores = array("q"), array("q"), array("d")
    for cells in rows.read((8,)):
        box_idx.append(rows.box(cells))
        class_idx.append(rows.whole("action_id", cells[6], least=1) - 1)
        scores.append(rows.number("score", cells[7]))
    images, image_idx, boxes = rows.table()
    return ScoredBoxes(
        images=images,
        image_idx=image_idx,
        boxes=boxes,
        box_idx=np.array(box_idx),
        class_idx=np.array(class_idx),
        scores=np.array(scores),
    )


def read_excluded(path: Path) -> frozenset[str]:
    """The keys of the images that ``video_id,timestamp`` rows leave out of training and evaluation."""
    rows = RowReader(path)
    for cells in rows.read((2,)):
        rows.image(cells)
    return frozenset(rows.table()[0])


def read_label_map(path: Path) -> dict[int, str]:
    """The classes of a pbtxt, number from 0 to name, in the order of the file; names may repeat.

    Blocks of one field a line: ``name: "..."`` and ``id: n`` or ``label_id: n``, others are passed over.

    Raises:
        InputError: a line that is none of this, a block without name or id, an id below 1 or there twice.
    """
    classes: dict[int, str] = {}
    fields: dict[str, str] | None = None
    for number, line in enumerate(map(str.strip, read_text(path).splitlines()), start=1):
        where = f"{path} line {number}"
        field = _FIELD.fullmatch(line)
        if fields is None and _BLOCK.fullmatch(line):
            fields = {}
        elif fields is not None and line == "}":
            class_idx, name = _class_of(fields, where)
            if class_idx in classes:
                raise InputError(f"{where}: id {class_idx + 1} was there before", fix="give every class its own id")
            classes[class_idx] = name
            fields = None
        elif fields is not None and field:
            fields[field[1]] = field[2]
        elif line and not line.startswith("#"):
            raise InputError(f"{where}: {shown(line)}", fix='write blocks of lines: item {, name: "...", id: n, }')
    if fields is not None or not classes:
        raise InputError(f"{path}: ends without a whole block", fix='write blocks: item {, name: "...", id: n, }')
    return classes


def write_detections(path: Path, detections: ScoredBoxes) -> None:
    """Write results so that ``read_detections`` gives the same rows: ids from 1, the score in the 8th cell."""
    corners = _corners(detections)
    rows = zip(detections.box_idx.tolist(), detections.class_idx.tolist(), detections.scores.tolist(), strict=True)
    _write(path, ((*corners[box], class_idx + 1, score) for box, class_idx, score in rows))


def write_labels(path: Path, labels: LabelledBoxes) -> None:
    """Write ground truth so that ``read_labels`` gives the same boxes and classes, in the order of the boxes.

    A box without a class gets a row without an action, an image without boxes a row of two cells.
    """
    actions_of: list[list[int]] = [[] for _ in labels.boxes]
    for box, class_idx in zip(labels.box_idx.tolist(), labels.class_idx.tolist(), strict=True):
        actions_of[box].append(class_idx + 1)
    rows: list[tuple[object, ...]] = []
    for corners, person_id, actions in zip(_corners(labels), labels.person_ids.tolist(), actions_of, strict=True):
        rows += [(*corners, action, person_id) for action in actions] or [(*corners, "", person_id)]
    bare = set(range(len(labels.images))) - set(labels.image_idx.tolist())
    rows += [_cells_of(labels.images[i]) for i in sorted(bare)]
    _write(path, rows)


def _class_of(fields: dict[str, str], where: str) -> tuple[int, str]:
    """Class index and name of a block that ends at ``where``."""
    number, name = fields.get("id", fields.get("label_id", "")), _QUOTED.fullmatch(fields.get("name", ""))
    if not re.fullmatch(r"[0-9]{1,9}", number) or int(number) < 1 or name is None:
        raise InputError(f"{where}: the block says {fields}", fix='give it name: "..." and id: n, n counted from 1')
    return int(number) - 1, name[1]


def _corners(table: ImageBoxes) -> list[tuple[object, ...]]:
    """The first six cells of every box."""
    keys = [_cells_of(key) for key in table.images]
    boxes = zip(table.image_idx.tolist(), table.boxes.tolist(), strict=True)
    return [(*keys[image], *box) for image, box in boxes]


def _cells_of(key: str) -> tuple[str, str]:
    video_id, _, timestamp = key.rpartition(",")
    if image_key(video_id, timestamp) != key:
        raise InputError(f"image {shown(key)}", fix="name images with image_key(video_id, timestamp)")
    return video_id, timestamp


def _write(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror})", fix="check the folder and its rights"
        ) from error
