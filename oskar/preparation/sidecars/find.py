"""Which files beside videos hold their poses, captions and details: by the stem of their names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oskar.data.folder import find_files
from oskar.preparation.sidecars.captions import CAPTION_SUFFIXES
from oskar.preparation.sidecars.openpose import FILE_NAME

_RESULTS_NAME = "alphapose-results.json"
_FORMAT_SUFFIXES = (".coco", ".alphapose", ".mediapipe", ".poses")  # clip.coco.json, where clip.json says other things


@dataclass(frozen=True, kw_only=True, slots=True)
class SidecarFiles:
    """Files that belong to one video: ``plain`` are STEM.json, which may be poses or details."""

    arrays: tuple[Path, ...] = ()
    poses: tuple[Path, ...] = ()
    openpose: tuple[Path, ...] = ()
    plain: tuple[Path, ...] = ()
    captions: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.arrays, *self.poses, *self.openpose, *self.plain, *self.captions)


@dataclass(slots=True)
class _Found:
    arrays: list[Path] = field(default_factory=list)
    poses: list[Path] = field(default_factory=list)
    openpose: list[Path] = field(default_factory=list)
    plain: list[Path] = field(default_factory=list)
    captions: list[Path] = field(default_factory=list)


def find_sidecars(stems: Sequence[str], roots: Sequence[Path], left_out: Path) -> dict[str, SidecarFiles]:
    """The sidecars of each stem, a video's path below its folder without suffix; every root is listed once.

    For the stem ``a/b`` these are ``a/b.npz``, ``a/b.json``, ``a/b.FORMAT.json``, ``a/b.txt``, ``.srt`` and ``.vtt``,
    ``a/b/alphapose-results.json``, and the OpenPose files ``a/b/*_keypoints.json`` and ``a/b_NUMBER_keypoints.json``.
    What lies below ``left_out`` does not count.

    Raises:
        InputError: a root that cannot be listed.
    """
    found = {stem: _Found() for stem in stems}
    for root in dict.fromkeys(roots):
        for path in find_files(root):
            if not path.is_relative_to(left_out) or root.is_relative_to(left_out):
                _sort_in(path, path.relative_to(root), found)
    return {
        stem: SidecarFiles(
            arrays=tuple(files.arrays),
            poses=tuple(files.poses),
            openpose=tuple(files.openpose),
            plain=tuple(files.plain),
            captions=tuple(files.captions),
        )
        for stem, files in found.items()
    }


def _sort_in(path: Path, name: Path, found: dict[str, _Found]) -> None:
    suffix, stem, parent = name.suffix.lower(), name.with_suffix("").as_posix(), name.parent.as_posix()
    frame_file = FILE_NAME.fullmatch(name.name)
    if frame_file is not None:
        beside = (name.parent / (frame_file["name"] or "")).as_posix()
        owner = parent if parent in found else beside
        if owner in found:
            found[owner].openpose.append(path)
    elif name.name == _RESULTS_NAME and parent in found:
        found[parent].poses.append(path)
    elif suffix == ".json" and Path(stem).suffix in _FORMAT_SUFFIXES and Path(stem).with_suffix("").as_posix() in found:
        found[Path(stem).with_suffix("").as_posix()].poses.append(path)
    elif stem in found and suffix == ".npz":
        found[stem].arrays.append(path)
    elif stem in found and suffix == ".json":
        found[stem].plain.append(path)
    elif stem in found and suffix in CAPTION_SUFFIXES:
        found[stem].captions.append(path)
