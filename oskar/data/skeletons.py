"""Skeleton files: one ``.npz`` or NTU ``.skeleton`` per clip, or one packed ``skeletons.npz`` for a whole folder.

Our own format of a clip's file, all arrays without pickles: ``joints`` ``[S, T, J, 2|3]`` or
``[T, J, 2|3]``, optional ``confidence`` (the same without the last axis), ``boxes`` ``[S, T, 4]`` or
``[T, 4]`` in the units of 2-D joints, and the texts ``layout`` (a name of ``LAYOUTS``), ``units``
(``pixels``, ``share`` of the frame, ``metres``) and ``up`` (``+y``, ``-y``, ``+z``; 3-D only). Three
values of a joint are x, y, confidence in pixels and shares, and x, y, z in metres. Joints of which
every coordinate is exactly 0 are missing: that is how sensors and pose networks write it.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from oskar.data.formats.ntu_joints import read_ntu_joints
from oskar.data.joint_arrays import (
    KEYS_2D,
    NETWORK_LAYOUTS,
    Arrays,
    Units,
    Up,
    decode,
    layout_of,
    load_arrays,
    text_of,
    units_of_joints,
    up_of,
)
from oskar.data.placement import SkeletonSequence, place
from oskar.errors import InputError
from oskar.tokens.layouts import Layout, layout_from_names, to_internal

__all__ = ["PackedSkeletons", "SkeletonSequence", "folder_layout", "place", "read_joints_file"]

_N_ROWS_LOOKED_AT = 2000  # enough of a packed file to see where up is


def read_joints_file(
    path: Path, *, frame_size: tuple[int, int] | None, layout: Layout | None, prefer_2d: bool
) -> SkeletonSequence | None:
    """The skeletons of one clip's ``.npz`` or NTU ``.skeleton`` file; None where it holds no joints at all.

    The first of these that is there: in 2-D ``joints2d`` (pixels, unless ``units`` is share),
    ``movenet``, ``mediapipe`` (shares with a score), ``screen`` (pixels; a third value is a depth)
    and 2-D ``joints``; in 3-D ``joints3d`` and 3-D ``joints``. ``frame_size`` is (width, height) and
    needed for pixels. ``layout`` is the folder's; one that the file itself names goes before it.

    A ``.skeleton`` file has ``joints3d``, without the frames that show nobody, and ``joints2d`` in the colour video's
    frame, with all of them.

    Raises ``InputError`` on a file that cannot be read, a shape, layout or unit that does not fit,
    pixels without a frame size, and a recording without one usable joint.
    """
    source = str(path)
    is_ntu = path.suffix.lower() == ".skeleton"
    arrays = read_ntu_joints(path, is_every_frame_kept=prefer_2d) if is_ntu else load_arrays(path)
    wanted, other = (KEYS_2D, ("joints3d",)) if prefer_2d else (("joints3d",), KEYS_2D)
    key = next((k for k in wanted if k in arrays), None)
    joints_units = units_of_joints(arrays, source) if key is None and "joints" in arrays else None
    if joints_units is not None and (joints_units == "metres") != prefer_2d:
        key = "joints"
    key = key or next((k for k in (*other, "joints") if k in arrays), None)
    if key is None:
        return None
    if key == "joints" and joints_units is not None:
        units = joints_units
    elif key == "joints3d":
        units = "metres"
    else:
        units = "share" if key in NETWORK_LAYOUTS or text_of(arrays, "units") == "share" else "pixels"
    return decode(
        key,
        arrays,
        layout=layout_of(key, arrays, layout, source),
        units=units,
        up=up_of(arrays, source) or "+y",
        frame_size=frame_size,
        source=source,
    )


def folder_layout(folder: Path) -> Layout | None:
    """The layout of a folder's ``joint_names.txt``, None where there is no such file."""
    path = folder / "joint_names.txt"
    if not path.is_file():
        return None
    return layout_from_names(path.read_text(encoding="utf-8", errors="replace").splitlines(), str(path))


class PackedSkeletons:
    """The recordings of a folder's ``skeletons.npz``, read once at the first use.

    ``joints`` ``[sum T, J, 2|3]`` or ``[sum T, S, J, 2|3]``, optional ``screen``, ``confidence`` and
    ``boxes``; a recording is a range of rows. Without a text ``units``, 2-D and 3-D are told apart
    over the whole file (see ``units_of_joints``); without a text ``up``, 3-D joints whose heads are
    mostly below their ankles have y pointing down. With ``prefer_2d``, ``screen`` goes before
    ``joints``. ``arrays`` stand in place of the file where they are in memory.
    """

    def __init__(self, folder: Path, *, prefer_2d: bool = False, arrays: Arrays | None = None) -> None:
        self._given = arrays
        self.path = folder / "skeletons.npz"
        self._folder = folder
        self._prefer_2d = prefer_2d

    @cached_property
    def _arrays(self) -> Arrays:
        if self._given is not None:
            return self._given
        arrays = load_arrays(self.path)
        if "joints" not in arrays:
            raise InputError(f"{self.path}: no array 'joints'", fix="store the joints of all recordings as 'joints'")
        return arrays

    @cached_property
    def _key(self) -> str:
        return "screen" if self._prefer_2d and "screen" in self._arrays else "joints"

    @cached_property
    def units(self) -> Units:
        """What the coordinates are measured in."""
        return "pixels" if self._key == "screen" else units_of_joints(self._arrays, str(self.path))

    @cached_property
    def layout(self) -> Layout:
        """The layout of the folder's ``joint_names.txt`` or of the file itself."""
        return layout_of(self._key, self._arrays, folder_layout(self._folder), str(self.path))

    @cached_property
    def up(self) -> Up:
        """Where up is, as the file says or as the heads and ankles of the whole file show."""
        said = up_of(self._arrays, str(self.path))
        if said is not None or self.units != "metres":
            return said or "+y"
        joints = self._arrays["joints"]
        sample = torch.from_numpy(joints[:: max(len(joints) // _N_ROWS_LOOKED_AT, 1)].astype(np.float32))
        positions, confidence = to_internal(sample, (sample != 0).any(dim=-1).float(), self.layout)
        has_both = (confidence[..., 0] > 0) & (confidence[..., 15:] > 0).all(dim=-1)
        if not bool(has_both.any()):
            return "+y"
        _, upwards, away = (
            (positions[..., 0, :] - positions[..., 15:, :].mean(dim=-2))[has_both].median(dim=0)[0].tolist()
        )
        if abs(away) > 2 * abs(upwards):
            raise InputError(
                f"{self.path}: heads and ankles lie {away:.2f} m apart along z and {upwards:.2f} m along y",
                fix="add a text array 'up' to the file: +y, -y or +z",
            )
        return "-y" if upwards < 0 else "+y"

    def sequence(self, start: int, end: int, frame_size: tuple[int, int] | None) -> SkeletonSequence:
        """The recording in rows ``start`` to ``end``; ``frame_size`` (width, height) is needed for pixels."""
        n_rows = len(self._arrays["joints"])
        source = f"{self.path}, rows {start} to {end}"
        if not 0 <= start < end <= n_rows:
            raise InputError(f"{source}: the file has {n_rows} rows", fix="correct start and end in the index")
        rows = {
            name: self._arrays[name][start:end] for name in (self._key, "confidence", "boxes") if name in self._arrays
        }
        n_axes = {"confidence": 3, "boxes": 3}
        people_first = {k: np.moveaxis(a, 1, 0) if a.ndim == n_axes.get(k, 4) else a for k, a in rows.items()}
        return decode(
            self._key,
            people_first,
            layout=self.layout,
            units=self.units,
            up=self.up,
            frame_size=frame_size,
            source=source,
        )
