"""Videos with captions or questions, and where their files are."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oskar.data.formats.listed_clips import FoundClips
from oskar.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".gif")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedVideo:
    """A video and its captions in the order of the file; ``file_stems`` are the names its file may have."""

    clip_id: str
    file_stems: tuple[str, ...]
    captions: tuple[str, ...]
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoQuestion:
    """A question about a video and its one right answer; ``kind`` groups questions in the results."""

    question_id: str
    clip_id: str
    file_stems: tuple[str, ...]
    question: str
    answer: str
    kind: str
    split: str


def find_videos(
    clips: Iterable[CaptionedVideo | VideoQuestion], folder: Path, *, suffixes: Sequence[str] = VIDEO_SUFFIXES
) -> FoundClips:
    """The files of clips directly in ``folder``; a clip that several items name counts once.

    The suffix is compared in lower case, the stem exactly. A missing file is reported, no other is taken
    in its place.

    Raises:
        InputError: no such folder, or a clip for which it holds several files.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder", fix="name the folder that holds the video files")
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and path.is_file():
            files[path.stem].append(path)
    paths: dict[str, Path] = {}
    missing: list[str] = []
    for clip_id, stems in {clip.clip_id: clip.file_stems for clip in clips}.items():
        found = [path for stem in stems for path in files.get(stem, ())]
        if len(found) > 1:
            raise InputError(
                f"{folder}: clip {clip_id} could be {' or '.join(path.name for path in found)}",
                fix="keep one of them, or name the suffixes to look for",
            )
        if found:
            paths[clip_id] = found[0]
        else:
            missing.append(clip_id)
    return FoundClips(paths=paths, missing=tuple(missing))
