"""What is to be done: one task a video, and the plan that all tasks share."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oskar.data.formats.pyskl import PysklSample
from oskar.preparation.models.pose_model import PoseModelFiles
from oskar.preparation.settings import PrepareConfig
from oskar.preparation.sidecars.find import SidecarFiles
from oskar.tokens.layouts import Layout

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What holds for every video; ``classes`` are those of ``classes.txt``.

    ``layout`` is that of ``joint_names.txt``; ``n_threads`` are for each worker.
    """

    videos: Path
    out: Path
    config: PrepareConfig
    pose_model: PoseModelFiles | None = None
    caption_model: Path | None = None
    pose_pickle: Path | None = None
    is_copied: bool = False
    classes: tuple[str, ...] = ()
    layout: Layout | None = None
    n_threads: int = 1

    @property
    def identity(self) -> str:
        """Changes with everything that changes results, so that those of another plan are not taken for this one's."""
        models = [self.pose_pickle, self.caption_model and self.caption_model / "config.json"]
        if self.pose_model is not None:
            models += [self.pose_model.path, self.pose_model.person_path]
        said = [
            *(VERSION, dataclasses.asdict(self.config), self.is_copied, self.classes),
            self.layout.joint_names if self.layout is not None else None,
            self.pose_model.convention if self.pose_model is not None else None,
            [None if path is None else state_of(path) for path in models],
        ]
        return json.dumps(said, sort_keys=True)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VideoTask:
    """One video: ``name`` is its path below the folder of videos, ``columns`` what an index says of it.

    ``shared_with`` names another video of the same stem, with which no sidecar can be shared.
    """

    clip_id: str
    name: str
    path: Path
    sidecars: SidecarFiles
    columns: Mapping[str, str] = field(default_factory=dict)
    sample: PysklSample | None = None
    shared_with: str | None = None

    def key(self, plan: Plan) -> str:
        """A digest of the plan and of size and time of every file that the result depends on."""
        files = [state_of(path) for path in (self.path, *self.sidecars.all)]
        said = [plan.identity, self.clip_id, dict(self.columns), self.shared_with, files]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def state_of(path: Path) -> Sequence[str | int]:
    """Path, size and time of change of a file; the path alone where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), stat.st_size, stat.st_mtime_ns]
