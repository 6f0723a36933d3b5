"""Class names and their order, from ``classes.txt`` or from the labels of the rows."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from oskar.data.columns import Cells, read_text, shown
from oskar.errors import InputError

CLASSES_FILE = "classes.txt"
_GIVE_CLASSES = f"list all classes in {CLASSES_FILE}, one a line, in the order of their label_id"


def read_classes(folder: Path) -> tuple[str, ...]:
    """The lines of ``classes.txt`` in order (line i names label_id i), empty where there is no such file.

    Raises:
        InputError: an empty line between names, a name that is there twice, no name at all.
    """
    path = folder / CLASSES_FILE
    if not path.exists():
        return ()
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if not names:
        raise InputError(f"{path}: names no class", fix="write one class a line, or remove the file")
    for i, name in enumerate(names):
        if not name:
            raise InputError(f"{path} line {i + 1}: is empty", fix="remove the line: its number is a label_id")
        if name in names[:i]:
            raise InputError(
                f"{path} line {i + 1}: class {name!r} was named on line {names.index(name) + 1}",
                fix="name each class once",
            )
    return tuple(names)


def order_classes(rows: Sequence[Cells]) -> tuple[str, ...]:
    """The classes of rows that come without ``classes.txt``.

    Label ids, where given, decide the order; they must be those of one label each and leave no gap.
    Ids without any label name their class by its number. Labels without ids are sorted.

    Raises:
        InputError: label and label_id contradict each other between rows, or leave the order open.
    """
    first_of_label: dict[str, tuple[int | None, Cells]] = {}
    first_of_id: dict[int, tuple[str | None, Cells]] = {}
    for cells in rows:
        label, label_id = cells.values.get("label"), cells.integer("label_id", minimum=0)
        if label is not None and label_id is not None:
            _check_pair(cells, label, label_id, first_of_label, first_of_id)
        if label is not None and first_of_label.get(label, (None, cells))[0] is None:
            first_of_label[label] = (label_id, cells)
        if label_id is not None and first_of_id.get(label_id, (None, cells))[0] is None:
            first_of_id[label_id] = (label, cells)
    if not first_of_id:
        return tuple(sorted(first_of_label))
    for label_id, cells in first_of_label.values():
        if label_id is None:
            raise cells.error("label", "has no label_id, while other rows have one", f"add it, or {_GIVE_CLASSES}")
    for name, cells in first_of_id.values():
        if name is None and first_of_label:
            raise cells.error("label_id", "no row says which label this is", f"add the label, or {_GIVE_CLASSES}")
    for expected, label_id in enumerate(sorted(first_of_id)):
        if label_id != expected:
            cells = first_of_id[label_id][1]
            raise cells.error("label_id", f"ids must count up from 0, but {expected} is missing", _GIVE_CLASSES)
    return tuple(first_of_id[i][0] or str(i) for i in range(len(first_of_id)))


def find_class(cells: Cells, classes: Sequence[str], id_of: dict[str, int]) -> int | None:
    """The class index of a row from its label, its label_id or both; None where it has neither.

    Raises:
        InputError: a label or an id that is not among the classes, or a label whose id is another.
    """
    label, label_id = cells.values.get("label"), cells.integer("label_id", minimum=0)
    if label_id is not None and label_id >= len(classes):
        raise cells.error(
            "label_id", f"there are {len(classes)} classes", f"use 0 to {len(classes) - 1}, or {_GIVE_CLASSES}"
        )
    if label is None:
        return label_id
    if label not in id_of:
        near = difflib.get_close_matches(label, classes, n=1, cutoff=0.5)
        hint = f"did you mean {shown(near[0])}?" if near else f"add it to {CLASSES_FILE}"
        raise cells.error("label", f"is not one of the {len(classes)} classes", hint)
    if label_id is not None and id_of[label] != label_id:
        raise cells.error(
            "label_id",
            f"label {shown(label)} is class {id_of[label]}, and class {label_id} is {shown(classes[label_id])}",
            f"correct one of the two, or {_GIVE_CLASSES}",
        )
    return id_of[label]


def _check_pair(
    cells: Cells,
    label: str,
    label_id: int,
    first_of_label: dict[str, tuple[int | None, Cells]],
    first_of_id: dict[int, tuple[str | None, Cells]],
) -> None:
    fix = "give every label one label_id, and every label_id one label"
    other_id, other = first_of_label.get(label, (None, cells))
    if other_id is not None and other_id != label_id:
        raise cells.error("label_id", f"label {shown(label)} has label_id {other_id} in {other.where}", fix)
    other_label, other = first_of_id.get(label_id, (None, cells))
    if other_label is not None and other_label != label:
        raise cells.error("label", f"label_id {label_id} has label {shown(other_label)} in {other.where}", fix)
