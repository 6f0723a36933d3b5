"""The arrays of a skeleton file: what they hold, in which units, and their joints in the internal layout."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oskar.data.placement import SkeletonSequence
from oskar.errors import InputError
from oskar.tokens.layouts import LAYOUTS, Layout, layout_named, to_internal

Units = Literal["pixels", "share", "metres"]
Up = Literal["+y", "-y", "+z"]
Arrays = dict[str, NDArray[Any]]

KEYS_2D = ("joints2d", "movenet", "mediapipe", "screen")
NETWORK_LAYOUTS = {"movenet": "COCO-17", "mediapipe": "MediaPipe-33"}  # these keys bring their own score
_KEYS = (*KEYS_2D, "joints3d", "joints", "confidence", "boxes", "layout", "units", "up")
_FARTHEST_FRAMES = 10.0  # a 2-D joint further off is a broken value
_FARTHEST_METRES = 100.0
_MOST_PLAUSIBLE_METRES = 20.0  # depth cameras see less far; pixels pass this at once
_MOST_PLAUSIBLE_SHARE = 2.0


def decode(
    key: str,
    arrays: Arrays,
    *,
    layout: Layout,
    units: Units,
    up: Up,
    frame_size: tuple[int, int] | None,
    source: str,
) -> SkeletonSequence:
    """The recording stored under ``key``, in the internal layout and our units."""
    positions, confidence = _split(key, arrays, units, source)
    if frame_size is not None and min(frame_size) <= 0:
        raise InputError(f"{source}: frame size {frame_size}", fix="correct width and height in the index")
    if positions.shape[2] != len(layout.joint_names):
        raise InputError(
            f"{source}: {key} has {positions.shape[2]} joints, layout {layout.name} has {len(layout.joint_names)}",
            fix="correct joint_names.txt or the file's layout",
        )
    boxes = None
    if "boxes" in arrays and units != "metres":
        boxes = _with_people(arrays["boxes"], 3, f"{source}: boxes")
        _same_shape(boxes.shape, (*positions.shape[:2], 4), f"{source}: boxes")
    if units == "pixels":
        if frame_size is None:
            raise InputError(
                f"{source}: {key} is in pixels, but the size of the frame is not known",
                fix="give width and height in the index, or store shares of the frame with units=share",
            )
        size = torch.tensor(frame_size, dtype=torch.float32)
        positions = positions / size
        boxes = None if boxes is None else boxes / size.repeat(2)
    elif units == "metres":
        positions = _upright(positions, up)
    farthest = _FARTHEST_METRES if units == "metres" else _FARTHEST_FRAMES
    is_real = (positions.abs() <= farthest).all(dim=-1) & (positions != 0).any(dim=-1)
    positions, confidence = to_internal(positions, torch.where(is_real, confidence, 0.0), layout)
    if not bool((confidence > 0).any()):
        raise InputError(f"{source}: no usable joint in {key}", fix="leave the joints of this clip out of the index")
    aspect = 1.0 if frame_size is None else frame_size[0] / frame_size[1]
    return SkeletonSequence(positions=positions, confidence=confidence, boxes=boxes, frame_aspect=aspect)


def _split(key: str, arrays: Arrays, units: Units, source: str) -> tuple[Tensor, Tensor]:
    """Positions ``[S, T, J, 2|3]`` and confidence ``[S, T, J]`` of the values under ``key``."""
    values = _with_people(arrays[key], 4, f"{source}: {key}")
    widths = {"metres": (3,), "pixels": (2, 3), "share": (2, 3)}[units] if key != "mediapipe" else (4,)
    if values.shape[-1] not in widths:
        raise InputError(
            f"{source}: {key} has {values.shape[-1]} values for each joint, not {' or '.join(map(str, widths))}",
            fix="store [people, frames, joints, values] or [frames, joints, values]",
        )
    positions = values if units == "metres" else values[..., :2]
    if "confidence" in arrays and key not in NETWORK_LAYOUTS:
        confidence = _with_people(arrays["confidence"], 3, f"{source}: confidence")
        _same_shape(confidence.shape, positions.shape[:3], f"{source}: confidence")
    elif units == "metres" or values.shape[-1] == 2 or key == "screen":
        return positions, torch.ones(positions.shape[:3])
    else:
        confidence = values[..., -1]
    known = confidence[confidence.isfinite()]
    if len(known) and not -1e-3 <= float(known.min()) <= float(known.max()) <= 1 + 1e-3:
        raise InputError(
            f"{source}: {key} has confidences from {float(known.min()):g} to {float(known.max()):g}",
            fix="store confidences between 0 and 1",
        )
    return positions, confidence.clamp(0.0, 1.0)


def units_of_joints(arrays: Arrays, source: str) -> Units:
    """The units of ``joints``: as the text ``units`` says, otherwise by what only one unit can look like.

    Coordinates of which 5 % lie beyond 20 are pixels. Below that, two values are a share where 95 %
    lie within 2, and three values are metres unless the third always lies in [0, 1], as a confidence
    does. Raises ``InputError`` where this leaves the question open.
    """
    if "units" in arrays:
        return cast(Units, _choice_of(arrays, "units", get_args(Units), source))
    joints = arrays["joints"]
    width = joints.shape[-1] if joints.ndim and joints.dtype.kind in "fiu" else 0
    values = joints.reshape(-1, width) if width in (2, 3) else np.empty((0, 3))
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        raise InputError(
            f"{source}: no usable joint in joints, {joints.dtype} of shape {joints.shape}", fix="store x, y or x, y, z"
        )
    reach = float(np.percentile(np.abs(values[:, :2]), 95))
    third_is_confidence = width == 3 and float(values[:, 2].min()) >= 0 and float(values[:, 2].max()) <= 1
    if reach > _MOST_PLAUSIBLE_METRES and (width == 2 or third_is_confidence):
        return "pixels"
    if width == 2 and reach <= _MOST_PLAUSIBLE_SHARE:
        return "share"
    if width == 3 and reach <= _MOST_PLAUSIBLE_METRES and not third_is_confidence:
        return "metres"
    raise InputError(
        f"{source}: cannot tell the units of joints (95 % of x and y within {reach:g}, {width} values)",
        fix="add a text array 'units': pixels, share or metres",
    )


def _upright(positions: Tensor, up: Up) -> Tensor:
    """x to the right, y up, z away from the camera."""
    if up == "+z":
        return positions[..., [0, 2, 1]]
    return positions * positions.new_tensor([1.0, -1.0 if up == "-y" else 1.0, 1.0])


def layout_of(key: str, arrays: Arrays, layout: Layout | None, source: str) -> Layout:
    """The layout of the joints under ``key``: the pose network's, else the file's own, else ``layout``."""
    if key in NETWORK_LAYOUTS:
        return LAYOUTS[NETWORK_LAYOUTS[key]]
    said = text_of(arrays, "layout")
    if said is not None:
        return layout_named(said, f"{source}: layout")
    if layout is None:
        raise InputError(
            f"{source}: the layout of {key} is not known",
            fix=f"add joint_names.txt to the folder, or a text array 'layout': {', '.join(LAYOUTS)}",
        )
    return layout


def load_arrays(path: Path) -> Arrays:
    """The arrays of a file whose names mean something here; nothing is ever unpickled."""
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                return {name: file[name] for name in _KEYS if name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read as .npz ({error})",
            fix="write it again with numpy.savez_compressed, without objects",
        ) from error


def _with_people(array: NDArray[Any], n_axes: int, source: str) -> Tensor:
    """Float32 with an axis of people in front, which a file with one person may leave out."""
    if array.dtype.kind not in "fiub" or array.ndim not in (n_axes - 1, n_axes) or 0 in array.shape:
        raise InputError(
            f"{source}: an array {array.dtype} of shape {array.shape}",
            fix=f"store numbers with {n_axes} axes, or {n_axes - 1} for one person, none of them empty",
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return tensor if array.ndim == n_axes else tensor[None]


def _same_shape(shape: Sequence[int], expected: Sequence[int], source: str) -> None:
    if tuple(shape) != tuple(expected):
        raise InputError(f"{source}: shape {tuple(shape)}", fix=f"the joints need {tuple(expected)}")


def text_of(arrays: Arrays, key: str) -> str | None:
    """The text stored under ``key``, None where there is none."""
    return str(arrays[key].reshape(-1)[0]) if key in arrays and arrays[key].size else None


def up_of(arrays: Arrays, source: str) -> Up | None:
    """The direction of up that the file states."""
    return cast(Up, _choice_of(arrays, "up", get_args(Up), source)) if "up" in arrays else None


def _choice_of(arrays: Arrays, key: str, known: tuple[str, ...], source: str) -> str:
    said = text_of(arrays, key)
    if said not in known:
        raise InputError(f"{source}: {key} = {said!r}", fix=f"use one of {', '.join(known)}")
    return said
