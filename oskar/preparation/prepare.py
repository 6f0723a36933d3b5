"""A folder of videos into a folder to train on: index, joints, captions, and a record of what could not be used."""

import csv
import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oskar.data.labels import CLASSES_FILE, read_classes
from oskar.data.manifest import INDEX_FILE, read_manifest
from oskar.data.skeletons import folder_layout
from oskar.errors import InputError, InterruptedRunError
from oskar.files import write_text_atomic
from oskar.preparation.engines import ENGINES
from oskar.preparation.listing import Roots, list_tasks
from oskar.preparation.models.caption_model import CaptionModel
from oskar.preparation.models.onnx_file import file_sha256
from oskar.preparation.models.pose_model import PoseModel, PoseModelFiles, convention_named
from oskar.preparation.one_video import JOINTS_FOLDER, Record, make_folder
from oskar.preparation.plan import VERSION, Plan, VideoTask
from oskar.preparation.records import RecordsFile, has_records
from oskar.preparation.settings import PrepareConfig
from oskar.progress import Progress

SUMMARY_FILE = "prepare.json"
_PICKLE_SUFFIXES = (".pkl", ".pickle")
_COLUMNS = ("clip_id", "path", "joints_path", "caption", "label", "split", "subject", "n_frames", "fps", "width")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Backends:
    """Where poses and captions come from besides the files beside the videos.

    ``poses`` is a folder of sidecars, or a PYSKL pickle; ``captions`` a folder. ``pose_convention`` says how
    ``pose_model`` answers; ``person_model`` finds the people that rtmpose looks at. Sidecars go before models.
    """

    poses: Path | None = None
    captions: Path | None = None
    pose_model: Path | None = None
    pose_convention: str | None = None
    person_model: Path | None = None
    caption_model: Path | None = None


def prepare(
    videos: Path,
    out: Path,
    backends: Backends | None = None,
    config: PrepareConfig | None = None,
    *,
    copy_videos: bool = False,
    workers: int | None = None,
    engine: str = "local",
    resume: bool = False,
) -> dict[str, Any]:
    """Make ``out`` from a folder of videos and return what is in its ``prepare.json``.

    Videos outside ``out`` are hard-linked into ``out/videos``, or copied. By default one worker a core.

    Raises:
        InputError: wrong folders, models or settings, no usable video, or ``out`` holds data and ``resume`` is not set.
        InterruptedRunError: Ctrl-C; what is done stays done.
        StoppedRunError: the disk is full, or a worker died.
    """
    backends, config = backends or Backends(), config or PrepareConfig()
    n_workers = _count(workers)
    if engine not in ENGINES:
        raise InputError(f"--engine {engine!r} is not known", fix=f"use {' or '.join(ENGINES)}")
    _check_folders(videos, out, backends, resume=resume)
    is_pickle = backends.poses is not None and backends.poses.suffix.lower() in _PICKLE_SUFFIXES
    pickle, poses = (backends.poses, None) if is_pickle else (None, backends.poses)
    roots = Roots(videos=videos, out=out, poses=poses, captions=backends.captions, pickle=pickle)
    tasks = list_tasks(roots)
    plan = Plan(
        videos=videos,
        out=out,
        config=config,
        pose_model=_pose_files(backends),
        caption_model=backends.caption_model,
        pose_pickle=pickle,
        is_copied=copy_videos,
        classes=read_classes(videos),
        layout=(None if poses is None else folder_layout(poses)) or folder_layout(videos),
        n_threads=max(_n_cores() // n_workers, 1),
    )
    models = _check_models(plan)
    make_folder(out)
    records = _run(plan, tasks, n_workers, engine)
    return _finish(plan, tasks, records, models)


def _run(plan: Plan, tasks: Sequence[VideoTask], workers: int, engine: str) -> dict[str, Record]:
    file = RecordsFile(plan.out)
    records = file.done(tasks, plan)
    left = [task for task in tasks if task.clip_id not in records]
    if not left:
        return records
    try:
        with Progress(len(tasks), len(records), unit="videos") as bar:
            for record in ENGINES[engine](plan, left, min(workers, len(left))):
                file.append(record)
                records[record["clip_id"]] = record
                bar.advance(None)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"{plan.out}: stopped after {len(records)} of {len(tasks)} videos", fix="go on with --resume"
        ) from error
    return records


def _finish(
    plan: Plan, tasks: Sequence[VideoTask], records: Mapping[str, Record], models: Mapping[str, object]
) -> dict[str, Any]:
    """Write index, classes and summary; the index is read back as training reads it."""
    made = [records[task.clip_id] for task in tasks]
    rows = [record["row"] for record in made if record["row"] is not None]
    problems = [{"video": record["video"], **problem} for record in made for problem in record["problems"]]
    summary = {
        "format": "oskar-preparation",
        "version": VERSION,
        "videos": str(plan.videos),
        "n_videos": len(tasks),
        "n_clips": len(rows),
        "n_with_poses": sum("joints_path" in row for row in rows),
        "n_with_caption": sum("caption" in row for row in rows),
        "n_problems": len(problems),
        "poses_by_source": dict(Counter(row["x_pose_source"] for row in rows if "x_pose_source" in row)),
        "captions_by_source": dict(Counter(row["x_caption_source"] for row in rows if "x_caption_source" in row)),
        "models": models,
        "settings": dataclasses.asdict(plan.config),
        "problems": problems,
    }
    write_text_atomic(plan.out / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    if not rows:
        first = problems[0]["reason"]
        raise InputError(
            f"{plan.videos}: none of {len(tasks)} videos can be used, the first: {first}",
            fix=f"see {plan.out / SUMMARY_FILE}",
        )
    if plan.classes:
        write_text_atomic(plan.out / CLASSES_FILE, "\n".join(plan.classes) + "\n")
    write_text_atomic(plan.out / INDEX_FILE, _csv(rows))
    read_manifest(plan.out)
    return summary


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    others = sorted({column for row in rows for column in row} - set(_COLUMNS))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [*_COLUMNS, *others], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _check_folders(videos: Path, out: Path, backends: Backends, *, resume: bool) -> None:
    if not videos.is_dir():
        raise InputError(f"videos {videos}: is not a folder", fix="name the folder that holds the videos")
    for option, path in (("--poses", backends.poses), ("--captions", backends.captions)):
        is_pickle = option == "--poses" and path is not None and path.suffix.lower() in _PICKLE_SUFFIXES
        if path is not None and not (path.is_file() if is_pickle else path.is_dir()):
            raise InputError(f"{option} {path}: there is no such folder", fix="name the folder that holds the files")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file", fix="name a folder")
    has_begun = has_records(out)
    if resume and not has_begun:
        raise InputError(f"--resume: {out} holds no preparation", fix="leave out --resume, or name its --out")
    if has_begun and not resume:
        raise InputError(
            f"--out {out} holds a preparation already", fix="go on with it by --resume, or name another --out"
        )
    taken = [name for name in (INDEX_FILE, JOINTS_FOLDER) if (out / name).exists()]
    if taken and not has_begun:
        raise InputError(f"--out {out} holds a {taken[0]} that is not made here", fix="name another --out")


def _pose_files(backends: Backends) -> PoseModelFiles | None:
    if backends.pose_model is None:
        for option, value in (
            ("--pose-convention", backends.pose_convention),
            ("--person-model", backends.person_model),
        ):
            if value is not None:
                raise InputError(f"{option} {value} without --pose-model", fix="name the model's file, or leave it out")
        return None
    return PoseModelFiles(
        path=backends.pose_model,
        convention=convention_named(backends.pose_convention),
        person_path=backends.person_model,
    )


def _check_models(plan: Plan) -> dict[str, dict[str, str]]:
    """What is used, with digest and licence as each file states it; a model that cannot be used fails here."""
    models: dict[str, dict[str, str]] = {}
    if plan.pose_model is not None:
        for path, licence in PoseModel(plan.pose_model, plan.config.detector, plan.n_threads).licences.items():
            models[path.name] = {"sha256": file_sha256(path), "licence": licence}
    if plan.caption_model is not None:
        caption_model = CaptionModel(plan.caption_model, plan.config.captions)
        caption_model.load()
        models[caption_model.name] = {
            "sha256": file_sha256(plan.caption_model / "config.json"),
            "licence": caption_model.licence,
        }
    return models


def _count(workers: int | None) -> int:
    if workers is None:
        return _n_cores()
    if workers < 1:
        raise InputError(f"--workers {workers}", fix="use 1 or more")
    return workers


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
