"""The synthetic people as clips: frames, joints, boxes, tracks and language, any number, by seed.

How hard the default world is, measured on 2026-11-23 on one core of a shared 2-core Xeon; 28
actions, chance 3.6 %, always tested on clips of the split "test" (subjects never seen in training):

* Frozen random weights: transformer of 4 blocks, width 128, on tubelets of 2 x 16 x 16 or on the
  joints of every second frame; mean and deviation of its tokens into logistic regression (best of
  three penalties on the 1400 test clips, so slightly flattering). Two initialisations each.
  Video 6.4 % and 6.9 % (5600 training clips), skeleton 12.6 % and 14.9 % (2800 clips). With a token
  per person and frame instead of per joint: 16.7 % (2800 clips, 840 test clips).
* Supervised, neither converged: video 63.9 % (3-D convolutions of 5 layers, 5600 clips, 3.5 epochs,
  7 minutes, 840 test clips); skeleton 64.8 % (temporal convolutions on joints centred and scaled per
  person, 4368 clips, 3 epochs, 5 minutes, 1120 test clips). These are lower limits of what can be
  reached. A transformer on raw coordinates learns far more slowly: 23.9 % after 18144 clips.
* Speed, everything included: about 185 clips of 16 x 64 x 64 per second of CPU time on one thread,
  18 at 224 x 224 (``python benchmarks/people_speed.py``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.data.people.actions import ACTIONS
from oskar.data.people.body import N_COCO
from oskar.data.people.language import Facts, Question, caption, questions
from oskar.data.people.render import render
from oskar.data.people.scene import SHIRTS, Scene, draw_scene
from oskar.data.people.settings import N_CLUTTER, PeopleWorld, Split
from oskar.errors import InputError
from oskar.randomness import clip_keys, integers, normal64, uniform64

IDLE = len(ACTIONS)  # the track label of people who do not act
_CHUNK_CLIPS = 16  # drawn together on a CPU: more would fall out of its cache
_NOISE, _MISSING, _LOST_LIMB, _CONFIDENCE, _WORDS, _HIDDEN = range(40, 46)
_BOX_MARGIN = 0.06  # body heights


@dataclass(frozen=True, kw_only=True, slots=True)
class PeopleClips:
    """A batch of clips with everything that is known about them.

    ``frames`` uint8 ``[B, T, 3, H, W]``. ``joints`` float32 ``[B, S, T, 17, 3]``: x, y in [0, 1) of
    the frame and a confidence of at least 0.3; all three are 0 where the joint or person is
    unavailable. ``boxes`` float32 ``[B, S, T, 4]``: x1, y1, x2, y2 in [0, 1], 0 where absent.
    ``labels`` int64 ``[B]`` index ``ACTIONS``. ``tracks`` int64 ``[B, S, seconds]``: what each person
    does in each second, ``IDLE`` for nothing, -1 for nobody. ``actor`` int64 ``[B]`` is the slot of
    who acts, ``n_people`` int64 ``[B]``, ``subjects`` int64 ``[B, S]`` (-1 for nobody) say whose body
    and clothes a person has, ``places`` int64 ``[B, S]`` counts from the left (-1 for nobody).
    """

    frames: Tensor
    joints: Tensor
    boxes: Tensor
    labels: Tensor
    tracks: Tensor
    actor: Tensor
    n_people: Tensor
    subjects: Tensor
    places: Tensor
    captions: list[str]
    questions: list[tuple[Question, ...]]

    def __len__(self) -> int:
        return len(self.labels)


def clip_name(seed: int, index: int, split: Split = "train") -> str:
    """The id of a clip, different for every seed, index and split."""
    return f"people/{seed}/{split}/{index:06d}" if split != "train" else f"people/{seed}/{index:06d}"


def _is_hidden(scene: Scene, xy: Tensor) -> Tensor:
    """Whether positions ``[B, S, T, J, 2]`` lie behind an object in front: bool ``[B, S, T, J]``."""
    front = scene.objects[:, None, :, None, N_CLUTTER:]
    start, end, radius = front[..., :2], front[..., 2:4], front[..., 4]
    along = end - start
    share = ((xy[..., None, :] - start) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-9)
    nearest = start + share.clamp(0.0, 1.0)[..., None] * along
    return ((xy[..., None, :] - nearest).square().sum(-1) < radius.square()).any(dim=-1)


def _detect(world: PeopleWorld, scene: Scene, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Joints ``[B, S, T, 17, 3]`` as a detector would give them, and boxes ``[B, S, T, 4]`` around the people."""
    true = scene.points[..., :N_COCO, :]
    shape = tuple(true.shape[1:4])
    n_slots, n_frames = shape[:2]
    xy = true + world.joint_noise * normal64(keys, _NOISE, (*shape, 2))
    in_frame = ((xy >= 0.0) & (xy < 1.0 - 2.0**-20)).all(dim=-1)
    is_lost = uniform64(keys, _MISSING, shape) < 0.6 * world.missing_share
    lost = uniform64(keys, _LOST_LIMB, (n_slots, N_COCO, 3))
    start, length = lost[..., 1] * n_frames, (0.1 + 0.4 * lost[..., 2]) * n_frames
    time = torch.arange(n_frames, device=keys.device)[:, None]
    is_gap = (time >= start[:, :, None]) & (time < (start + length)[:, :, None])
    is_lost |= is_gap & (lost[..., 0] < 1.2 * world.missing_share)[:, :, None]
    is_lost |= _is_hidden(scene, true) & (uniform64(keys, _HIDDEN, shape) < 0.8)
    is_valid = in_frame & ~is_lost & scene.is_present[:, :, None, None]
    spread = 0.35 if world.joint_noise > 0 else 0.0
    confidence = 1.0 - spread * uniform64(keys, _CONFIDENCE, shape)
    joints = torch.cat([xy, confidence[..., None]], dim=-1) * is_valid[..., None]
    margin = (_BOX_MARGIN * scene.size)[..., None]
    both = torch.cat([scene.points, torch.where(is_valid[..., None], xy, true)], dim=-2)
    box = torch.cat([both.amin(dim=-2) - margin, both.amax(dim=-2) + margin], dim=-1).clamp(0.0, 1.0)
    is_seen = ((box[..., 2:] - box[..., :2]).amin(dim=-1) > 0) & scene.is_present[:, :, None]
    return joints.to(torch.float32), (box * is_seen[..., None]).to(torch.float32)


def _tracks(world: PeopleWorld, scene: Scene) -> Tensor:
    """Int64 ``[B, S, seconds]``: the actor's label in every second of which the action fills some part."""
    n_seconds = -(-world.n_frames // max(1, round(world.frames_per_second)))
    second = torch.arange(n_seconds, device=scene.labels.device)
    acts = (scene.window[:, :1] < second + 1) & (scene.window[:, 1:] > second)
    n_slots = scene.order.shape[1]
    is_actor = torch.arange(n_slots, device=second.device) == scene.actor[:, None]
    tracks = torch.where(acts[:, None] & is_actor[:, :, None], scene.labels[:, None, None], IDLE)
    return tracks.masked_fill(~scene.is_present[:, :, None], -1)


def _language(scene: Scene, keys: Tensor) -> tuple[list[str], list[tuple[Question, ...]]]:
    words = integers(keys, _WORDS, 1 << 20, (4,)).tolist()
    captions, asked = [], []
    rows = (scene.labels, scene.actor, scene.n_people, scene.order, scene.shirts)
    for draws, label, actor, n, order, shirts in zip(words, *(row.tolist() for row in rows), strict=True):
        facts = Facts(label=label, actor=actor, orders=order[:n], shirts=[SHIRTS[i] for i in shirts[:n]])
        captions.append(caption(facts, draws))
        asked.append(questions(facts))
    return captions, asked


def _keys(indices: Tensor, seed: int, split: Split) -> Tensor:
    return clip_keys(seed, 2 if split == "train" else 3, indices)


def _generate_chunk(world: PeopleWorld, indices: Tensor, seed: int, split: Split) -> PeopleClips:
    scene = draw_scene(world, indices, seed, split)
    keys = _keys(indices, seed, split)
    joints, boxes = _detect(world, scene, keys)
    captions, asked = _language(scene, keys)
    is_absent = ~scene.is_present
    return PeopleClips(
        frames=render(world, scene),
        joints=joints,
        boxes=boxes,
        labels=scene.labels,
        tracks=_tracks(world, scene),
        actor=scene.actor,
        n_people=scene.n_people,
        subjects=scene.subjects.masked_fill(is_absent, -1),
        places=scene.order.masked_fill(is_absent, -1),
        captions=captions,
        questions=asked,
    )


def generate(world: PeopleWorld, indices: Tensor, seed: int, split: Split = "train") -> PeopleClips:
    """The clips ``indices`` (int64 ``[B]``) of ``world``, on their device.

    A pure function of (world, seed, split, index): a clip is the same in whatever batch. Labels go
    round the actions with the index. The splits share neither a clip nor a subject.

    Raises:
        InputError: if there is no index, or one is negative or not an integer.
    """
    if indices.dtype != torch.int64 or indices.dim() != 1 or len(indices) == 0 or bool((indices < 0).any()):
        raise InputError(
            f"people: indices of type {indices.dtype} and shape {tuple(indices.shape)} do not name clips",
            fix="give a non-empty int64 vector of numbers from 0",
        )
    size = _CHUNK_CLIPS if indices.device.type == "cpu" else len(indices)
    parts = [_generate_chunk(world, chunk, seed, split) for chunk in torch.split(indices, size)]
    if len(parts) == 1:
        return parts[0]
    return PeopleClips(
        frames=torch.cat([part.frames for part in parts]),
        joints=torch.cat([part.joints for part in parts]),
        boxes=torch.cat([part.boxes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        tracks=torch.cat([part.tracks for part in parts]),
        actor=torch.cat([part.actor for part in parts]),
        n_people=torch.cat([part.n_people for part in parts]),
        subjects=torch.cat([part.subjects for part in parts]),
        places=torch.cat([part.places for part in parts]),
        captions=[text for part in parts for text in part.captions],
        questions=[asked for part in parts for asked in part.questions],
    )


def describe(world: PeopleWorld, indices: Tensor, seed: int, split: Split = "train") -> list[str]:
    """The captions of ``generate`` for the same arguments, at a small part of its cost: nothing is drawn."""
    captions: list[str] = []
    for chunk in torch.split(indices, _CHUNK_CLIPS):
        scene = draw_scene(world, chunk, seed, split)
        captions += _language(scene, _keys(chunk, seed, split))[0]
    return captions
