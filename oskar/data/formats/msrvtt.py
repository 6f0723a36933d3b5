"""MSR-VTT: captions in one JSON file of two layouts, splits as id lists.

``MSRVTT_data.json`` has ``videos`` and ``sentences``; ``MSR_VTT.json`` (Frozen in Time) has
``annotations`` with ``image_id`` and ``caption`` and knows no splits. Files are ``video<N>.mp4``.
The usual splits: ``read_msrvtt_list`` with ``MSRVTT_train.9k.csv`` or ``.7k.csv`` to train on,
``read_msrvtt_1k_a`` to test on. Captions of test videos in the JSON file are then not used.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from oskar.data.columns import shown
from oskar.data.formats.annotations import Record, check_unique, read_columns, read_ids, read_object, records
from oskar.data.formats.arrays_pickle import load_array_pickle
from oskar.data.formats.video_text import CaptionedVideo
from oskar.errors import InputError

Split = Literal["train", "val", "test"]
_SPLIT_OF_WORD: Mapping[str, Split] = {"train": "train", "validate": "val", "val": "val", "test": "test"}
_VIDEO_KEY_OF_LAYOUT: Mapping[str, str] = {"sentences": "video_id", "annotations": "image_id"}


def read_msrvtt_full(annotations: Path, *, split: Split) -> tuple[CaptionedVideo, ...]:
    """The videos of an official split (6,513, 497 and 2,990) of ``MSRVTT_data.json``, with all their captions.

    Raises:
        InputError: a file in another layout, a split by another name, a video without a caption, a split without
            a video.
    """
    document = read_object(annotations)
    if "videos" not in document:
        raise InputError(
            f"{annotations}: has no 'videos' and so no splits",
            fix="use MSRVTT_data.json, or a list file with read_msrvtt_list",
        )
    captions = _captions(document, annotations)
    videos = _videos(document, annotations)
    chosen = [name for name, record in videos.items() if _split(record) == split]
    if not chosen:
        raise InputError(f"{annotations}, videos: none is of split {split!r}", fix="use the file of that split")
    return _chosen(chosen, captions, split, str(annotations))


def read_msrvtt_list(annotations: Path, ids: Path, *, split: str) -> tuple[CaptionedVideo, ...]:
    """The videos of a list file (one id a line, with or without a header) with all their captions, of either layout.

    Raises:
        InputError: a malformed file, a listed video that has no caption.
    """
    captions = _captions(read_object(annotations), annotations)
    return _chosen(read_ids(ids), captions, split, f"{ids} with {annotations}")


def read_msrvtt_1k_a(queries: Path) -> tuple[CaptionedVideo, ...]:
    """The 1,000 test videos of ``MSRVTT_JSFUSION_test.csv``, each with the sentence of that file."""
    rows = read_columns(queries, ("video_id", "sentence"), separator=",")
    check_unique(((row.text("video_id"), row.where) for row in rows), "video")
    return tuple(_video(row.text("video_id"), (row.text("sentence"),), "test") for row in rows)


def read_msrvtt_chosen(annotations: Path, ids: Path, chosen: Path) -> tuple[CaptionedVideo, ...]:
    """The test videos of the Frozen in Time layout, each with one caption.

    ``chosen`` is a pickle of ``{video: number}``, such as ``jsfusion_val_caption_idx.pkl``: which of the
    video's captions, in the order of ``annotations``, is the query.

    Raises:
        InputError: a malformed file, a listed video without captions or without a number within their count.
    """
    number_of = load_array_pickle(chosen)
    if not isinstance(number_of, dict):
        raise InputError(f"{chosen}: holds a {type(number_of).__name__}", fix="name a pickle of {video: number}")
    videos = []
    for video in read_msrvtt_list(annotations, ids, split="test"):
        number = number_of.get(video.clip_id)
        if not isinstance(number, int | np.integer) or not 0 <= number < len(video.captions):
            raise InputError(
                f"{chosen}, {video.clip_id} = {shown(repr(number))}: its captions are 0 to {len(video.captions) - 1}",
                fix="use the list, annotations and pickle of one release",
            )
        videos.append(_video(video.clip_id, (video.captions[number],), "test"))
    return tuple(videos)


def _captions(document: Mapping[str, object], path: Path) -> Mapping[str, tuple[str, ...]]:
    key = next((key for key in _VIDEO_KEY_OF_LAYOUT if key in document), None)
    if key is None:
        raise InputError(
            f"{path}: has neither 'sentences' nor 'annotations', only {', '.join(map(repr, document))}",
            fix="name MSRVTT_data.json or MSR_VTT.json",
        )
    video_key = _VIDEO_KEY_OF_LAYOUT[key]
    captions: defaultdict[str, list[str]] = defaultdict(list)
    videos = _videos(document, path) if "videos" in document else None
    for sentence in records(document[key], f"{path}, {key}"):
        name = sentence.text(video_key)
        if videos is not None and name not in videos:
            raise sentence.error(video_key, "not among the videos")
        captions[name].append(sentence.text("caption"))
    return {name: tuple(texts) for name, texts in captions.items()}


def _videos(document: Mapping[str, object], path: Path) -> Mapping[str, Record]:
    videos = records(document["videos"], f"{path}, videos")
    check_unique(((video.text("video_id"), video.where) for video in videos), "video")
    return {video.text("video_id"): video for video in videos}


def _split(video: Record) -> Split:
    word = video.text("split")
    if word not in _SPLIT_OF_WORD:
        raise video.error("split", f"not one of {', '.join(_SPLIT_OF_WORD)}")
    return _SPLIT_OF_WORD[word]


def _chosen(
    names: Iterable[str], captions: Mapping[str, tuple[str, ...]], split: str, where: str
) -> tuple[CaptionedVideo, ...]:
    videos = []
    for name in names:
        if name not in captions:
            raise InputError(
                f"{where}: video {shown(name)} has no caption", fix="use the list and the annotations of one release"
            )
        videos.append(_video(name, captions[name], split))
    return tuple(videos)


def _video(name: str, captions: tuple[str, ...], split: str) -> CaptionedVideo:
    return CaptionedVideo(clip_id=name, file_stems=(name,), captions=captions, split=split)
