"""What is in a clip: who stands where and moves how, seen by which camera, before any pixel is drawn."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.data.people.actions import CHANNELS, N_LENGTH_CHANNELS, TABLE, action_pose
from oskar.data.people.body import LENGTHS, body_points, project
from oskar.data.people.settings import N_CLUTTER, N_OCCLUDERS, N_SUBJECTS, PeopleWorld, Split
from oskar.randomness import bits, clip_keys, integers, normal64, uniform64

SHIRTS = ("red", "green", "blue", "yellow", "purple", "white", "black", "orange")
SHIRT_RGB = (
    *((0.82, 0.12, 0.12), (0.12, 0.62, 0.18), (0.14, 0.26, 0.85), (0.92, 0.85, 0.12)),
    *((0.55, 0.16, 0.70), (0.93, 0.93, 0.93), (0.07, 0.07, 0.08), (0.95, 0.50, 0.08)),
)
_SKIN_RGB = ((0.96, 0.80, 0.69), (0.88, 0.67, 0.52), (0.74, 0.52, 0.37), (0.55, 0.36, 0.24), (0.38, 0.24, 0.16))
_HAIR_RGB = ((0.09, 0.07, 0.06), (0.30, 0.19, 0.10), (0.62, 0.45, 0.20), (0.55, 0.22, 0.10), (0.62, 0.62, 0.62))
_SUBJECT_SEED = 7
_RELATIVE_LENGTH_SPREAD = 0.12

# Streams of random numbers, one per kind of draw.
(_ORDER, _ACTOR, _COUNT, _SHIRT, _SUBJECT, _POSITION, _SIZE, _CAMERA, _SHAKE, _POSE, _STYLE, _SWAY) = range(12)
(_TIME, _FIDGET, _OBJECTS, _OBJECT_RGB, _TEXTURE, _BODY, _CLOTHES, _BASE_YAW) = range(12, 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The state of a batch of clips; float64 unless stated. Positions are in frames, y down.

    ``points`` ``[B, S, T, 21, 2]`` and ``nearness`` ``[B, S, T, 21]`` of ``body.POINTS``; ``size``
    ``[B, S, T]`` is a body height in frames; ``radii`` ``[B, S]`` scales the thickness of the limbs;
    ``colours`` ``[B, S, 5, 3]``: shirt, trousers, skin, hair, forearms; ``distance`` ``[B, S]`` orders
    people by nearness, the smallest in front. ``objects`` ``[B, T, O, 5]``: capsules x, y, x, y, radius, the
    first ``N_CLUTTER`` behind the people, radius 0 where absent; ``object_colours`` ``[B, O, 3]``.
    ``window`` ``[B, 2]``: seconds from which to which the actor acts. ``camera`` ``[B, T, 3]``: zoom,
    and offset x, y. ``texture_keys`` int64 ``[B]``. ``order`` int64 ``[B, S]`` counts people from the left.
    """

    labels: Tensor
    actor: Tensor
    n_people: Tensor
    subjects: Tensor
    shirts: Tensor
    order: Tensor
    window: Tensor
    points: Tensor
    nearness: Tensor
    size: Tensor
    radii: Tensor
    colours: Tensor
    distance: Tensor
    objects: Tensor
    object_colours: Tensor
    camera: Tensor
    texture_keys: Tensor

    @property
    def is_present(self) -> Tensor:
        """Bool ``[B, S]``."""
        n_slots = self.order.shape[1]
        return torch.arange(n_slots, device=self.order.device) < self.n_people[:, None]


def _spread(keys: Tensor, stream: int, low: float, high: float, shape: tuple[int, ...] = ()) -> Tensor:
    return low + (high - low) * uniform64(keys, stream, shape)


def _rank(values: Tensor) -> Tensor:
    return values.argsort(dim=-1).argsort(dim=-1)


def _cast(world: PeopleWorld, labels: Tensor, keys: Tensor, split: Split) -> dict[str, Tensor]:
    """Who is there: count, left-to-right order, actor, shirts (all different) and subjects."""
    n_slots = world.n_people
    who = [action.actor for action in TABLE]
    is_leftmost = labels.new_tensor([w == "leftmost" for w in who]).bool()[labels]
    is_rightmost = labels.new_tensor([w == "rightmost" for w in who]).bool()[labels]
    u = uniform64(keys, _COUNT)
    n_people = 1 + (u * n_slots).long()
    n_people = torch.where(is_leftmost | is_rightmost, 2 + (u * (n_slots - 1)).long(), n_people)
    is_present = torch.arange(n_slots, device=keys.device) < n_people[:, None]
    order = _rank(uniform64(keys, _ORDER, (n_slots,)) + 2.0 * ~is_present)
    actor = (uniform64(keys, _ACTOR) * n_people).long()
    actor = torch.where(is_leftmost, order.argmin(dim=1), actor)
    actor = torch.where(is_rightmost, order.masked_fill(~is_present, -1).argmax(dim=1), actor)
    shirts = uniform64(keys, _SHIRT, (len(SHIRTS),)).argsort(dim=1)[:, :n_slots]
    first = 0 if split == "train" else N_SUBJECTS["train"]
    draws = integers(keys, _SUBJECT, N_SUBJECTS[split] // len(SHIRTS), (n_slots,))
    subjects = first + draws * len(SHIRTS) + shirts  # a subject's shirt is its number modulo the shirts
    return {"n_people": n_people, "order": order, "actor": actor, "shirts": shirts, "subjects": subjects}


def _bodies(world: PeopleWorld, subjects: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Lengths ``[n]`` by name, thickness ``[n]`` and colours ``[n, 5, 3]`` of ``subjects`` ``[n]``."""
    keys = clip_keys(_SUBJECT_SEED, 0, subjects)
    spread = _spread(keys, _BODY, -1.0, 1.0, (len(LENGTHS) + 1,)) * world.body_jitter
    lengths = {
        name: length * (1.0 + _RELATIVE_LENGTH_SPREAD * spread[:, i])
        for i, (name, length) in enumerate(LENGTHS.items())
    }
    radii = 1.0 + 0.2 * spread[:, -1]
    draws = uniform64(keys, _CLOTHES, (10,))

    def pick(table: tuple[tuple[float, float, float], ...], index: Tensor) -> Tensor:
        return torch.tensor(table, dtype=torch.float64, device=subjects.device)[index]

    shirt = pick(SHIRT_RGB, subjects % len(SHIRTS)) + 0.1 * (draws[:, :3] - 0.5)
    skin = pick(_SKIN_RGB, (draws[:, 3] * len(_SKIN_RGB)).long())
    hair = pick(_HAIR_RGB, (draws[:, 4] * len(_HAIR_RGB)).long())
    trousers = 0.02 + 0.3 * draws[:, 5:8]
    sleeves = torch.where(draws[:, 8:9] < 0.25, shirt, skin)
    return lengths, radii, torch.stack([shirt, trousers, skin, hair, sleeves], dim=1).clamp(0.0, 1.0)


def _postures(world: PeopleWorld, keys: Tensor) -> Tensor:
    """Postures ``[n, C]`` of the limbs an action leaves alone: arms hang or are held anywhere."""
    j = world.pose_jitter
    u = uniform64(keys, _POSE, (len(CHANNELS) + 2,))
    pose = torch.zeros(len(keys), len(CHANNELS), dtype=torch.float64, device=keys.device)
    for i, c in enumerate((5, 8)):
        is_held = u[:, len(CHANNELS) + i] < 0.6
        pose[:, c] = torch.where(is_held, 25 + 125 * u[:, c], 8 + 17 * u[:, c])
        pose[:, c + 1] = 10 + 60 * u[:, c + 1]
        pose[:, c + 2] = torch.where(is_held, 100 * u[:, c + 2], 25 * u[:, c + 2])
    for c in (11, 14):
        pose[:, c], pose[:, c + 1], pose[:, c + 2] = 3 + 12 * u[:, c], 50 * u[:, c + 1], 15 * u[:, c + 2]
    pose[:, 3] = 12 * (u[:, 3] - 0.5)
    pose[:, 4] = 16 * (u[:, 4] - 0.5)
    resting = torch.zeros_like(pose)
    resting[:, [5, 8]] = 10.0
    return torch.deg2rad(resting + j * (pose - resting))


def _motion(
    world: PeopleWorld, labels: Tensor, is_actor: Tensor, keys: Tensor, window: Tensor, draws: Tensor
) -> Tensor:
    """Channels ``[n, T, C]`` of every person; ``draws`` ``[n, 4]`` jitter rate, size and phase of the clip's action."""
    n_frames, n_channels = world.n_frames, len(CHANNELS)
    time = (torch.arange(n_frames, dtype=torch.float64, device=keys.device) + 0.5) / world.frames_per_second
    seconds = window[:, 1] - window[:, 0]
    progress = ((time - window[:, :1]) / seconds[:, None]).clamp(0.0, 1.0)
    j = world.time_jitter
    rate_scale = 1.0 + 0.15 * j * (2.0 * draws[:, 0] - 1.0)
    size_scale = 1.0 + 0.3 * j * (2.0 * draws[:, 1] - 1.0)
    phase = 2.0 * math.pi * draws[:, 2] * j
    acting, is_involved = action_pose(labels, progress, seconds, phase, rate_scale, size_scale)
    is_acting = is_actor[:, None] & is_involved
    style = torch.deg2rad(8.0 * world.pose_jitter * normal64(keys, _STYLE, (n_channels,)))
    style[:, : N_LENGTH_CHANNELS + 1] = 0.0
    channels = torch.where(is_acting[:, None], acting + style[:, None], _postures(world, keys)[:, None])
    sway = uniform64(keys, _SWAY, (2, n_channels))
    fidget = uniform64(keys, _FIDGET, (4,))
    size = torch.full((len(keys), n_channels), 2.5 * world.pose_jitter, dtype=torch.float64, device=keys.device)
    hz = 0.2 + 0.5 * sway[:, 0]
    limb = (5 + 3 * (fidget[:, 0] * 4).long())[:, None] + torch.tensor([0, 2], device=keys.device)
    restless = (8.0 + 20.0 * fidget[:, 1:2]) * world.bystander_motion * (1.0 - 0.5 * is_actor[:, None].double())
    size = size.scatter_add(1, limb, restless.expand(-1, 2))
    hz = hz.scatter(1, limb, (0.3 + 0.9 * fidget[:, 2:3]).expand(-1, 2))
    size[:, :N_LENGTH_CHANNELS] = 0.0
    angle = 2.0 * math.pi * (hz[:, None] * time[:, None] + sway[:, 1, None])
    channels = channels + torch.deg2rad(size)[:, None] * torch.sin(angle)
    yaw = torch.deg2rad(_spread(keys, _BASE_YAW, -1.0, 1.0) * world.view_yaw_degrees)
    channels[..., 2] += yaw[:, None]
    return channels


def _places(world: PeopleWorld, keys: Tensor, n_people: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Feet ``[B, S, 2]`` and body heights ``[B, S]`` in frames: people stand side by side in their order."""
    n_slots = order.shape[1]
    u = uniform64(keys, _POSITION, (n_slots, 2)) - 0.5
    j = world.camera_motion
    spacing = torch.where(n_people == 1, 0.0, torch.where(n_people == 2, 0.42, 0.31))[:, None]
    room = torch.where(n_people == 1, 0.3, torch.where(n_people == 2, 0.16, 0.08))[:, None]
    x = 0.5 + (order - (n_people[:, None] - 1) / 2) * spacing + room * j * u[..., 0]
    size = torch.where(n_people == 1, 0.82, torch.where(n_people == 2, 0.74, 0.64))[:, None]
    size = size * (1.0 + 0.24 * j * (uniform64(keys, _SIZE, (n_slots,)) - 0.5))
    y = 0.52 + 0.5 * size + 0.10 * j * u[..., 1]
    return torch.stack([x, y], dim=-1), size


def _camera(world: PeopleWorld, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Zoom and offset ``[B, T, 3]`` over time and the downward tilt ``[B]``."""
    n_frames = world.n_frames
    u = uniform64(keys, _CAMERA, (10,)) - 0.5
    s = torch.linspace(-0.5, 0.5, n_frames, dtype=torch.float64, device=keys.device)
    wobble = torch.sin(2.0 * math.pi * (s[:, None] * (1.0 + 2.0 * u[:, None, 3:5].abs()) + u[:, None, 5:7]))
    shake = 0.004 * normal64(keys, _SHAKE, (n_frames, 2))
    offset = 0.08 * u[:, None, 1:3] * s[:, None] * 2.0 + 0.02 * u[:, None, 8:10] * wobble + shake
    zoom = torch.exp(world.camera_motion * 0.20 * u[:, 0:1] * s)
    tilt = math.radians(12.0) * (1.0 + world.camera_motion * 1.2 * u[:, 7])
    return torch.cat([zoom[..., None], world.camera_motion * offset], dim=-1), tilt


def view(positions: Tensor, camera: Tensor) -> Tensor:
    """World positions ``[..., T, P, 2]`` through the camera ``[..., T, 3]``: zoom about the middle, then offset."""
    return (positions - 0.5) * camera[..., None, :1] + 0.5 + camera[..., None, 1:]


def _objects(world: PeopleWorld, keys: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """Capsules fixed in the world behind and in front of the people, through the camera."""
    n = N_CLUTTER + N_OCCLUDERS
    u = uniform64(keys, _OBJECTS, (n, 6))
    is_front = torch.arange(n, device=keys.device) >= N_CLUTTER
    is_there = u[..., 5] < torch.where(is_front, world.occlusion, world.clutter)
    length = torch.where(is_front, 0.15 + 0.3 * u[..., 2], 0.05 + 0.3 * u[..., 2])
    radius = torch.where(is_front, 0.03 + 0.035 * u[..., 4], 0.02 + 0.07 * u[..., 4]) * is_there
    angle = math.pi * u[..., 3]
    half = 0.5 * length[..., None] * torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)
    middle = torch.stack([u[..., 0], 0.05 + 0.9 * u[..., 1]], dim=-1)
    ends = torch.cat([middle - half, middle + half], dim=1)[:, None]
    seen = view(ends, camera)
    zoomed = radius[:, None] * camera[..., :1]
    objects = torch.cat([seen[:, :, :n], seen[:, :, n:], zoomed[..., None]], dim=-1)
    return objects, 0.3 + 0.35 * uniform64(keys, _OBJECT_RGB, (n, 3))  # duller than clothes


def _window(world: PeopleWorld, draws: Tensor, is_cyclic: Tensor) -> Tensor:
    """Seconds from which to which the action runs: most of the clip, longer where it is a repeated motion."""
    shortest = torch.where(is_cyclic, 0.7, 0.4)
    share = 1.0 - (1.0 - shortest) * (0.25 + 0.75 * draws[:, 0]) * world.time_jitter
    start = (1.0 - share) * torch.where(torch.tensor(world.time_jitter > 0, device=draws.device), draws[:, 1], 0.5)
    return torch.stack([start, start + share], dim=1) * world.clip_seconds


def draw_scene(world: PeopleWorld, indices: Tensor, seed: int, split: Split) -> Scene:
    """The scenes of ``indices``: labels go round the actions, everything else is drawn from the key."""
    keys = clip_keys(seed, 0 if split == "train" else 1, indices)
    labels = indices % len(TABLE)
    n_clips, n_slots = len(indices), world.n_people
    cast = _cast(world, labels, keys, split)
    slot = torch.arange(n_slots, device=keys.device)
    person_keys = bits(keys, _FIDGET + 100, (n_slots,)).flatten()
    is_actor = (slot == cast["actor"][:, None]).flatten()
    draws = uniform64(keys, _TIME, (6,))
    is_cyclic = torch.tensor([action.rate_hz > 0 for action in TABLE], device=keys.device)[labels]
    window = _window(world, draws[:, 3:5], is_cyclic)

    def per_person(values: Tensor) -> Tensor:
        return values.repeat_interleave(n_slots, dim=0)

    channels = _motion(world, per_person(labels), is_actor, person_keys, per_person(window), per_person(draws[:, :3]))
    lengths, radii, colours = _bodies(world, cast["subjects"].flatten())
    camera, tilt = _camera(world, keys)
    flat, nearness = project(body_points(channels, lengths), per_person(tilt))
    feet, size = _places(world, keys, cast["n_people"], cast["order"])
    shape = (n_clips, n_slots, world.n_frames, -1)
    standing = feet[:, :, None, None] + size[:, :, None, None, None] * flat.view(*shape, 2)
    objects, object_colours = _objects(world, keys, camera)
    return Scene(
        **cast,
        labels=labels,
        window=window,
        points=view(standing, camera[:, None]),
        nearness=nearness.view(shape),
        size=size[..., None] * camera[:, None, :, 0],
        radii=radii.view(n_clips, n_slots),
        colours=colours.view(n_clips, n_slots, 5, 3),
        distance=-feet[..., 1],
        objects=objects,
        object_colours=object_colours,
        camera=camera,
        texture_keys=bits(keys, _TEXTURE),
    )
