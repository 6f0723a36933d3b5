"""Frame mAP in exact fractions, image by image, box by box."""

from collections.abc import Collection, Sequence
from fractions import Fraction

Box = tuple[int, int, int, int]
TrueRow = tuple[str, Box, int]
FoundRow = tuple[str, Box, int, float]


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: Box, b: Box) -> Fraction:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = width * height if width > 0 and height > 0 else 0
    return Fraction(shared, area(a) + area(b) - shared)


def marks_of_image(true: Sequence[Box], found: Sequence[Box]) -> list[bool]:
    """Right or wrong for the detections of one image and class, the best one first."""
    taken: set[int] = set()
    marks = []
    for box in found:
        best = max(range(len(true)), key=lambda i: (overlap(box, true[i]), -i), default=None)
        is_right = best is not None and overlap(box, true[best]) >= Fraction(1, 2) and best not in taken
        if is_right and best is not None:
            taken.add(best)
        marks.append(is_right)
    return marks


def average_precision(marks: Sequence[bool], n_true: int) -> Fraction:
    """For every box that could be recalled, the best precision among the ranks that recall so many or more."""
    points = [(sum(marks[: rank + 1]), Fraction(sum(marks[: rank + 1]), rank + 1)) for rank in range(len(marks))]
    best = (max((p for n, p in points if n >= wanted), default=Fraction(0)) for wanted in range(1, n_true + 1))
    return sum(best, Fraction(0)) / n_true


def frame_ap(
    true: Sequence[TrueRow],
    found: Sequence[FoundRow],
    *,
    classes: Collection[int],
    images: Collection[str] | None,
    excluded: Collection[str],
    limit: int | None,
) -> dict[int, Fraction | None]:
    """AP by class, None without ground truth; ``images`` are those that count, None for all."""
    true = [row for row in true if row[0] not in excluded and row[2] in classes]
    found = [row for row in found if row[0] not in excluded and row[2] in classes]
    found = sorted(found, key=lambda row: -row[3])  # Python's sort keeps the order of equals
    kept: list[FoundRow] = []
    for row in found:
        if images is not None and row[0] not in images:
            continue
        if limit is None or sum(other[0] == row[0] for other in kept) < limit:
            kept.append(row)
    kept = [row for row in kept if row[1][0] < row[1][2] and row[1][1] < row[1][3]]
    result: dict[int, Fraction | None] = {}
    for name in classes:
        here = [row for row in kept if row[2] == name]
        marks: dict[int, bool] = {}
        for image in {row[0] for row in here}:
            ranks = [rank for rank, row in enumerate(here) if row[0] == image]
            boxes = [box for key, box, of in true if key == image and of == name]
            marks.update(zip(ranks, marks_of_image(boxes, [here[rank][1] for rank in ranks]), strict=True))
        n_true = sum(row[2] == name for row in true)
        in_order = [marks[rank] for rank in range(len(here))]
        result[name] = average_precision(in_order, n_true) if n_true else None
    return result
