"""From the paths and sentences of a command to what is embedded."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oskar.config import Config
from oskar.data.columns import read_text
from oskar.data.folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_files
from oskar.data.folder_reader import FolderReader
from oskar.data.manifest import INDEX_FILE, Manifest, read_manifests, read_videos, select
from oskar.data.people_reader import PeopleReader, parse_people
from oskar.data.rows import JOINTS_SUFFIXES, Row
from oskar.embedding.file import Source as SourceName
from oskar.embedding.sources import FolderSource, PeopleSource, SentenceSource, Source
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.sharing.pretrained import Pretrained
from oskar.tasks.transfer import require_modality, require_words, what_is_read
from oskar.tokens.words import Words

PATH_KINDS = "a video, an image, joints (.npz, .skeleton), sentences (.txt), a manifest (.csv), a folder, or people"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is embedded; ``folder`` is the one that paths in the index are relative to, ``n_left_out`` what lacks the
    modality."""

    sources: tuple[Source, ...]
    folder: Path | None
    n_left_out: int


def open_inputs(
    paths: Sequence[str | Path],
    sentences: Sequence[str],
    pretrained: Pretrained,
    modality: SourceName,
    split: str | None = None,
) -> Inputs:
    """Look at every path; nothing is decoded yet.

    Raises:
        InputError: nothing to embed, a path that is not there or of no known kind, a modality that the run or the
            files do not have.
    """
    if not paths and not sentences:
        raise InputError("nothing to embed", fix=f"name {PATH_KINDS}, or give a sentence with --text")
    config = _what_is_read(pretrained, modality)
    if sentences and modality != "text":
        raise InputError(f"--text with --modality {modality}", fix="leave out --modality, or use --modality text")
    words = require_words(pretrained.transfer) if modality == "text" else pretrained.words
    needed: Modality | None = None if modality == "fused" else modality
    files = [Path(path) for path in paths if parse_people(str(path)) is None]
    worlds = [world for path in paths if (world := parse_people(str(path))) is not None]
    opened = _Opened(config, words, needed, split)
    found = opened.sentences(sentences, files) if modality == "text" else []
    if modality != "text":
        files = [_not_text(path) for path in files]
    manifests = _manifests([path for path in files if path.suffix.lower() != ".txt"])
    folders = [opened.folder(manifest) for manifest in manifests]
    people = [PeopleReader(world, config, words, split or "train", is_labelled=False) for world in worlds]
    crowds = [PeopleSource(reader, split or "train", config.tokens.n_frames) for reader in people]
    sources: tuple[Source, ...] = (*found, *folders, *crowds)
    _require_distinct([item.clip_id for source in sources for item in source.items])
    return Inputs(sources, _common_folder(files), opened.n_left_out)


class _Opened:
    """Opens what one command reads, counting the clips that lack the modality."""

    def __init__(self, config: Config, words: Words | None, needed: Modality | None, split: str | None) -> None:
        self._config, self._words, self._needed, self._split = config, words, needed, split
        self.n_left_out = 0

    def folder(self, manifest: Manifest) -> FolderSource:
        chosen = select(manifest, split=self._split)
        reader = FolderReader(chosen, self._config, self._words, self._needed)
        self.n_left_out += reader.n_left_out
        return FolderSource(reader, self._needed, manifest.packed_path)

    def sentences(self, given: Sequence[str], files: Sequence[Path]) -> list[Source]:
        assert self._words is not None
        found: list[tuple[str, str, Path | None]] = [(f"text-{i + 1}", text, None) for i, text in enumerate(given)]
        for path in files:
            if path.suffix.lower() == ".txt":
                lines = read_text(path).splitlines()
                found += [(f"{path.name}#{i + 1}", line, path) for i, line in enumerate(lines) if line.strip()]
        return [SentenceSource(found, self._words, self._config)] if found else []


def _what_is_read(pretrained: Pretrained, modality: SourceName) -> Config:
    """As in evaluation: joints of clips with a video lie on its frame, so both are read."""
    config = pretrained.config
    if modality == "fused":
        return config
    require_modality(config, modality)
    if modality == "text":
        return replace(config, tokens=replace(config.tokens, modalities=("text",)))
    return what_is_read(config, modality)


def _not_text(path: Path) -> Path:
    if path.suffix.lower() == ".txt":
        raise InputError(f"{path}: sentences are of the modality text", fix="use --modality text, or leave it out")
    return path


def _manifests(paths: Sequence[Path]) -> list[Manifest]:
    """Folders and manifests as they are; loose files together, a manifest for each folder that holds some."""
    whole = [path for path in paths if path.is_dir() or path.suffix.lower() == ".csv"]
    loose: dict[Path, list[Path]] = {}
    for path in paths:
        if path not in whole:
            if not path.is_file():
                raise InputError(f"{path} does not exist", fix=f"name {PATH_KINDS}")
            loose.setdefault(path.parent, []).append(path)
    listed = [path for path in whole if path.suffix.lower() == ".csv" or _has_videos(path)]
    manifests = read_manifests(listed)
    manifests += [_loose(path, _joints_and_images(path), path.name) for path in whole if path not in listed]
    return manifests + [_loose(folder, files, None) for folder, files in loose.items()]


def _has_videos(folder: Path) -> bool:
    """Whether a folder is data by itself: an index, videos, or the files of NTU RGB+D."""
    if os.path.lexists(folder / INDEX_FILE):
        return True
    return not _joints_and_images(folder) or any(p.suffix.lower() in VIDEO_SUFFIXES for p in find_files(folder))


def _joints_and_images(folder: Path) -> list[Path]:
    return [p for p in find_files(folder) if p.suffix.lower() in (*IMAGE_SUFFIXES, ".npz")]


def _loose(folder: Path, files: Sequence[Path], name: str | None) -> Manifest:
    """Files as clips of their own; videos with the files beside them."""
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    rows = list(read_videos(folder, videos).rows) if videos else []
    for path in files:
        suffix = path.suffix.lower()
        clip_id = path.relative_to(folder).as_posix()
        if suffix in IMAGE_SUFFIXES:
            rows.append(Row(clip_id=clip_id, video_path=path))
        elif suffix in JOINTS_SUFFIXES:
            rows.append(Row(clip_id=clip_id, joints_path=path, has_joints=True))
        elif suffix not in VIDEO_SUFFIXES:
            raise InputError(f"{path}: a {suffix or 'nameless'} file", fix=f"name {PATH_KINDS}")
    prefix = f"{name or folder.resolve().name}/"
    renamed = tuple(replace(row, clip_id=prefix + row.clip_id) for row in rows)
    return Manifest(name=prefix[:-1], folder=folder, rows=renamed, id_prefix=prefix)


def _common_folder(paths: Sequence[Path]) -> Path | None:
    """The deepest folder that holds all paths; a manifest's is the one it lies in."""
    folders = [path if path.is_dir() else path.parent for path in paths]
    return Path(os.path.commonpath([folder.resolve() for folder in folders])) if folders else None


def _require_distinct(clip_ids: Sequence[str]) -> None:
    if not clip_ids:
        raise InputError("nothing to embed: the files hold no sentence", fix="write one sentence a line")
    twice = [name for name, n in Counter(clip_ids).items() if n > 1]
    if twice:
        raise InputError(f"clip {twice[0]!r} is there twice", fix="name every file once, and data of one name apart")
