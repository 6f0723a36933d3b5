"""RoIAlign sample by sample, each read off its four neighbours."""

import math
from collections.abc import Sequence


def bilinear(plane: Sequence[Sequence[float]], y: float, x: float) -> float:
    """The value between cell centres at whole numbers; the edge's up to one cell outside, then nothing."""
    n_rows, n_columns = len(plane), len(plane[0])
    if y < -1 or y > n_rows or x < -1 or x > n_columns:
        return 0.0
    y, x = min(max(y, 0.0), n_rows - 1.0), min(max(x, 0.0), n_columns - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, n_rows - 1), min(left + 1, n_columns - 1)
    upper = plane[top][left] + (x - left) * (plane[top][right] - plane[top][left])
    lower = plane[bottom][left] + (x - left) * (plane[bottom][right] - plane[bottom][left])
    return upper + (y - top) * (lower - upper)


def roi_align_plane(
    plane: Sequence[Sequence[float]],
    box: Sequence[float],
    *,
    is_aligned: bool,
    samples_per_bin: int | None,
    output_size: int,
) -> list[list[float]]:
    """One channel, one box."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    if is_aligned:
        x1, y1 = x1 - 0.5, y1 - 0.5
    else:
        width, height = max(width, 1.0), max(height, 1.0)
    across = samples_per_bin or max(math.ceil(width / output_size), 1)
    down = samples_per_bin or max(math.ceil(height / output_size), 1)
    pooled = []
    for p in range(output_size):
        row = []
        for q in range(output_size):
            total = 0.0
            for i in range(down):
                for j in range(across):
                    y = y1 + (p + (i + 0.5) / down) * height / output_size
                    x = x1 + (q + (j + 0.5) / across) * width / output_size
                    total += bilinear(plane, y, x)
            row.append(total / (down * across))
        pooled.append(row)
    return pooled
