"""The official files of MSR-VTT, MSVD and VATEX as one set of settings: which files, and what they hold."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.data.formats.msrvtt import read_msrvtt_1k_a, read_msrvtt_chosen, read_msrvtt_full, read_msrvtt_list
from oskar.data.formats.msvd import read_msvd
from oskar.data.formats.vatex import read_vatex
from oskar.data.formats.video_text import CaptionedVideo
from oskar.errors import InputError

Captioned = tuple[CaptionedVideo, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionFilesConfig:
    """Paths of annotation files; the videos are in the folder that is given as data.

    ``msrvtt``  ``annotations`` is MSRVTT_data.json or MSR_VTT.json. Training videos: ``train_ids``, such as
                MSRVTT_train.9k.csv, or else the file's own split. Test: ``test_annotations`` is
                MSRVTT_JSFUSION_test.csv (1k-A); or ``test_ids``, with one caption each by ``test_chosen`` or
                with all; or else the file's own split (full).
    ``msvd``    ``annotations`` is raw-captions.pkl or a JSON file, with ``train_ids`` and ``test_ids``;
                ``mapping`` (youtube_mapping.txt) where files are called vid<N>.
    ``vatex``   ``annotations`` is vatex_training_v1.0.json and ``test_annotations`` the validation or public
                test file; ``train_ids`` and ``test_ids`` choose among their clips.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    benchmark: Literal["msrvtt", "msvd", "vatex"] | None = None
    annotations: str | None = None
    train_ids: str | None = None
    test_annotations: str | None = None
    test_ids: str | None = None
    test_chosen: str | None = None
    mapping: str | None = None


def read_caption_files(files: CaptionFilesConfig) -> tuple[Captioned, Captioned]:
    """Training and test videos with their captions.

    Raises:
        InputError: a file that is needed and not named, or named and not used; a malformed file; a video
            that is in both.
    """
    if files.benchmark == "msrvtt":
        train, test = _msrvtt(files)
    elif files.benchmark == "msvd":
        train, test = _msvd(files)
    else:
        train, test = _vatex(files)
    both = sorted({video.clip_id for video in train} & {video.clip_id for video in test})
    if both:
        raise InputError(
            f"files: {len(both)} videos are in training and test, the first is {both[0]}",
            fix="use lists of one release",
        )
    return train, test


def _msrvtt(files: CaptionFilesConfig) -> tuple[Captioned, Captioned]:
    _refuse(files, "mapping")
    annotations, ids, test_ids = (
        _needed(files.annotations, "annotations", files),
        _path(files.train_ids),
        _path(files.test_ids),
    )
    queries, chosen = _path(files.test_annotations), _path(files.test_chosen)
    train = (
        read_msrvtt_full(annotations, split="train")
        if ids is None
        else read_msrvtt_list(annotations, ids, split="train")
    )
    if queries is not None:
        _refuse(files, "test_ids", "test_chosen")
        return train, read_msrvtt_1k_a(queries)
    if test_ids is None:
        _refuse(files, "test_chosen")
        return train, read_msrvtt_full(annotations, split="test")
    if chosen is None:
        return train, read_msrvtt_list(annotations, test_ids, split="test")
    return train, read_msrvtt_chosen(annotations, test_ids, chosen)


def _msvd(files: CaptionFilesConfig) -> tuple[Captioned, Captioned]:
    _refuse(files, "test_annotations", "test_chosen")
    annotations, mapping = _needed(files.annotations, "annotations", files), _path(files.mapping)
    train = read_msvd(annotations, _needed(files.train_ids, "train_ids", files), split="train", mapping=mapping)
    return train, read_msvd(annotations, _needed(files.test_ids, "test_ids", files), split="test", mapping=mapping)


def _vatex(files: CaptionFilesConfig) -> tuple[Captioned, Captioned]:
    _refuse(files, "test_chosen", "mapping")
    train = read_vatex(_needed(files.annotations, "annotations", files), split="train", ids=_path(files.train_ids))
    return train, read_vatex(
        _needed(files.test_annotations, "test_annotations", files), split="test", ids=_path(files.test_ids)
    )


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _needed(value: str | None, name: str, files: CaptionFilesConfig) -> Path:
    if value is None:
        raise InputError(
            f"files.{name} is not set, and files.benchmark={files.benchmark} needs it", fix="name the file"
        )
    return Path(value)


def _refuse(files: CaptionFilesConfig, *names: str) -> None:
    for name in names:
        if getattr(files, name) is not None:
            used = [f.name for f in fields(files) if getattr(files, f.name) is not None and f.name not in names]
            raise InputError(
                f"files.{name} = {getattr(files, name)!r} is not used beside {', '.join(used)}", fix="leave it out"
            )
