"""Named joint layouts and their mapping to the internal one, COCO-17 (assumption A1).

Data sets that share a sensor still order their joints differently, so every mapping goes by joint
name; a number is never taken for a joint. Names are ``side_part`` in lower case.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.errors import InputError
from oskar.modalities import N_JOINTS

INTERNAL: tuple[str, ...] = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)

SWAP_LEFT_RIGHT: tuple[int, ...] = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)

# What can stand for an internal joint, best first; the joint is the mean of all the named ones.
# Approximations: a bare head or face for the nose, the hand for the wrist, the foot for the ankle.
_SOURCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "nose": (("nose",), ("face",), ("head",)),
    "eye": (("eye",), ("eye_inner", "eye_outer")),
    "ear": (("ear",),),
    "shoulder": (("shoulder",),),
    "elbow": (("elbow",),),
    "wrist": (("wrist",), ("hand",)),
    "hip": (("hip",),),
    "knee": (("knee",),),
    "ankle": (("ankle",), ("foot",), ("heel", "foot_index"), ("heel", "big_toe")),
}

# What H36M-17 has and COCO-17 has not, as means.
_H36M_SOURCES: dict[str, tuple[str, ...]] = {
    "hip_center": ("left_hip", "right_hip"),
    "spine": ("left_hip", "right_hip", "left_shoulder", "right_shoulder"),
    "shoulder_center": ("left_shoulder", "right_shoulder"),
    "head": ("left_eye", "right_eye"),
}

# Other spellings of a part, after the side has been split off and moved to the front.
_SYNONYMS: dict[str, str] = {
    "pelvis": "hip_center",
    "mid_hip": "hip_center",
    "base_of_spine": "hip_center",
    "spine_base": "hip_center",
    "spine_mid": "spine",
    "middle_of_spine": "spine",
    "torso": "spine",
    "belly": "spine",
    "thorax": "shoulder_center",
    "spine_shoulder": "shoulder_center",
    "mid_shoulder": "shoulder_center",
    "index_finger": "index",
    "tip_of_hand": "hand_tip",
}

_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The joints of a skeleton in their stored order, under their canonical names."""

    name: str
    joint_names: tuple[str, ...]

    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For each internal joint the rows whose mean it is; empty where the layout has none."""
        row = {name: i for i, name in enumerate(self.joint_names)}
        result = []
        for joint in INTERNAL:
            side, _, part = joint.rpartition("_")
            prefix = f"{side}_" if side else ""
            options = [tuple(prefix + name for name in names) for names in _SOURCES[part]]
            chosen = next((names for names in options if all(name in row for name in names)), ())
            result.append(tuple(row[name] for name in chosen))
        return tuple(result)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(name="COCO-17", joint_names=INTERNAL),
        Layout(
            name="H36M-17",
            joint_names=(
                *("hip_center", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
                *("spine", "shoulder_center", "nose", "head"),
                *("left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist"),
            ),
        ),
        Layout(
            name="NTU-25",
            joint_names=(
                *("hip_center", "spine", "neck", "head"),
                *("left_shoulder", "left_elbow", "left_wrist", "left_hand"),
                *("right_shoulder", "right_elbow", "right_wrist", "right_hand"),
                *("left_hip", "left_knee", "left_ankle", "left_foot"),
                *("right_hip", "right_knee", "right_ankle", "right_foot"),
                *("shoulder_center", "left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb"),
            ),
        ),
        Layout(
            name="Kinect-20",
            joint_names=(
                *("hip_center", "spine", "shoulder_center", "head"),
                *("left_shoulder", "left_elbow", "left_wrist", "left_hand"),
                *("right_shoulder", "right_elbow", "right_wrist", "right_hand"),
                *("left_hip", "left_knee", "left_ankle", "left_foot"),
                *("right_hip", "right_knee", "right_ankle", "right_foot"),
            ),
        ),
        Layout(
            name="JHMDB-15",
            joint_names=(
                *("neck", "spine", "face", "right_shoulder", "left_shoulder", "right_hip", "left_hip"),
                *("right_elbow", "left_elbow", "right_knee", "left_knee"),
                *("right_wrist", "left_wrist", "right_ankle", "left_ankle"),
            ),
        ),
        Layout(name="Penn-13", joint_names=("head", *INTERNAL[5:])),
        Layout(
            name="OpenPose-25",
            joint_names=(
                *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist"),
                *("left_shoulder", "left_elbow", "left_wrist", "hip_center"),
                *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
                *("right_eye", "left_eye", "right_ear", "left_ear"),
                *("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
            ),
        ),
        Layout(
            name="MediaPipe-33",
            joint_names=(
                *("nose", "left_eye_inner", "left_eye", "left_eye_outer"),
                *("right_eye_inner", "right_eye", "right_eye_outer"),
                *("left_ear", "right_ear", "left_mouth", "right_mouth"),
                *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
                *("left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb"),
                *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
                *("left_heel", "right_heel", "left_foot_index", "right_foot_index"),
            ),
        ),
    )
}


def layout_named(name: str, source: str) -> Layout:
    """The layout of that name; ``source`` is the file or key an ``InputError`` names."""
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1, cutoff=0.0)[0]
        raise InputError(
            f"{source}: unknown joint layout {name!r}", fix=f"did you mean {near}? Known: {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[name]


def layout_from_names(names: Sequence[str], source: str) -> Layout:
    """A layout from the lines of a ``joint_names.txt``, in any order and usual spelling.

    ``source`` names the file in errors. Where the names are those of a known layout in its order,
    that layout is returned. Raises ``InputError`` on a name it does not know or meets twice.
    """
    known = sorted({joint for layout in LAYOUTS.values() for joint in layout.joint_names})
    names = [name for name in names if name.strip()]
    canonical = tuple(_canonical(name) for name in names)
    for name, joint in zip(names, canonical, strict=True):
        if joint not in known:
            near = difflib.get_close_matches(joint, known, n=1, cutoff=0.0)[0]
            raise InputError(f"{source}: unknown joint name {name!r}", fix=f"did you mean {near}?")
        if canonical.count(joint) > 1:
            raise InputError(f"{source}: joint {name!r} ({joint}) is named more than once", fix="name each joint once")
    if not canonical:
        raise InputError(f"{source}: no joint names", fix="write one joint name on each line")
    same = [layout for layout in LAYOUTS.values() if layout.joint_names == canonical]
    return same[0] if same else Layout(name=source, joint_names=canonical)


def _canonical(name: str) -> str:
    """``LShoulder``, ``shoulder left`` and ``left-shoulder`` are all ``left_shoulder``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    part = "_".join(word for word in words if word not in _SIDES)
    return "_".join([*sides, _SYNONYMS.get(part, part)])


def to_internal(positions: Tensor, confidence: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Joints of a layout as the internal 17: float32 positions ``[..., 17, D]`` and confidence ``[..., 17]``.

    ``positions`` ``[..., J, D]``, ``confidence`` ``[..., J]``. A joint that is not finite, has no
    confidence, or that the layout lacks is unavailable: confidence 0, position 0. A mean of several
    joints needs all of them and takes their lowest confidence. Raises ``InputError`` where J is
    not the layout's count.
    """
    n_expected = len(layout.joint_names)
    if positions.shape[-2] != n_expected or confidence.shape != positions.shape[:-1]:
        raise InputError(
            f"layout {layout.name} has {n_expected} joints, but the positions have {positions.shape[-2]} "
            f"and the confidences the shape {tuple(confidence.shape)}",
            fix="give the layout the joints were stored in, and one confidence for each of them",
        )
    is_usable = positions.isfinite().all(dim=-1) & confidence.isfinite() & (confidence > 0)
    positions = torch.where(is_usable[..., None], positions, 0.0).to(torch.float32)
    confidence = torch.where(is_usable, confidence, 0.0).to(torch.float32)
    weights = _mean_weights(layout.sources(), n_expected)
    is_source = weights > 0
    lowest = torch.where(is_source, confidence[..., None, :], torch.inf).amin(dim=-1)
    lowest = torch.where(is_source.any(dim=-1), lowest, 0.0)
    return torch.where((lowest > 0)[..., None], weights @ positions, 0.0), lowest


def coco_to_h36m(positions: Tensor, confidence: Tensor, *, motionbert_compat: bool = False) -> tuple[Tensor, Tensor]:
    """COCO-17 joints ``[..., 17, D]`` as H36M-17, with confidences ``[..., 17]``, in float32.

    H36M's root is the middle of the hips, its neck that of the shoulders, its belly that of root and neck, its head
    that of the eyes; such a mean has the mean of their confidences. A joint one of whose sources is unavailable
    (not finite, or confidence 0) is unavailable: confidence 0, position 0.

    ``motionbert_compat`` averages whatever is there and returns the confidences as they came, in the order of
    COCO-17: so MotionBERT pairs them with the converted joints.
    """
    names = LAYOUTS["H36M-17"].joint_names
    rows = [[INTERNAL.index(source) for source in _H36M_SOURCES.get(name, (name,))] for name in names]
    weights = _mean_weights(rows, N_JOINTS)
    positions, confidence = positions.to(torch.float32), confidence.to(torch.float32)
    if motionbert_compat:
        return weights @ positions, confidence
    is_usable = positions.isfinite().all(dim=-1) & confidence.isfinite() & (confidence > 0)
    is_known = (is_usable[..., None, :] | (weights == 0)).all(dim=-1)
    means = weights @ torch.where(is_usable[..., None], positions, 0.0)
    mean_confidence = torch.where(is_usable, confidence, 0.0) @ weights.T
    return torch.where(is_known[..., None], means, 0.0), torch.where(is_known, mean_confidence, 0.0)


def _mean_weights(sources: Sequence[Sequence[int]], n_joints: int) -> Tensor:
    """``[len(sources), n_joints]``: times joints it gives the mean of each row's sources."""
    weights = torch.zeros(len(sources), n_joints)
    for joint, rows in enumerate(sources):
        weights[joint, list(rows)] = 1.0 / max(len(rows), 1)
    return weights


def swap_left_right(joints: Tensor) -> Tensor:
    """Exchange left and right joints of the internal layout, ``[..., 17, C]``; a mirrored frame needs it."""
    return joints[..., list(SWAP_LEFT_RIGHT), :]
