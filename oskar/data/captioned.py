"""Clips with captions to retrieve one by the other: of manifests, of the built-in people, of official files."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from oskar.config import Config
from oskar.data.folder_reader import FolderReader
from oskar.data.formats.caption_files import CaptionFilesConfig, read_caption_files
from oskar.data.formats.video_text import CaptionedVideo, find_videos
from oskar.data.manifest import Manifest, select
from oskar.data.official import read_named
from oskar.data.people_reader import PeopleReader, parse_people
from oskar.data.pooled_reader import PooledReader
from oskar.data.reader import ClipReader
from oskar.data.rows import Row
from oskar.errors import AbsentError, InputError
from oskar.modalities import Modality

WhichCaptions = Literal["written", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedClips:
    """Clips of one split; ``captions[i]`` are those of clip i of ``reader``, never none.

    ``missing`` are the ids of listed clips without a file, ``n_left_out`` counts rows of a manifest without the
    modality or without a caption that counts; neither is in ``reader``.
    """

    reader: ClipReader
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    n_left_out: int = 0
    missing: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        return [self.reader.clip_id(i) for i in range(len(self.reader))]

    @property
    def sha256(self) -> str:
        """Of ids and captions, whatever their order."""
        entries = sorted([name, *texts] for name, texts in zip(self.ids, self.captions, strict=True))
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedSplit:
    """Which clips of data: those of a split, of or without the ``test_subjects``, with captions that count.

    ``captions`` "written" leaves out those composed from a label. With ``test_subjects`` the clips of these
    subjects are the test split and those of the others all else, whatever the manifest says.
    """

    split: str
    is_test: bool
    captions: WhichCaptions = "written"
    test_subjects: tuple[str, ...] = ()


def open_captioned(data: Sequence[str], config: Config, modality: Modality, chosen: CaptionedSplit) -> CaptionedClips:
    """Clips of folders, manifests and people that have ``modality`` and captions; ``config`` says how they are read.

    Raises:
        InputError: wrong data, or no such clip in it.
    """
    if not data:
        raise InputError("no data", fix="name a folder, a manifest or `people` with --data")
    worlds = [world for world in map(parse_people, data) if world is not None]
    if worlds and chosen.test_subjects:
        raise InputError(
            f"test_subjects = {list(chosen.test_subjects)}: people have their own splits", fix="leave it out"
        )
    folders = [name for name in data if parse_people(name) is None]
    listed = [_of_split(manifest, chosen) for manifest in read_named(folders)]
    manifests = [_with_captions(manifest, modality, chosen) for manifest in listed]
    people = [PeopleReader(world, config, None, chosen.split, is_labelled=True) for world in worlds]
    readers: list[ClipReader] = [*(FolderReader(m, config, None, modality) for m in manifests), *people]
    clips = CaptionedClips(
        reader=readers[0] if len(readers) == 1 else PooledReader(readers),
        captions=(
            *((row.caption,) for m in manifests for row in m.rows if row.caption is not None),
            *((text,) for reader in people for text in reader.captions()),
        ),
        names=tuple(m.name for m in listed) + ("people",) * len(worlds),
        n_left_out=sum(len(m.rows) for m in listed) - sum(len(m.rows) for m in manifests),
    )
    twice = [name for name, n in Counter(clips.ids).items() if n > 1]
    if twice:
        raise InputError(f"--data {' '.join(data)}: clip {twice[0]} is there twice", fix="name every data once")
    return clips


def open_official(
    data: Sequence[str], config: Config, files: CaptionFilesConfig
) -> tuple[CaptionedClips, CaptionedClips]:
    """Training and test clips of a benchmark: one folder of videos, and the annotation files that ``files`` names.

    Raises:
        InputError: not one folder, wrong files, or none of their videos in it.
    """
    if len(data) != 1:
        raise InputError(
            f"{len(data)} data with files.benchmark={files.benchmark}", fix="name the one folder of its videos"
        )
    train, test = read_caption_files(files)
    return _found(train, Path(data[0]), config, files), _found(test, Path(data[0]), config, files)


def _found(videos: Iterable[CaptionedVideo], folder: Path, config: Config, files: CaptionFilesConfig) -> CaptionedClips:
    videos = tuple(videos)
    found = find_videos(videos, folder)
    there = [video for video in videos if video.clip_id in found.paths]
    if not there:
        raise InputError(
            f"{folder}: holds none of the {found.n_expected} {videos[0].split} videos, the first is "
            f"{' or '.join(videos[0].file_stems)}",
            fix="name the folder that holds the video files, or the annotations of these videos",
        )
    rows = tuple(
        Row(clip_id=video.clip_id, video_path=found.paths[video.clip_id], split=video.split) for video in there
    )
    name = str(files.benchmark)
    return CaptionedClips(
        reader=FolderReader(Manifest(name=name, folder=folder, rows=rows), config, None, "video"),
        captions=tuple(video.captions for video in there),
        names=(name,),
        missing=found.missing,
    )


def _with_captions(manifest: Manifest, modality: Modality, chosen: CaptionedSplit) -> Manifest:
    rows = tuple(
        row
        for row in manifest.rows
        if modality in row.modalities
        and row.caption is not None
        and (chosen.captions == "all" or not row.is_caption_composed)
    )
    if not rows:
        raise AbsentError(
            f"data {manifest.folder}: no clip of split {chosen.split!r} has {modality} and a {chosen.captions} caption",
            fix="use data with captions; captions=all lets those composed from labels count",
        )
    return replace(manifest, rows=rows)


def _of_split(manifest: Manifest, chosen: CaptionedSplit) -> Manifest:
    if not chosen.test_subjects:
        return select(manifest, split=chosen.split)
    known = {row.subject for row in manifest.rows if row.subject is not None}
    unknown = [name for name in chosen.test_subjects if name not in known]
    if unknown or not known - set(chosen.test_subjects):
        raise InputError(
            f"data {manifest.folder}: test_subjects = {list(chosen.test_subjects)}, its subjects are "
            f"{', '.join(sorted(known)) or 'not given'}",
            fix="choose some of them, and leave some to learn on",
        )
    rows = (row for row in manifest.rows if row.subject is not None)
    return replace(manifest, rows=tuple(row for row in rows if (row.subject in chosen.test_subjects) == chosen.is_test))
