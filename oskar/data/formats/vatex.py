"""VATEX: ten-second clips with ten English captions; the retrieval splits are id lists beside the official files."""

import re
from pathlib import Path

from oskar.data.columns import shown
from oskar.data.formats.annotations import check_unique, read_ids, read_json, records
from oskar.data.formats.video_text import CaptionedVideo
from oskar.errors import InputError

_CLIP = re.compile(r"(.+)_([0-9]{6})_([0-9]{6})")  # greedy: the YouTube id may hold underscores itself


def split_clip_id(clip_id: str) -> tuple[str, int, int]:
    """YouTube id, start and end in seconds of ``<youtube>_<start>_<end>``; InputError for any other name."""
    match = _CLIP.fullmatch(clip_id)
    if match is None or int(match[2]) >= int(match[3]):
        raise InputError(
            f"clip {shown(clip_id)}: not a YouTube id, start and end", fix="name it like exVidAAAAAA_000006_000016"
        )
    return match[1], int(match[2]), int(match[3])


def read_vatex(annotations: Path, *, split: str, ids: Path | None = None) -> tuple[CaptionedVideo, ...]:
    """The clips of a file with their English captions, or those of them that ``ids`` lists, in its order.

    Raises:
        InputError: a malformed file, an id that is no clip's, an entry without English captions, a listed
            clip that is not in ``annotations``.
    """
    entries = records(read_json(annotations), str(annotations))
    check_unique(((entry.text("videoID"), entry.where) for entry in entries), "clip")
    entry_of = {entry.text("videoID"): entry for entry in entries}
    videos = []
    for name in entry_of if ids is None else read_ids(ids):
        if name not in entry_of:
            raise InputError(f"{ids}: clip {shown(name)} is not in {annotations}", fix="use files of one release")
        entry = entry_of[name]
        try:
            split_clip_id(name)
        except InputError as error:
            raise entry.error("videoID", "not <youtube>_<start>_<end>") from error
        videos.append(CaptionedVideo(clip_id=name, file_stems=(name,), captions=entry.texts("enCap"), split=split))
    return tuple(videos)
