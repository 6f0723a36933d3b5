"""From ``--data`` to key frames with people in them: the built-in people, a folder of AVA, or a folder with boxes."""

import math
from collections.abc import Sequence
from pathlib import Path

from oskar.config import Config
from oskar.data.ava_folder import AvaKeyFrames, is_ava_folder
from oskar.data.key_frame_data import FolderKeyFrames, KeyFrameData, PeopleKeyFrames
from oskar.data.manifest import select
from oskar.data.official import parse_official, read_one
from oskar.data.people_reader import parse_people
from oskar.errors import InputError


def open_key_frames(
    data: Sequence[str],
    config: Config,
    split: str,
    *,
    n_windows: int,
    stride_frames: int,
    movie_start_seconds: float,
) -> KeyFrameData:
    """Open one split of one data set.

    ``n_windows`` is for folders with boxes, ``stride_frames`` and ``movie_start_seconds`` for AVA.
    Raises InputError naming the file or key, the value and the fix.
    """
    if len(data) != 1:
        raise InputError(
            f"--data {' '.join(data) or '(none)'}: {len(data)} data sets", fix="name one: the classes of several differ"
        )
    people = parse_people(data[0])
    if people is not None:
        return PeopleKeyFrames(people, config, split)
    short_side = math.ceil(config.tokens.resolution / math.sqrt(config.clip.crop_scale[0]))
    official = parse_official(data[0])
    is_ava = official is not None and official.name == "ava"
    folder = official.path if official is not None and is_ava else Path(data[0])
    if not is_ava and not is_ava_folder(folder):
        return FolderKeyFrames(select(read_one(data[0]), split=split), config, short_side, n_windows)
    return AvaKeyFrames(
        folder,
        split,
        n_frames=config.tokens.n_frames,
        stride_frames=stride_frames,
        short_side=short_side,
        movie_start_seconds=movie_start_seconds,
    )
