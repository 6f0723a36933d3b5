"""Official files of benchmarks by name: ``--data k400:FOLDER`` and the like, as manifests.

A name is followed by where the files are, and for some by the protocol: ``ntu:FOLDER:xview``. Videos lie in
``videos`` in the folder, in a folder of the split's name, or beside the lists. Clips that a list names and
that are not there are kept apart (``Manifest.missing_rows``): results count them, no other clip takes their place.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from oskar.data.columns import read_text
from oskar.data.formats.kinetics import kinetics_classes, read_kinetics
from oskar.data.formats.listed_clips import ListedClip, Split, find_clips, label_ids
from oskar.data.formats.ntu_names import NTU60_XVIEW, NTU120_XSET, NtuProtocol
from oskar.data.formats.pyskl import read_pyskl
from oskar.data.formats.pyskl_manifest import pyskl_manifest
from oskar.data.formats.something_something import read_something, read_something_classes
from oskar.data.manifest import Manifest, Row, read_manifest, read_manifests, read_ntu_folder
from oskar.errors import InputError

_SSV2 = "something-something-v2-"
_SSV2_FILES: Mapping[Split, str] = MappingProxyType({"train": "train", "val": "validation", "test": "test"})
_NTU_PROTOCOLS: Mapping[str, NtuProtocol | None] = MappingProxyType(
    {"xsub": None, "xview": NTU60_XVIEW, "xset": NTU120_XSET}  # None: that of 60 or 120 classes, as the files are
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialFormat:
    """What follows the name, the protocols there are, and how a manifest is read; None where a task reads it itself."""

    usage: str
    protocols: tuple[str, ...] = ()
    read: Callable[[Path, str | None], Manifest] | None = None
    task: str = ""


@dataclass(frozen=True, slots=True)
class OfficialData:
    """A name taken apart."""

    name: str
    format: OfficialFormat
    path: Path
    protocol: str | None


def parse_official(data: str) -> OfficialData | None:
    """``NAME:PATH[:PROTOCOL]``; None where the text does not begin with a name of ``FORMATS``."""
    name, separator, rest = data.partition(":")
    if not separator or name not in FORMATS:
        return None
    format_ = FORMATS[name]
    path, separator, protocol = rest.rpartition(":")
    if separator and protocol in format_.protocols:
        return OfficialData(name, format_, Path(path), protocol)
    if not rest:
        raise InputError(f"--data {data!r} names no folder", fix=f"write {name}:{format_.usage}")
    return OfficialData(name, format_, Path(rest), None)


def read_named(data: Sequence[str], *, quarantine: Literal["honour", "ignore"] = "ignore") -> list[Manifest]:
    """The manifests of folders, index files and official data, pooled; ``quarantine`` as in ``read_manifest``.

    Raises:
        InputError: as ``read_manifests``; an unknown name; files that are not there or wrong.
    """
    return read_manifests(data, read=partial(read_one, quarantine=quarantine))


def read_one(source: str | Path, *, quarantine: Literal["honour", "ignore"] = "ignore") -> Manifest:
    """The manifest of one folder, index file or official data; raises as ``read_named``."""
    data = str(source)
    official = parse_official(data)
    if official is None:
        if ":" in data and not Path(data).exists():
            known = ", ".join(f"{name}:{format_.usage}" for name, format_ in FORMATS.items())
            raise InputError(
                f"data {data}: does not exist, and {data.partition(':')[0]!r} is no name of official data",
                fix=f"name a folder, a .csv manifest, people or one of {known}",
            )
        return read_manifest(source, quarantine=quarantine)
    if official.format.read is None:
        raise InputError(f"--data {data}: {official.name} is data of its own task", fix=f"use {official.format.task}")
    return official.format.read(official.path, official.protocol)


def _kinetics(folder: Path, protocol: str | None) -> Manifest:
    """Every ``.csv`` in the folder whose header names ``youtube_id`` is a list; the reported split is ``val``."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder", fix="name the folder of the official csv lists")
    lists = [path for path in sorted(folder.glob("*.csv")) if "youtube_id" in read_text(path).partition("\n")[0]]
    if not lists:
        raise InputError(f"{folder}: holds no official list", fix="put train.csv and val.csv there, with their headers")
    clips = [clip for path in lists for clip in read_kinetics(path)]
    if all(clip.split != "train" for clip in clips):
        raise InputError(f"{folder}: no list of split train, whose labels are the classes", fix="put train.csv there")
    return _listed("k400", folder, clips, kinetics_classes(clips))


def _something(folder: Path, protocol: str | None) -> Manifest:
    labels = folder / f"{_SSV2}labels.json"
    if not labels.is_file():
        raise InputError(f"{labels}: does not exist", fix="put the official json files there")
    classes = read_something_classes(labels)
    clips: list[ListedClip] = []
    for split, word in _SSV2_FILES.items():
        path = folder / f"{_SSV2}{word}.json"
        if path.is_file():
            clips += read_something(path, classes, split)
    return _listed("ssv2", folder, clips, classes)


def _listed(name: str, folder: Path, clips: Sequence[ListedClip], classes: tuple[str, ...]) -> Manifest:
    """The rows of listed clips whose file is there, and the others apart."""
    twice = [clip_id for clip_id, n in Counter(clip.clip_id for clip in clips).items() if n > 1]
    if twice:
        raise InputError(f"{folder}: clip {twice[0]} is in two lists", fix="keep one list of each split")
    ids = dict(zip((clip.clip_id for clip in clips), label_ids(clips, classes, folder), strict=True))
    paths = _find(folder, clips)
    rows = [
        Row(
            clip_id=clip.clip_id, video_path=paths.get(clip.clip_id), label=clip.label, label_id=ids[clip.clip_id],
            split=clip.split, missing=() if clip.clip_id in paths else ("path",),
        )
        for clip in clips
    ]  # fmt: skip
    if not paths:
        raise InputError(
            f"{folder}: holds none of the {len(clips)} listed videos, the first is {clips[0].file_names[0]}",
            fix=f"put them into {folder / 'videos'}, or link that folder to where they are",
        )
    return Manifest(
        name=name,
        folder=folder,
        rows=tuple(row for row in rows if not row.missing),
        classes=classes,
        split_column="split",
        missing_rows=tuple(row for row in rows if row.missing),
    )


def _find(folder: Path, clips: Sequence[ListedClip]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for split in dict.fromkeys(clip.split for clip in clips):
        wanted = [clip for clip in clips if clip.split == split]
        for place in (folder / "videos", folder / "videos" / split, folder / split, folder):
            if place.is_dir():
                paths = {**find_clips(wanted, place).paths, **paths}
    return paths


def _ntu(folder: Path, protocol: str | None) -> Manifest:
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder", fix="name the folder of .skeleton files or _rgb.avi videos")
    return replace(read_ntu_folder(folder, _NTU_PROTOCOLS[protocol or "xsub"]), name="ntu")


def _pyskl(path: Path, protocol: str | None) -> Manifest:
    return pyskl_manifest(read_pyskl(path), protocol)


FORMATS: Mapping[str, OfficialFormat] = MappingProxyType(
    {
        "k400": OfficialFormat(usage="FOLDER", read=_kinetics),
        "ssv2": OfficialFormat(usage="FOLDER", read=_something),
        "ntu": OfficialFormat(usage="FOLDER[:xsub|xview|xset]", protocols=tuple(_NTU_PROTOCOLS), read=_ntu),
        "pyskl": OfficialFormat(usage="FILE[:xsub|xview|xset]", protocols=tuple(_NTU_PROTOCOLS), read=_pyskl),
        "ava": OfficialFormat(usage="FOLDER", task="--task action-localization"),
        "msrvtt": OfficialFormat(
            usage="FOLDER[:9k|7k|full]", protocols=("9k", "7k", "full"), task="--task text-video-retrieval"
        ),
        "msvd": OfficialFormat(usage="FOLDER", task="--task text-video-retrieval"),
        "vatex": OfficialFormat(usage="FOLDER", task="--task text-video-retrieval"),
        "msrvtt-qa": OfficialFormat(usage="FOLDER", task="--task video-question-answering"),
        "msvd-qa": OfficialFormat(usage="FOLDER", task="--task video-question-answering"),
        "tgif-frameqa": OfficialFormat(usage="FOLDER", task="--task video-question-answering"),
    }
)
