"""A plain folder of videos with optional sidecar files, listed as if it had an index."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from oskar.data.columns import OWN_PREFIX, Cells, Table, check_encodable, check_name, read_text, shown
from oskar.data.labels import CLASSES_FILE
from oskar.errors import InputError

# fmt: off
VIDEO_SUFFIXES = frozenset(
    (
        ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
        ".ogv", ".ts", ".webm", ".wmv",
    )
)
# fmt: on
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))
SIDECAR_KEYS = ("caption", "label", "split", "subject")
_COLUMNS = ("clip_id", "path", "joints_path", *SIDECAR_KEYS)


def list_folder(folder: Path, classes: Sequence[str]) -> Table:
    """One row per video below ``folder``, in the order of their paths; the id is the path without its suffix.

    Beside a video, files of the same stem add to it: ``.txt`` its caption, ``.npz`` its joints,
    ``.json`` an object with caption, label, split, subject or keys that start with ``x_``. Two
    videos of one stem keep the suffix in their ids and may have no such files. A video
    in a sub-folder carries that folder's name as metadata; it is the label only where
    ``classes.txt`` lists it. Names that start with a dot are passed over.

    Raises:
        InputError: no video, a linked folder, a sidecar of two videos, a sidecar that is not what it should be.
    """
    videos = [path for path in find_files(folder) if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        listed = sorted(path.name for path in folder.glob("*.csv"))
        fix = f"name a manifest: {', '.join(listed[:5])}" if listed else "add an index.csv, or name a folder of videos"
        raise InputError(f"{folder}: holds no index.csv and no video ({' '.join(sorted(VIDEO_SUFFIXES))})", fix=fix)
    return list_videos(folder, videos, classes)


def list_videos(folder: Path, videos: Sequence[Path], classes: Sequence[str]) -> Table:
    """One row for each of some videos below ``folder``, as ``list_folder`` has them."""
    uses = Counter(video.with_suffix("") for video in videos)
    rows: list[Cells] = []
    for video in videos:
        is_alone = uses[video.with_suffix("")] == 1
        path = video.relative_to(folder)
        check_encodable(path.as_posix(), f"a file name in {folder}")
        clip_id = (path.with_suffix("") if is_alone else path).as_posix()
        values = {"clip_id": clip_id, "path": path.as_posix(), **_read_sidecars(folder, video, classes, is_alone)}
        rows.append(Cells(where=str(video), values=values))
    return Table(source=folder, columns=_COLUMNS, rows=tuple(rows))


def find_files(folder: Path) -> list[Path]:
    """The files at any depth, sorted; names that start with a dot are passed over.

    Raises InputError where a folder cannot be listed or is a link.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be listed ({error.strerror})", fix="check its permissions"
        ) from error

    found: list[Path] = []
    for name, children, files in os.walk(folder, onerror=refuse):
        parent = Path(name)
        children[:] = [child for child in children if not child.startswith(".")]
        for child in children:
            if (parent / child).is_symlink():
                raise InputError(
                    f"{parent / child}: is a linked folder", fix="move the folder here, or name it as data of its own"
                )
        found += [parent / file for file in files if not file.startswith(".")]
    return sorted(found)


def _read_sidecars(folder: Path, video: Path, classes: Sequence[str], is_alone: bool) -> dict[str, str]:
    values: dict[str, str] = {}
    joints, text, details = (video.with_suffix(suffix) for suffix in (".npz", ".txt", ".json"))
    for sidecar in (joints, text, details):
        if not is_alone and sidecar.exists():
            raise InputError(
                f"{sidecar}: belongs to {video.name} and to another video of that stem",
                fix="rename one of the videos, or list the clips in an index.csv",
            )
    if joints.exists():
        values["joints_path"] = joints.relative_to(folder).as_posix()
    if details.exists():
        values |= _read_details(details)
    if text.exists():
        if "caption" in values:
            raise InputError(f"{details}: has a caption, and so has {text.name}", fix="keep one of the two")
        values["caption"] = read_text(text).strip()
    if video.parent != folder:
        values["folder"] = video.parent.name
        if video.parent.name in classes:
            label = values.setdefault("label", video.parent.name)
            if label != video.parent.name:
                raise InputError(
                    f"{details}: label {shown(label)} contradicts the folder {shown(video.parent.name)}, a class of "
                    f"{CLASSES_FILE}",
                    fix="correct the label, or move the video to the folder of its class",
                )
    return {column: value for column, value in values.items() if value}


def _read_details(path: Path) -> dict[str, str]:
    try:
        details = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg})", fix="repair or remove it") from error
    if not isinstance(details, dict):
        raise InputError(f"{path}: holds a {type(details).__name__}", fix='write an object, such as {"caption": "..."}')
    values: dict[str, str] = {}
    for key, value in details.items():
        check_name(key, SIDECAR_KEYS, str(path), "key")
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not (key.startswith(OWN_PREFIX) and is_number):
            raise InputError(f"{path}, {key} = {shown(repr(value))}: not a text", fix='write it in "double quotes"')
        values[key] = check_encodable(str(value).strip(), f"{path}, {key}")
    return values
