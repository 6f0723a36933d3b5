"""Made folders in official layouts."""

import csv
from collections.abc import Collection
from pathlib import Path

from runs import noise_video

KINETICS_CLASSES = ("air drumming", "yoga")


def kinetics_folder(folder: Path, n_clips: int = 8, lacking: Collection[int] = (), n_frames: int = 8) -> Path:
    """Official lists of two classes, and the videos in ``videos/LABEL``; every other clip is in val."""
    rows: dict[str, list[tuple[object, ...]]] = {"train": [], "val": []}
    for i in range(n_clips):
        label, split = KINETICS_CLASSES[i // 2 % 2], ("train", "val")[i % 2]
        rows[split].append((label, f"id{i}", float(i), i + 10, "validate" if split == "val" else split))
        if i not in lacking:
            path = folder / "videos" / label.replace(" ", "_") / f"id{i}_{i:06d}_{i + 10:06d}.mkv"
            noise_video(path, n_frames, seed=i).rename(path.with_suffix(".mp4"))
    for split, listed in rows.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("label", "youtube_id", "time_start", "time_end", "split"), *listed])
    return folder
