"""MSVD: clips named ``<youtube>_<start>_<end>``, all captions of all clips in one file, splits as id lists."""

from collections.abc import Mapping
from pathlib import Path

from oskar.data.columns import read_text, shown
from oskar.data.formats.annotations import check_unique, one_text, read_ids, read_object, several_texts
from oskar.data.formats.arrays_pickle import load_array_pickle
from oskar.data.formats.video_text import CaptionedVideo
from oskar.errors import InputError


def read_msvd(captions: Path, ids: Path, *, split: str, mapping: Path | None = None) -> tuple[CaptionedVideo, ...]:
    """The clips of a list file with all their captions.

    ``captions`` is ``raw-captions.pkl``, ``{clip: [[token, ...], ...]}`` whose tokens are joined by one
    space, or a JSON file ``{clip: [caption, ...]}``. With ``mapping`` (``youtube_mapping.txt``) a file may
    also be called ``vid<N>``.

    Raises:
        InputError: a malformed file, a listed clip without captions or without a line in the mapping.
    """
    document = load_array_pickle(captions) if captions.suffix == ".pkl" else read_object(captions)
    if not isinstance(document, dict):
        raise InputError(f"{captions}: holds a {type(document).__name__}", fix="name a file of {clip: captions}")
    number_of = {clip: vid for vid, clip in read_youtube_mapping(mapping).items()} if mapping else {}
    videos = []
    for name in read_ids(ids):
        if name not in document:
            raise InputError(f"{ids}: clip {shown(name)} is not in {captions}", fix="use files of one release")
        if mapping and name not in number_of:
            raise InputError(f"{ids}: clip {shown(name)} is not in {mapping}", fix="use files of one release")
        stems = (name, number_of[name]) if mapping else (name,)
        texts = _captions(document[name], f"{captions}, {name}")
        videos.append(CaptionedVideo(clip_id=name, file_stems=stems, captions=texts, split=split))
    return tuple(videos)


def read_youtube_mapping(path: Path) -> Mapping[str, str]:
    """``{"vid1": clip, ...}`` from lines ``clip vid1``.

    Raises:
        InputError: a line of other than two words, a clip or a number that is there twice.
    """
    pairs = []
    for i, line in enumerate(read_text(path).splitlines()):
        words = line.split()
        if words and len(words) != 2:
            raise InputError(f"{path} line {i + 1}: {shown(line)}", fix="write lines of a clip and its vid number")
        if words:
            pairs.append((words[1], words[0], f"{path} line {i + 1}"))
    check_unique(((vid, where) for vid, _, where in pairs), "number")
    check_unique(((clip, where) for _, clip, where in pairs), "clip")
    if not pairs:
        raise InputError(f"{path}: lists nothing", fix="write lines of a clip and its vid number")
    return {vid: clip for vid, clip, _ in pairs}


def _captions(value: object, where: str) -> tuple[str, ...]:
    """Captions as texts, or as lists of tokens."""
    is_tokens = isinstance(value, list) and value and all(isinstance(item, list) for item in value)
    if not (is_tokens and isinstance(value, list)):
        return several_texts(value, where)
    return tuple(
        one_text(" ".join(several_texts(tokens, f"{where}[{i}]")), f"{where}[{i}]") for i, tokens in enumerate(value)
    )
