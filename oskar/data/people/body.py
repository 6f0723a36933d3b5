"""The articulated body: joint angles to points in space, and points in space to the image.

Body axes: x to the person's left, y up, z forward; lengths in body heights, the ground at y = 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

N_COCO = 17
POINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),  # COCO-17 up to here
    *("neck", "pelvis", "head", "face"),
)
POINT = {name: i for i, name in enumerate(POINTS)}

# In body heights, after the usual segment tables of anthropometry, with a large head for small pictures.
LENGTHS = {
    "shank": 0.25,
    "thigh": 0.25,
    "torso": 0.28,
    "neck": 0.12,
    "head_radius": 0.085,
    "shoulder": 0.115,
    "hip": 0.065,
    "upper_arm": 0.17,
    "forearm": 0.18,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limb:
    """One arm or leg relative to its root: middle joint, end joint ``[n, T, 3]``."""

    middle: Tensor
    end: Tensor


def _limb(side: float, angles: Tensor, bend_sign: float, upper: Tensor, lower: Tensor) -> Limb:
    """``side`` is +1 for the left; ``angles`` ``[n, T, 3]`` are elevation, its plane and the bend.

    ``bend_sign`` +1 turns the lower part in the direction of raising (elbows), -1 against it (knees).
    """
    elevation, plane, bend = angles.unbind(-1)
    bend = bend * bend_sign
    sin, cos = torch.sin(elevation), torch.cos(elevation)
    sideways, forward = side * torch.cos(plane), torch.sin(plane)
    along = torch.stack([sin * sideways, -cos, sin * forward], dim=-1)
    raising = torch.stack([cos * sideways, sin, cos * forward], dim=-1)
    middle = along * upper[:, None, None]
    direction = along * torch.cos(bend)[..., None] + raising * torch.sin(bend)[..., None]
    return Limb(middle=middle, end=middle + direction * lower[:, None, None])


def _rotate(points: Tensor, first: int, second: int, angle: Tensor) -> Tensor:
    """Rotate ``[n, T, points, 3]`` from axis ``first`` towards axis ``second`` by ``angle`` ``[n, T]``."""
    sin, cos = torch.sin(angle)[..., None], torch.cos(angle)[..., None]
    parts = list(points.unbind(-1))
    a, b = parts[first], parts[second]
    parts[first], parts[second] = a * cos - b * sin, a * sin + b * cos
    return torch.stack(parts, dim=-1)


def _upper_body(channels: Tensor, scale: dict[str, Tensor], pelvis: Tensor) -> Tensor:
    """Head, shoulders and arms ``[n, T, 14, 3]`` relative to the pelvis: COCO 0-10, neck, head, face."""
    up = torch.zeros_like(pelvis)
    up[..., 1] = 1.0
    left = torch.zeros_like(pelvis)
    left[..., 0] = 1.0
    front = torch.zeros_like(pelvis)
    front[..., 2] = 1.0
    size = {name: value[:, None, None] for name, value in scale.items()}
    radius = size["head_radius"]
    neck = up * size["torso"]
    head = neck + up * size["neck"]
    face = head + front * radius * 0.45
    nose = head + front * radius * 1.05
    eyes = [head + (front * 0.85 + up * 0.3 + left * s * 0.4) * radius for s in (1.0, -1.0)]
    ears = [head + (left * s * 0.95 + up * 0.05) * radius for s in (1.0, -1.0)]
    shoulders = [neck + left * s * size["shoulder"] - up * 0.02 for s in (1.0, -1.0)]
    arms = [
        _limb(s, channels[..., c : c + 3], 1.0, scale["upper_arm"], scale["forearm"]) for s, c in ((1.0, 5), (-1.0, 8))
    ]
    elbows = [shoulder + arm.middle for shoulder, arm in zip(shoulders, arms, strict=True)]
    wrists = [shoulder + arm.end for shoulder, arm in zip(shoulders, arms, strict=True)]
    return torch.stack([nose, *eyes, *ears, *shoulders, *elbows, *wrists, neck, head, face], dim=2)


def body_points(channels: Tensor, scale: dict[str, Tensor]) -> Tensor:
    """``POINTS`` ``[n, T, 21, 3]`` of bodies with ``channels`` ``[n, T, C]`` and the lengths ``scale``, ``[n]`` each.

    The yaw is applied, so x is to the right of the image and z towards the camera. The lower foot
    stands on the ground unless the channel "lift" raises the body.
    """
    shift, lift, yaw, roll, pitch = channels[..., :5].unbind(-1)
    side = torch.zeros_like(channels[..., :3])
    side[..., 0] = 1.0
    legs = []
    for s, c in ((1.0, 11), (-1.0, 14)):
        legs.append(_limb(s, channels[..., c : c + 3], -1.0, scale["thigh"], scale["shank"]))
    reach = torch.maximum(-legs[0].end[..., 1], -legs[1].end[..., 1])
    pelvis = torch.stack([shift, reach + lift, torch.zeros_like(shift)], dim=-1)
    upper = _upper_body(channels, scale, pelvis)
    upper = _rotate(_rotate(upper, 1, 2, pitch), 1, 0, roll) + pelvis[:, :, None]
    hips = [pelvis + side * s * scale["hip"][:, None, None] for s in (1.0, -1.0)]
    knees = [hip + leg.middle for hip, leg in zip(hips, legs, strict=True)]
    ankles = [hip + leg.end for hip, leg in zip(hips, legs, strict=True)]
    lower = torch.stack([*hips, *knees, *ankles], dim=2)
    points = torch.cat([upper[:, :, :11], lower, upper[:, :, 11:12], pelvis[:, :, None], upper[:, :, 12:]], dim=2)
    return _rotate(points, 2, 0, yaw)


def project(points: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
    """Orthographic image positions (x right, y down) ``[n, T, points, 2]`` and nearness ``[n, T, points]``.

    The camera looks down by ``tilt`` ``[n]`` radians.
    """
    x, y, z = points.unbind(-1)
    sin, cos = torch.sin(tilt)[:, None, None], torch.cos(tilt)[:, None, None]
    return torch.stack([x, z * sin - y * cos], dim=-1), z * cos + y * sin
