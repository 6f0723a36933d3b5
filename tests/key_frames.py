"""A made AVA folder of people who are rectangles: what they do is their colour."""

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np
from runs import write_video

COLOURS = {1: (230, 20, 20), 3: (20, 210, 20), 80: (20, 20, 230)}  # class ids as in the files
EVERYBODY = 12  # a class that all have and that is not evaluated
BOXES = ((0.0625, 0.125, 0.4375, 0.875), (0.5625, 0.125, 0.9375, 0.875))
FPS, SIDE = 25, 32
Actions = tuple[int, int]  # of the left and the right person


def actions_of(seed: int, n_seconds: int) -> list[Actions]:
    """Two people who never do the same."""
    rng = np.random.default_rng(seed)
    ids = list(COLOURS)
    return [(ids[a], ids[b]) for a, b in (rng.permutation(3)[:2] for _ in range(n_seconds))]


def write_movie(path: Path, actions: list[Actions], seed: int) -> None:
    """A second of frames around each of the seconds 1, 2, ...; half a second before."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(90, 12, ((len(actions) + 1) * FPS, SIDE, SIDE, 3))
    for number, done in enumerate(actions, start=1):
        some = slice(number * FPS - FPS // 2, number * FPS + FPS // 2 + 1)
        for class_id, (x1, y1, x2, y2) in zip(done, (np.array(BOXES) * SIDE).astype(int), strict=True):
            size = frames[some, y1:y2, x1:x2].shape
            frames[some, y1:y2, x1:x2] = np.array(COLOURS[class_id]) + rng.normal(0, 12, size)
    write_video(path, frames.clip(0, 255).astype(np.uint8))


def ava_folder(folder: Path, *, n_seconds: int = 12, excluded: Collection[int] = (3,)) -> Path:
    """Two movies to learn from and one to test on, of which some seconds are excluded."""
    folder.mkdir(parents=True)
    for split, names in {"train": ("movieA", "movieB"), "val": ("movieC",)}.items():
        rows: list[tuple[object, ...]] = []
        for name in names:
            seed = ord(name[-1])
            actions = actions_of(seed, n_seconds)
            write_movie(folder / "movies" / f"{name}.mkv", actions, seed)
            for second, done in enumerate(actions, start=1):
                for person, (class_id, box) in enumerate(zip(done, BOXES, strict=True)):
                    rows += [(name, f"{second:04d}", *box, c, person) for c in (class_id, EVERYBODY)]
        write_rows(folder / f"ava_{split}_v2.2.csv", rows)
    write_rows(folder / "ava_val_excluded_timestamps_v2.2.csv", [("movieC", f"{s:04d}") for s in excluded])
    blocks = [f'item {{\n  name: "class {i}"\n  id: {i}\n}}\n' for i in COLOURS]
    (folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text("".join(blocks))
    return folder


def write_rows(path: Path, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
