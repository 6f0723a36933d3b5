"""The joints of an NTU ``.skeleton`` file under the names that the library's own skeleton files have."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.data.formats.ntu_bodies import track_actors
from oskar.data.formats.ntu_skeleton import COLOUR_SIZE, read_skeleton_file

# By tracking state. An inferred joint is a guess of the sensor: worth less than a seen one, more than none.
_CONFIDENCES = np.array([0.0, 0.5, 1.0], dtype=np.float32)


def read_ntu_joints(path: Path, *, is_every_frame_kept: bool) -> dict[str, NDArray[Any]]:
    """``joints3d`` ``[S, T, 25, 3]`` in metres, ``joints2d`` ``[S, T, 25, 2]`` as shares of the colour frame.

    Also ``confidence`` ``[S, T, 25]`` and the texts ``layout`` and ``units`` of ``joints2d``. S is 1 or 2 actors.
    What is missing is NaN or has confidence 0. ``is_every_frame_kept`` keeps the frames that show nobody, so that
    frame t is that of the video; otherwise they are dropped.

    Raises InputError naming file, line and fix, also where no frame shows a body.
    """
    recording = read_skeleton_file(path)
    tracks = track_actors(recording)
    n_actors = 1 + int(tracks.is_present[1].any())
    arrays: dict[str, NDArray[Any]] = {
        "joints3d": tracks.gather(recording.positions)[:n_actors],
        "joints2d": tracks.gather(recording.colour_xy / np.array(COLOUR_SIZE, dtype=np.float32))[:n_actors],
        "confidence": tracks.gather(_CONFIDENCES[recording.tracking])[:n_actors],
    }
    if is_every_frame_kept:
        for name, values in arrays.items():
            arrays[name] = np.zeros((n_actors, recording.n_frames, *values.shape[2:]), dtype=np.float32)
            arrays[name][:, tracks.frame_idx] = values
    return {**arrays, "layout": np.array("NTU-25"), "units": np.array("share")}
