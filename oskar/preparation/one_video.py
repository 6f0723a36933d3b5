"""One video made into one row of a manifest: probed, put into the folder, its people chosen, its caption found."""

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from oskar.data.decoding import VideoInfo, probe
from oskar.data.labels import CLASSES_FILE
from oskar.data.video_file import VideoError
from oskar.errors import InputError
from oskar.files import TEMPORARY, not_written, write_bytes_atomic
from oskar.preparation.choice import People, choose
from oskar.preparation.detections import Detections
from oskar.preparation.models.caption_model import CaptionModel
from oskar.preparation.models.pose_model import PoseModel
from oskar.preparation.plan import Plan, VideoTask
from oskar.preparation.sidecars.read import plain_json, read_caption_sidecar, read_poses
from oskar.preparation.sidecars.video_facts import VideoFacts
from oskar.preparation.tracking import track

VIDEOS_FOLDER, JOINTS_FOLDER = "videos", "joints"

Value = TypeVar("Value")
Record = dict[str, Any]


@dataclass(slots=True)
class _Problems:
    """What could not be used, as {part, reason}."""

    found: list[dict[str, str]] = field(default_factory=list)

    def add(self, part: str, reason: str) -> None:
        self.found.append({"part": part, "reason": reason})

    def attempt(self, part: str, what: Callable[[], Value]) -> Value | None:
        """The value, or None and a problem; a video that cannot be decoded is not one part's problem."""
        try:
            return what()
        except VideoError:
            raise
        except InputError as error:
            self.add(part, str(error))
            return None


class VideoPreparer:
    """Prepares videos one at a time; models are loaded at the first video that needs them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @cached_property
    def _pose_model(self) -> PoseModel | None:
        plan = self._plan
        return None if plan.pose_model is None else PoseModel(plan.pose_model, plan.config.detector, plan.n_threads)

    @cached_property
    def _caption_model(self) -> CaptionModel | None:
        plan = self._plan
        return None if plan.caption_model is None else CaptionModel(plan.caption_model, plan.config.captions)

    def __call__(self, task: VideoTask) -> Record:
        """The record of a video: its row, None where the video is bad, and its problems.

        Raises:
            StoppedRunError: a file could not be written.
        """
        problems = _Problems()
        row: dict[str, str] | None = None
        try:
            row = self._row(task, problems)
        except InputError as error:
            problems.add("video", str(error))
        return {
            "clip_id": task.clip_id,
            "video": task.name,
            "key": task.key(self._plan),
            "row": row,
            "problems": problems.found,
        }

    def _row(self, task: VideoTask, problems: _Problems) -> dict[str, str]:
        if task.name != task.name.strip() or task.clip_id != task.clip_id.strip():
            raise InputError(f"{task.path}: its name begins or ends with a space", fix="rename it")
        info = probe(task.path)
        if task.shared_with is not None:
            problems.add("sidecars", f"{task.name} and {task.shared_with} share their stem. Fix: rename one of them")
        plain, details = problems.attempt("details", lambda: plain_json(task.sidecars)) or (None, {})
        row = {"clip_id": task.clip_id, "path": "", **task.columns, **details}
        row |= {"n_frames": str(info.n_frames), "fps": f"{info.fps:.6g}"}
        row |= {"width": str(info.width), "height": str(info.height)}
        self._check_label(task, row, problems)
        found = self._people(task, info, plain, problems)
        if found is not None:
            self._keep_people(*found, task, info, row)
        caption = self._caption(task, info, row, problems)
        row.pop("caption", None)
        if caption is not None:
            row["caption"], row["x_caption_source"] = " ".join(caption[0].split()), caption[1]
        row["path"] = place_video(task, self._plan)
        return {column: value for column, value in row.items() if value}

    def _people(
        self, task: VideoTask, info: VideoInfo, plain: Path | None, problems: _Problems
    ) -> tuple[Detections, str] | None:
        """The people of a video and who says so: its sidecar, or else the model."""
        size = (float(info.width), float(info.height))
        plan = self._plan
        facts = VideoFacts(
            n_frames=info.n_frames, size=size, first_frame=plan.config.people.first_frame, layout=plan.layout
        )
        n_before = len(problems.found)
        found = problems.attempt(
            "poses", lambda: read_poses(task.sidecars, plain, task.sample, plan.pose_pickle, facts)
        )
        model = self._pose_model
        if found is None and model is not None and len(problems.found) == n_before:
            found = problems.attempt("poses", lambda: (model.read(task.path, facts), model.name))
        if found is not None and not len(found[0]):
            problems.add("poses", f"{task.name}: nobody was found by {found[1]}")
            return None
        return found

    def _keep_people(
        self, found: Detections, source: str, task: VideoTask, info: VideoInfo, row: dict[str, str]
    ) -> None:
        config = self._plan.config.people
        people = choose(found, track(found, config), config.n_people, (float(info.width), float(info.height)))
        path = self._plan.out / JOINTS_FOLDER / f"{task.clip_id}.npz"
        make_folder(path.parent)
        write_bytes_atomic(path, joints_file(people))
        row["joints_path"] = path.relative_to(self._plan.out).as_posix()
        row["x_pose_source"], row["x_people"] = source, str(len(people.joints))

    def _caption(
        self, task: VideoTask, info: VideoInfo, row: dict[str, str], problems: _Problems
    ) -> tuple[str, str] | None:
        """A caption and who wrote it: a sidecar or the index, or else the model."""
        n_before = len(problems.found)
        said = {"caption": row["caption"]} if "caption" in row else {}
        written = problems.attempt("caption", lambda: read_caption_sidecar(task.sidecars, said))
        if written is not None:
            return written, task.sidecars.captions[0].suffix[1:] if task.sidecars.captions else "given"
        model = self._caption_model
        if model is None or len(problems.found) > n_before:
            return None
        answer = problems.attempt("caption", lambda: model.caption(task.path, info.n_frames))
        return None if answer is None else (answer, f"model {model.name}")

    def _check_label(self, task: VideoTask, row: dict[str, str], problems: _Problems) -> None:
        """The folder's name is the label where ``classes.txt`` lists it; a label that it does not list is left out."""
        classes = self._plan.classes
        if not classes:
            return
        folder = Path(task.name).parent.name
        if folder in classes and row.setdefault("label", folder) != folder:
            problems.add("details", f"{task.name}: label {row['label']!r} in the folder {folder!r}. Fix: correct one")
            row.pop("label")
        elif "label" in row and row["label"] not in classes:
            problems.add("details", f"{task.name}: label {row['label']!r} is not in {CLASSES_FILE}. Fix: add it there")
            row.pop("label")


def joints_file(people: People) -> bytes:
    """The bytes of a joints file: our own format, in shares of the frame."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        joints=people.joints,
        boxes=people.boxes,
        box_scores=people.box_scores,
        track_scores=people.track_scores,
        layout=np.array("COCO-17"),
        units=np.array("share"),
    )
    return stream.getvalue()


def place_video(task: VideoTask, plan: Plan) -> str:
    """The path of a video from the folder made: where it is if that is inside, else linked or copied into it.

    Raises:
        InputError: it cannot be linked.
        StoppedRunError: it cannot be copied.
    """
    real_out = Path(os.path.realpath(plan.out))
    if task.path.is_relative_to(real_out):
        return task.path.relative_to(real_out).as_posix()
    target = plan.out / VIDEOS_FOLDER / task.name
    make_folder(target.parent)
    temporary = target.with_name(TEMPORARY + target.name)
    try:
        if not (target.exists() and os.path.samefile(task.path, target)):
            temporary.unlink(missing_ok=True)
            if plan.is_copied:
                shutil.copy2(task.path, temporary)
            else:
                os.link(task.path, temporary)
            temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if plan.is_copied:
            raise not_written(target, task.path.stat().st_size, str(error)) from error
        raise InputError(
            f"{task.path}: cannot be linked to {target} ({error.strerror})", fix="use --copy-videos"
        ) from error
    return target.relative_to(plan.out).as_posix()


def make_folder(folder: Path) -> None:
    """Make a folder; raises InputError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror})", fix="name an --out that you may write to"
        ) from error
