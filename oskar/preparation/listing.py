"""The videos of a folder as tasks: a plain folder, or one with an index whose columns are carried along."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from oskar.data.columns import OWN_PREFIX, Cells, check_encodable, read_table
from oskar.data.folder import VIDEO_SUFFIXES, find_files
from oskar.data.formats.pyskl import PysklSample, read_pyskl
from oskar.errors import InputError
from oskar.preparation.plan import VideoTask
from oskar.preparation.sidecars.find import SidecarFiles, find_sidecars

_INDEX_FILE = "index.csv"
# What is measured anew, or holds for the files of the old folder only.
_NOT_CARRIED = frozenset(
    ("clip_id", "path", "joints_path", "has_joints", "row", "start", "end", "n_frames", "fps", "width", "height")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Roots:
    """Where sidecars are looked for: below these folders, at the videos' own places; ``pickle`` is PYSKL's."""

    videos: Path
    out: Path
    poses: Path | None = None
    captions: Path | None = None
    pickle: Path | None = None


def list_tasks(roots: Roots) -> list[VideoTask]:
    """One task a video, in the order of their paths or of the index.

    The id is that of the index, or the path without its suffix; two videos of one stem keep it.

    Raises:
        InputError: no video, a folder that cannot be listed, a wrong index, an id that stands twice.
    """
    index = roots.videos / _INDEX_FILE
    named = _from_index(index, roots.videos) if index.exists() else _from_folder(roots)
    if not named:
        raise InputError(
            f"{roots.videos}: holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})", fix="name a folder of videos"
        )
    uses = Counter(_stem(name) for name in named)
    samples = {} if roots.pickle is None else dict(read_pyskl(roots.pickle).samples)
    folders = [folder for folder in (roots.videos, roots.poses, roots.captions) if folder is not None]
    sidecars = _sidecars_of(roots, [stem for stem, n in uses.items() if n == 1], folders)
    tasks = []
    for name, cells in named.items():
        stem = _stem(name)
        other = next((n for n in named if n != name and _stem(n) == stem), None) if uses[stem] > 1 else None
        clip_id = cells.values["clip_id"] if cells is not None else (stem if other is None else name)
        columns = {} if cells is None else {k: v for k, v in cells.values.items() if k not in _NOT_CARRIED}
        if cells is None and "/" in name:
            columns[f"{OWN_PREFIX}folder"] = Path(name).parent.name
        files = _with_listed_joints(sidecars.get(stem, SidecarFiles()), cells, roots.videos)
        sample = _sample_of(samples, clip_id, stem)
        path = Path(os.path.realpath(roots.videos / name))
        tasks.append(
            VideoTask(
                clip_id=clip_id, name=name, path=path, sidecars=files, columns=columns, sample=sample, shared_with=other
            )
        )
    _check_ids(tasks)
    return tasks


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def _from_folder(roots: Roots) -> dict[str, Cells | None]:
    is_inside = roots.out != roots.videos and roots.out.is_relative_to(roots.videos)
    found = [path for path in find_files(roots.videos) if path.suffix.lower() in VIDEO_SUFFIXES]
    kept = [path for path in found if not (is_inside and path.is_relative_to(roots.out))]
    names = [path.relative_to(roots.videos).as_posix() for path in kept]
    return {check_encodable(name, f"a file name in {roots.videos}"): None for name in names}


def _from_index(index: Path, folder: Path) -> dict[str, Cells | None]:
    rows: dict[str, Cells | None] = {}
    for cells in read_table(index).rows:
        path = cells.values.get("path")
        if path is None:
            raise cells.error("path", "is empty", "list rows with a video only, or name the folder of the videos")
        if "clip_id" not in cells.values:
            raise cells.error("clip_id", "is missing", "give every clip an id in the column clip_id")
        name = os.path.normpath(path)
        if Path(path).is_absolute() or name.startswith(".."):
            raise cells.error("path", f"is not below {folder}", "write paths from the folder of the index")
        if name in rows:
            raise cells.error("path", "is listed twice", "list every video once")
        rows[Path(name).as_posix()] = cells
    return rows


def _sidecars_of(roots: Roots, stems: list[str], folders: list[Path]) -> Mapping[str, SidecarFiles]:
    """Poses from the folder of poses, captions from that of captions, where they are named apart from the videos."""
    found = {folder: find_sidecars(stems, [folder], roots.out) for folder in dict.fromkeys(folders)}
    beside = found[roots.videos]
    poses, captions = (found[folder or roots.videos] for folder in (roots.poses, roots.captions))
    return {
        stem: SidecarFiles(
            arrays=poses[stem].arrays,
            poses=poses[stem].poses,
            openpose=poses[stem].openpose,
            plain=tuple(dict.fromkeys((*beside[stem].plain, *poses[stem].plain, *captions[stem].plain))),
            captions=captions[stem].captions,
        )
        for stem in stems
    }


def _with_listed_joints(files: SidecarFiles, cells: Cells | None, folder: Path) -> SidecarFiles:
    listed = None if cells is None else cells.values.get("joints_path")
    if listed is None or not listed.lower().endswith(".npz") or (cells and cells.values.get("has_joints") == "0"):
        return files
    return replace(files, arrays=tuple(dict.fromkeys((*files.arrays, folder / listed))))


def _sample_of(samples: Mapping[str, PysklSample], clip_id: str, stem: str) -> PysklSample | None:
    return next((samples[name] for name in (clip_id, stem, Path(stem).name) if name in samples), None)


def _check_ids(tasks: list[VideoTask]) -> None:
    twice = [clip_id for clip_id, n in Counter(task.clip_id for task in tasks).items() if n > 1]
    if twice:
        raise InputError(f"clip {twice[0]!r} is there twice", fix="give every video another id or path")
