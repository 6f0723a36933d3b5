"""What the tests of embeddings share: a folder of clips with every modality, and a run of two steps on it."""

from pathlib import Path

import numpy as np
from runs import TINY, noise_video, write_index

from oskar.recipes import recipe
from oskar.train.pretrain import pretrain

N_FRAMES = 12  # at 25 a second
CAPTIONS = ("a man waves", "a woman sits down", "they run", "he jumps high", "nobody moves")


def write_joints(path: Path, n_frames: int = N_FRAMES, seed: int = 0, size: int = 32) -> Path:
    """One person in pixels of a frame of ``size``; in every fourth frame the joints 5 to 8 are missing."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(0.2, 0.8, (1, n_frames, 17, 2)) * size
    joints[:, ::4, 5:9] = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, joints2d=joints.astype(np.float32), layout=np.array("COCO-17"))
    return path


def mixed_folder(folder: Path, n_clips: int = 5) -> Path:
    """Clips c0, c1 ... of video, joints and a caption; the last has no caption."""
    rows: list[dict[str, object]] = []
    for i in range(n_clips):
        noise_video(folder / f"videos/c{i}.mkv", n_frames=N_FRAMES, seed=i)
        write_joints(folder / f"joints/c{i}.npz", seed=i)
        row: dict[str, object] = {
            "clip_id": f"c{i}", "path": f"videos/c{i}.mkv", "joints_path": f"joints/c{i}.npz",
            "label": "ab"[i % 2], "subject": i, "split": ("train", "test")[i % 2], "view": f"side {i}",
        }  # fmt: skip
        rows.append(row | ({"caption": CAPTIONS[i]} if i < n_clips - 1 else {}))
    return write_index(folder, rows)


def trained_run(run: Path, data: Path, *more: str) -> Path:
    """A run of all three modalities; ``more`` settings go before those of the smallest size."""
    config = recipe("oskar-tiny").with_overrides([*TINY, "data.captions=all", "train.steps=2", *more])
    pretrain(config, [str(data)], run)
    return run
