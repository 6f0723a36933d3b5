"""What the tests of runs share: shrunk recipes, made data folders, the command line in this process or a child."""

import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from oskar.cli import main
from oskar.config import Config
from oskar.recipes import recipe

TINY = (
    "tokens.resolution=32", "tokens.patch_size=8", "tokens.n_frames=4", "tokens.n_people=2", "tokens.n_words=8",
    "tokens.vocabulary_size=64", "masking.n_visible=12", "masking.n_target=12", "model.width=32", "model.n_blocks=1",
    "predictor.width=32", "predictor.n_layers=2", "train.batch_size=4", "train.precision=float32", "train.steps=3",
    "train.log_every_steps=1", "data.workers=0", "data.captions=none", "train.device=cpu",
)  # fmt: skip


def shrunk(name: str) -> Config:
    """A recipe at the size of a toy, with all that makes it itself."""
    config = recipe(name)
    masking = config.masking
    if masking.style != "blocks":
        masking = replace(masking, n_visible=24, n_target=24)
    return replace(
        config,
        tokens=replace(config.tokens, resolution=32, patch_size=8, n_people=2, n_words=16, vocabulary_size=64),
        masking=masking,
        model=replace(config.model, width=32, n_blocks=2, n_heads=4),
        predictor=replace(config.predictor, width=32, n_layers=2, n_heads=4),
        train=replace(config.train, steps=20, batch_size=4, precision="float32", lr=1e-3, lr_scaling="none"),
    )


def write_video(path: Path, frames: NDArray[np.uint8]) -> Path:
    """Lossless video of ``[T, H, W, 3]`` pictures; ``path`` ends in .mkv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        stream.codec_context.thread_count = 1
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode(None))
    return path


def noise_video(path: Path, n_frames: int = 8, seed: int = 0, size: int = 32) -> Path:
    shape = (n_frames, size, size, 3)
    return write_video(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_index(folder: Path, rows: Sequence[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def joints_of(label: int, n_frames: int, seed: int) -> NDArray[np.float32]:
    """Metres ``[T, 17, 3]`` of a person whose arms and legs say the class."""
    rng = np.random.default_rng(seed)
    body = np.random.default_rng(label).normal(0, 0.4, (17, 3))
    body[:, 2] += 3.0
    return (body + rng.normal(0, 0.02, (n_frames, 17, 3))).astype(np.float32)


def packed_folder(folder: Path, n_clips: int, n_classes: int = 3, n_frames: int = 6) -> Path:
    """Skeletons of ``n_classes`` classes in one packed file, every other clip in the test split."""
    folder.mkdir(parents=True, exist_ok=True)
    joints = np.concatenate([joints_of(i // 2 % n_classes, n_frames, 100 + i) for i in range(n_clips)])
    np.savez(
        folder / "skeletons.npz",
        joints=joints,
        offsets=np.arange(n_clips + 1) * n_frames,
        layout=np.array("COCO-17"),
        units=np.array("metres"),
        up=np.array("+y"),
    )
    rows: list[dict[str, object]] = [
        {
            "clip_id": f"s{i}",
            "start": i * n_frames,
            "end": (i + 1) * n_frames,
            "label": "abcdefgh"[i // 2 % n_classes],
            "split": ("train", "test")[i % 2],
        }
        for i in range(n_clips)
    ]
    return write_index(folder, rows)


def video_folder(folder: Path, n_clips: int, **columns: Callable[[int], object]) -> Path:
    """Noise videos v0.mkv ... and an index; further ``columns`` as functions of the clip's number."""
    rows: list[dict[str, object]] = []
    for i in range(n_clips):
        noise_video(folder / f"v{i}.mkv", seed=i)
        rows.append({"clip_id": f"v{i}", "path": f"v{i}.mkv"} | {name: make(i) for name, make in columns.items()})
    return write_index(folder, rows)


def write_questions(folder: Path, *rows: tuple[str, ...], header: str = "clip_id,question,answer") -> Path:
    """Write ``qa.csv`` into a folder."""
    with (folder / "qa.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
    return folder


def official_questions(folder: Path, name: str) -> Path:
    """The official files of a benchmark: two training questions about clip 0, one about test clips 1 and 2 each.

    The video of clip 2 is missing.
    """
    (folder / "videos").mkdir(parents=True)
    asked = {
        "train": [(0, "what is it", "kite"), (0, "who runs", "dog")],
        "test": [(1, "what is it", "kite"), (2, "who runs", "cook")],
    }
    for split, questions in asked.items():
        if name == "tgif-frameqa":
            lines = ["gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription"]
            lines += [f"gif{v}\t{q}\t{a}\t{i}\tFRAMEQA{i}\t{i}\tsecret {a}" for i, (v, q, a) in enumerate(questions)]
            (folder / f"{split.capitalize()}_frameqa_question.csv").write_text("\n".join(lines) + "\n")
        else:
            entries = [{"id": i, "video_id": v, "question": q, "answer": a} for i, (v, q, a) in enumerate(questions)]
            (folder / f"{split}_qa.json").write_text(json.dumps(entries))
    stem = {"msrvtt-qa": "video", "msvd-qa": "vid", "tgif-frameqa": "gif"}[name]
    for i in range(2):
        noise_video(folder / "videos" / f"{stem}{i}.mkv", seed=i)
    return folder


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class CommandLine:
    """``oskar ...`` in this process: exit code and everything printed, on one line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> tuple[int, str]:
        self._monkeypatch.setattr(sys, "argv", ["oskar", *map(str, words)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = self._capsys.readouterr()
        return int(stopped.value.code or 0), printed.out + printed.err


def forked(run: Callable[[], object], log: Path) -> int:
    """Run in a child process with its output in ``log``; returns its id. The child's exit code is that of a program."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        torch.set_num_threads(1)
        run()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def forked_command(log: Path, *words: object) -> int:
    """``oskar ...`` in a child process; returns its id."""

    def run() -> None:
        sys.argv = ["oskar", *map(str, words)]
        main()

    return forked(run, log)


def rows_of(evaluation: Path) -> list[dict[str, str]]:
    """The rows of an evaluation's ``predictions.csv``."""
    with (evaluation / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
