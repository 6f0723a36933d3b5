"""Captions beside a video: plain text, SubRip (``.srt``) and WebVTT (``.vtt``)."""

import html
import re
from pathlib import Path

from oskar.data.columns import read_text, shown
from oskar.errors import InputError

CAPTION_SUFFIXES = (".txt", ".srt", ".vtt")
_TIME = r"(?:[0-9]+:)?[0-9]{1,2}:[0-9]{2}[.,][0-9]{3}"
_CUE = re.compile(rf"{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # <i>, <c.voice>, <00:01.000>; {\an8}


def read_caption(path: Path) -> str:
    """The text of a caption file in one line.

    Of subtitles the cues are joined in their order, without times and tags; a line that repeats the one before it, as
    rolling captions do, counts once.

    Raises:
        InputError: not UTF-8, no text, or no cue in a subtitle file.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})", fix="check its permissions") from error
    caption = " ".join((text if path.suffix.lower() == ".txt" else _subtitles(text, path)).split())
    if not caption:
        raise InputError(f"{path}: holds no text", fix="write a caption, or remove the file")
    return caption


def _subtitles(text: str, path: Path) -> str:
    text = text.removeprefix("\ufeff")
    if path.suffix.lower() == ".vtt" and not text.startswith("WEBVTT"):
        raise InputError(f"{path} line 1: {shown(text.split(chr(10))[0])}, not WEBVTT", fix="call SubRip files .srt")
    lines: list[str] = []
    n_cues = 0
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        rows = [row.strip() for row in block.split("\n")]
        start = next((i for i, row in enumerate(rows) if _CUE.fullmatch(row)), None)
        if start is None:
            continue  # header, note, style or region
        n_cues += 1
        for row in rows[start + 1 :]:
            line = html.unescape(_TAG.sub("", row)).strip()
            if line and (not lines or lines[-1] != line):
                lines.append(line)
    if n_cues == 0:
        raise InputError(f"{path}: holds no cue", fix="write cues as 00:00:01,000 --> 00:00:02,000 and their text")
    return " ".join(lines)
