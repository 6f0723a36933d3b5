"""Pictures of a scene: every body part and object is a capsule, painted far to near.

A capsule is all points within ``radius`` of a segment. Each is evaluated only on a window around it,
for all clips and frames at once: one gather, one blend and one scatter per part. A pixel is one
int64 with a lane per channel, so a blend is integer arithmetic, and only additions, products and
square roots, each correctly rounded, lead up to it: a clip's pixels do not depend on its batch.
"""

import math

import torch
from torch import Tensor

from oskar.data.people.body import POINT
from oskar.data.people.scene import Scene
from oskar.data.people.settings import N_CLUTTER, PeopleWorld
from oskar.randomness import integers, uniform, uniform64

SHIRT, TROUSERS, SKIN, HAIR, FOREARM = range(5)
_UPPER_ARM_RADIUS, _FOREARM_RADIUS, _THIGH_RADIUS, _SHANK_RADIUS = 0.042, 0.038, 0.056, 0.046  # body heights
_HEAD_RADIUS, _FACE_RADIUS = 0.092, 0.065
_N_WAVES = 5
_LANES = (40, 20, 0)  # bit positions of red, green and blue in a packed pixel
_CHANNELS = (255 << 40) | (255 << 20) | 255
_HALF = (128 << 40) | (128 << 20) | 128
_NOISE_OFFSETS = 1 << 14
_BLOCK_FRAMES = 32  # whole frames touched together: they should fit a core's cache


def pack_colours(colours: Tensor) -> Tensor:
    """Colours ``[..., 3]`` in [0, 1] as one int64 each, 8 bits of every channel in a lane of its own."""
    lanes = (colours * 255.0).round().to(torch.int64)
    return (lanes[..., 0] << _LANES[0]) | (lanes[..., 1] << _LANES[1]) | lanes[..., 2]


def unpack_channel(canvas: Tensor, channel: int) -> Tensor:
    """Channel 0, 1 or 2 of packed colours as int64 in 0 to 255."""
    return (canvas >> _LANES[channel]) & 255


def _coverage(x: Tensor, y: Tensor, ends: Tensor, radius: Tensor) -> Tensor:
    """Share of each pixel that a capsule covers ``[n, Y, X]``; pixel numbers ``x`` ``[n, X]``, ``y`` ``[n, Y]``."""
    along = ends[:, 2:] - ends[:, :2]
    length = along.square().sum(dim=1, keepdim=True).sqrt()
    unit = along / length.clamp_min(1e-6)
    unit[:, :1] += (length < 1e-6).to(unit.dtype)  # a disc: any direction will do
    middle = 0.5 * (ends[:, :2] + ends[:, 2:])
    from_x = x.to(torch.float32) + (0.5 - middle[:, :1])
    from_y = y.to(torch.float32) + (0.5 - middle[:, 1:])
    beyond = (from_x * unit[:, :1])[:, None, :] + (from_y * unit[:, 1:])[:, :, None]
    beyond.abs_().sub_(0.5 * length[:, :, None]).clamp_min_(0.0)
    aside = (from_x * unit[:, 1:])[:, None, :] - (from_y * unit[:, :1])[:, :, None]
    distance = beyond.mul_(beyond).add_(aside.mul_(aside)).sqrt_()
    return distance.neg_().add_((radius + 0.5)[:, None, None]).clamp_(0.0, 1.0)


def paint_capsules(canvas: Tensor, frames: Tensor, ends: Tensor, radius: Tensor, colour: Tensor) -> None:
    """Blend one capsule into each of ``frames`` (all different) of ``canvas`` int64 ``[F, H, W]``, in place.

    ``ends`` ``[n, 4]`` (x, y, x, y) and ``radius`` ``[n]`` are in pixels; ``canvas`` and ``colour``
    ``[n]`` hold packed colours.
    """
    if len(frames) == 0:
        return
    height, width = canvas.shape[1:]
    low = torch.minimum(ends[:, :2], ends[:, 2:]) - radius[:, None] - 0.5
    extent = (torch.maximum(ends[:, :2], ends[:, 2:]) + radius[:, None] + 0.5 - low).amax(dim=0)
    n_x, n_y = (min(math.ceil(e) + 1, side) for e, side in zip(extent.tolist(), (width, height), strict=True))
    corner = low.floor().to(torch.int64)
    x = corner[:, :1].clamp(0, width - n_x) + torch.arange(n_x, device=canvas.device)
    y = corner[:, 1:].clamp(0, height - n_y) + torch.arange(n_y, device=canvas.device)
    weight = _coverage(x, y, ends, radius).mul_(256.0).add_(0.5).to(torch.int64).view(len(frames), -1)
    index = (((frames[:, None] * height + y) * width)[:, :, None] + x[:, None, :]).view(-1)
    pixels = canvas.view(-1)
    old = pixels.gather(0, index).view(len(frames), -1)
    # One product blends all three channels: a lane holds 255 * 256 + 128 without carrying into the next.
    new = (colour[:, None] * weight).add_(old.mul_(weight.neg_().add_(256))).add_(_HALF)
    pixels.scatter_(0, index, new.bitwise_right_shift_(8).bitwise_and_(_CHANNELS).view(-1))


def _blocks(canvas: Tensor) -> list[slice]:
    """Frames to touch together: few at a time on a CPU, all at once elsewhere."""
    size = _BLOCK_FRAMES if canvas.device.type == "cpu" else len(canvas)
    return [slice(start, start + size) for start in range(0, len(canvas), size)]


def _background(world: PeopleWorld, scene: Scene) -> Tensor:
    """A few separable waves and stripes fixed in the world: packed colours ``[B*T, H, W]``.

    The factors are multiples of 1/256, so their products and sums are exact in float32 in any order.
    """
    n_clips, n_frames = scene.camera.shape[:2]
    side = torch.arange(world.resolution, dtype=torch.float64, device=scene.camera.device)
    centred = (side + 0.5) / world.resolution - 0.5
    u = uniform64(scene.texture_keys, 0, (_N_WAVES, 4))[:, None, :, :, None]
    tint = uniform64(scene.texture_keys, 1, (_N_WAVES + 1, 3))

    def wave(offset: Tensor, which: int) -> Tensor:
        place = (centred - offset[..., None]) / scene.camera[..., :1]
        cycles = 0.5 + 3.5 * u[:, :, :, which]
        value = torch.sin(2.0 * math.pi * (cycles * place[:, :, None] + u[:, :, :, which + 2]))
        steep = torch.arange(_N_WAVES, device=value.device)[:, None] % 2 == 1
        return torch.where(steep, (6.0 * value).clamp(-1.0, 1.0), value)

    across, down = wave(scene.camera[..., 1], 0), wave(scene.camera[..., 2], 1)
    amount = world.texture * (0.12 * (tint[:, 1:, :1] - 0.5) + 0.05 * (tint[:, 1:] - 0.5))
    coloured = (across[..., None, :] * amount[:, None, :, :, None] * 256).round() / 256
    left = (down.transpose(-1, -2) * 256).round() / 256
    left = left.to(torch.float32).reshape(n_clips * n_frames, world.resolution, _N_WAVES)
    right = coloured.to(torch.float32).reshape(n_clips * n_frames, _N_WAVES, 3 * world.resolution)
    base = (0.42 + 0.2 * tint[:, 0, :1] + 0.1 * (tint[:, 0] - 0.5)).to(torch.float32).repeat_interleave(n_frames, dim=0)
    canvas = torch.empty(len(left), world.resolution, world.resolution, dtype=torch.int64, device=left.device)
    for rows in _blocks(canvas):
        planes = torch.bmm(left[rows], right[rows]).view(-1, world.resolution, 3, world.resolution)
        planes.add_(base[rows, None, :, None]).clamp_(0.0, 1.0).mul_(255.0).add_(0.5)
        lanes = planes.to(torch.int64)
        canvas[rows] = lanes[:, :, 0].bitwise_left_shift_(_LANES[0])
        canvas[rows] |= lanes[:, :, 1].bitwise_left_shift_(_LANES[1])
        canvas[rows] |= lanes[:, :, 2]
    return canvas


class _Painter:
    """Paints parts of the people of one depth rank: row i is one person in one frame."""

    def __init__(self, world: PeopleWorld, scene: Scene, canvas: Tensor, rank: int) -> None:
        clip, slot = _of_rank(scene, rank)
        n_frames = world.n_frames
        time = torch.arange(n_frames, device=clip.device)
        self._canvas = canvas
        self._frames = (clip[:, None] * n_frames + time).flatten()
        self._points = (scene.points[clip, slot].flatten(0, 1) * world.resolution).to(torch.float32)
        self._nearness = scene.nearness[clip, slot].flatten(0, 1)
        size = scene.size[clip, slot] * world.resolution
        self._size = size.flatten().to(torch.float32)
        self._thickness = (size * scene.radii[clip, slot][:, None]).flatten().to(torch.float32)
        self._colours = pack_colours(scene.colours[clip, slot]).repeat_interleave(n_frames, dim=0)

    def _paint(self, start: Tensor, end: Tensor, radius: Tensor, colour: int, rows: Tensor | None = None) -> None:
        ends = torch.cat([start, end], dim=1)
        if rows is None:
            paint_capsules(self._canvas, self._frames, ends, radius, self._colours[:, colour])
        else:
            paint_capsules(self._canvas, self._frames[rows], ends[rows], radius[rows], self._colours[rows, colour])

    def _at(self, name: str) -> Tensor:
        return self._points[:, POINT[name]]

    def arms(self, is_front: bool) -> None:
        """The arms that are in front of the torso, or those that are not."""
        torso = self._nearness[:, [POINT["neck"], POINT["pelvis"]]].mean(dim=1)
        for side in ("left", "right"):
            shoulder, elbow, wrist = (self._at(f"{side}_{name}") for name in ("shoulder", "elbow", "wrist"))
            near = self._nearness[:, [POINT[f"{side}_elbow"], POINT[f"{side}_wrist"]]].mean(dim=1)
            rows = ((near > torso) == is_front).nonzero().squeeze(1)
            self._paint(shoulder, elbow, self._thickness * _UPPER_ARM_RADIUS, SHIRT, rows)
            self._paint(elbow, wrist, self._thickness * _FOREARM_RADIUS, FOREARM, rows)

    def legs(self) -> None:
        """Both legs, the farther first."""
        parts = {
            name: torch.stack([self._at(f"{side}_{name}") for side in ("left", "right")], dim=1)
            for name in ("hip", "knee", "ankle")
        }
        knees = self._nearness[:, [POINT["left_knee"], POINT["right_knee"]]]
        farther = (knees[:, 0] > knees[:, 1]).to(torch.int64)
        rows = torch.arange(len(farther), device=farther.device)
        for which in (farther, 1 - farther):
            hip, knee, ankle = (parts[name][rows, which] for name in ("hip", "knee", "ankle"))
            self._paint(knee, ankle, self._thickness * _SHANK_RADIUS, TROUSERS)
            self._paint(hip, knee, self._thickness * _THIGH_RADIUS, TROUSERS)

    def torso_and_head(self) -> None:
        shoulders = (self._at("left_shoulder") - self._at("right_shoulder")).square().sum(dim=1).sqrt()
        radius = torch.maximum(0.5 * shoulders, self._thickness * 0.07)
        neck, pelvis = self._at("neck"), self._at("pelvis")
        along = pelvis - neck
        inset = radius[:, None] * along / along.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        top = torch.where(inset.abs() < 0.5 * along.abs(), neck + inset, 0.5 * (neck + pelvis))
        bottom = torch.where(inset.abs() < 0.5 * along.abs(), pelvis - 0.5 * inset, 0.5 * (neck + pelvis))
        self._paint(top, bottom, radius, SHIRT)
        self._paint(self._at("head"), self._at("head"), self._size * _HEAD_RADIUS, HAIR)
        rows = (self._nearness[:, POINT["face"]] > self._nearness[:, POINT["head"]]).nonzero().squeeze(1)
        self._paint(self._at("face"), self._at("face"), self._size * _FACE_RADIUS, SKIN, rows)


def _of_rank(scene: Scene, rank: int) -> tuple[Tensor, Tensor]:
    """Clip and slot of the people who are painted as number ``rank``, the farthest first."""
    is_present = scene.is_present
    farness = scene.distance.masked_fill(~is_present, -torch.inf)
    slot = farness.argsort(dim=1, descending=True)[:, rank]
    clip = (rank < scene.n_people).nonzero().squeeze(1)
    return clip, slot[clip]


def _paint_objects(world: PeopleWorld, scene: Scene, canvas: Tensor, which: range) -> None:
    n_frames = world.n_frames
    objects = (scene.objects * world.resolution).to(torch.float32)
    colours = pack_colours(scene.object_colours)
    time = torch.arange(n_frames, device=canvas.device)
    for o in which:
        clip = (scene.objects[:, 0, o, 4] > 0).nonzero().squeeze(1)
        frames = (clip[:, None] * n_frames + time).flatten()
        rows = objects[clip, :, o].flatten(0, 1)
        paint_capsules(canvas, frames, rows[:, :4], rows[:, 4], colours[clip, o].repeat_interleave(n_frames, dim=0))


def _finish(world: PeopleWorld, scene: Scene, canvas: Tensor) -> Tensor:
    """Unpack to uint8 ``[F, 3, H, W]`` and add sensor noise: a window of one noise tape for every frame."""
    n_values = 3 * canvas[0].numel()
    place = torch.arange(_NOISE_OFFSETS + n_values, dtype=torch.int64, device=canvas.device)
    # uniform on [-a, a] has the standard deviation a / sqrt(3); 0.5 rounds
    amplitude = 255.0 * math.sqrt(3.0) * world.pixel_noise
    tape = (uniform(place, 0) * 2.0 - 1.0) * amplitude + 0.5
    windows = tape.unfold(0, n_values, 1)
    offsets = integers(scene.texture_keys, 2, _NOISE_OFFSETS, (scene.camera.shape[1],)).flatten()
    frames = torch.empty(len(canvas), 3, *canvas.shape[1:], dtype=torch.uint8, device=canvas.device)
    for rows in _blocks(canvas):
        noise = windows[offsets[rows]].view(-1, 3, *canvas.shape[1:])
        for channel in range(3):
            values = unpack_channel(canvas[rows], channel).to(torch.float32)
            frames[rows, channel] = values.add_(noise[:, channel]).clamp_(0.0, 255.0).to(torch.uint8)
    return frames


def render(world: PeopleWorld, scene: Scene) -> Tensor:
    """Frames uint8 ``[B, T, 3, H, W]`` of ``scene``."""
    canvas = _background(world, scene)
    n_objects = scene.objects.shape[2]
    _paint_objects(world, scene, canvas, range(N_CLUTTER))
    for rank in range(world.n_people):
        painter = _Painter(world, scene, canvas, rank)
        painter.arms(is_front=False)
        painter.legs()
        painter.torso_and_head()
        painter.arms(is_front=True)
    _paint_objects(world, scene, canvas, range(N_CLUTTER, n_objects))
    return _finish(world, scene, canvas).view(*scene.camera.shape[:2], 3, *canvas.shape[1:])
