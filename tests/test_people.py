"""The synthetic people: reproducible, balanced, truthful and consistent with what is drawn."""

import dataclasses
import math
import re

import pytest
import torch
from torch import Tensor

from oskar.data.people import ACTIONS, IDLE, PAIRS, PeopleClips, PeopleWorld, clip_name, generate
from oskar.data.people.actions import CHANNELS, TABLE, action_pose
from oskar.data.people.body import LENGTHS, N_COCO, POINT, body_points, project
from oskar.data.people.language import PHRASES
from oskar.data.people.render import pack_colours, paint_capsules, unpack_channel
from oskar.data.people.scene import SHIRTS, draw_scene
from oskar.data.people.settings import N_SUBJECTS
from oskar.errors import InputError

PLAIN = PeopleWorld(
    view_yaw_degrees=0,
    camera_motion=0,
    clutter=0,
    occlusion=0,
    bystander_motion=0,
    pose_jitter=0,
    time_jitter=0,
    body_jitter=0,
    joint_noise=0,
    missing_share=0,
    pixel_noise=0,
    texture=0,
)
# COCO-17 left/right partners.
MIRROR = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


@pytest.fixture(scope="module")
def clips() -> PeopleClips:
    return generate(PeopleWorld(), torch.arange(4 * len(ACTIONS)), seed=3)


@pytest.fixture(scope="module")
def plain_clips() -> PeopleClips:
    return generate(PLAIN, torch.arange(2 * len(ACTIONS)), seed=1)


def _trajectory(action: str, n_frames: int = 33) -> Tensor:
    """Body points ``[T, 17, 3]`` of an action over its whole progress, standard body, nothing random."""
    progress = torch.linspace(0, 1, n_frames, dtype=torch.float64)[None]
    one = torch.ones(1, dtype=torch.float64)
    label = torch.tensor([ACTIONS.index(action)])
    seconds = 2.0 * one  # with the rates of the table: 1.5, 1.6 and 4 cycles
    channels, _ = action_pose(label, progress, seconds, 0.0 * one, one, one)
    lengths = {name: torch.tensor([length], dtype=torch.float64) for name, length in LENGTHS.items()}
    return body_points(channels, lengths)[0, :, :N_COCO]


def test_shapes_and_ranges(clips: PeopleClips) -> None:
    n = len(clips)
    assert n == 4 * len(ACTIONS)
    assert clips.frames.shape == (n, 16, 3, 64, 64)
    assert clips.frames.dtype == torch.uint8
    assert clips.joints.shape == (n, 3, 16, 17, 3)
    assert clips.joints.dtype == torch.float32
    assert clips.boxes.shape == (n, 3, 16, 4)
    assert clips.tracks.shape == (n, 3, 2)
    assert len(clips.captions) == len(clips.questions) == n
    assert float(clips.joints.min()) >= 0
    assert float(clips.joints[..., :2].max()) < 1
    assert float(clips.boxes.min()) >= 0
    assert float(clips.boxes.max()) <= 1


def test_a_clip_is_the_same_in_any_batch(clips: PeopleClips) -> None:
    picked = torch.tensor([50, 3, 111])
    for order in (picked, picked[:1]):
        again = generate(PeopleWorld(), order, seed=3)
        for f in dataclasses.fields(PeopleClips):
            whole, part = getattr(clips, f.name), getattr(again, f.name)
            if isinstance(whole, Tensor):
                assert torch.equal(whole[order], part), f.name
            else:
                assert [whole[i] for i in order.tolist()] == part, f.name


def test_seed_index_and_split_change_the_clip() -> None:
    world, index = PeopleWorld(), torch.tensor([7])
    base = generate(world, index, seed=0).joints
    assert not torch.equal(base, generate(world, index, seed=1).joints)
    assert not torch.equal(base, generate(world, index, seed=0, split="test").joints)
    assert not torch.equal(base, generate(world, index + len(ACTIONS), seed=0).joints)
    names = {clip_name(s, i, split) for s in (0, 1) for i in (0, 1) for split in ("train", "test")}
    assert len(names) == 8
    assert clip_name(0, 123) == "people/0/000123"


def test_splits_share_no_subject() -> None:
    world, indices = PeopleWorld(n_frames=2), torch.arange(3000)
    train = draw_scene(world, indices, 0, "train")
    test = draw_scene(world, indices, 0, "test")
    seen = set(train.subjects[train.is_present].tolist())
    unseen = set(test.subjects[test.is_present].tolist())
    assert not seen & unseen
    assert seen == set(range(N_SUBJECTS["train"]))
    assert len(unseen) == N_SUBJECTS["test"]


def test_a_subject_looks_the_same_in_every_clip() -> None:
    scene = draw_scene(PeopleWorld(n_frames=2), torch.arange(1500), 0, "train")
    order = scene.subjects.flatten().argsort()
    subjects, colours = scene.subjects.flatten()[order], scene.colours.flatten(0, 1)[order]
    is_same = subjects[1:] == subjects[:-1]
    assert torch.equal(colours[1:][is_same], colours[:-1][is_same])
    assert int(is_same.sum()) > 500


def test_labels_are_balanced_and_nothing_tells_them(clips: PeopleClips) -> None:
    assert len(ACTIONS) == len(set(ACTIONS)) >= 24
    assert torch.bincount(clips.labels, minlength=len(ACTIONS)).tolist() == [4] * len(ACTIONS)
    scene = draw_scene(PeopleWorld(n_frames=2), torch.arange(28 * 300), 0, "train")
    free = torch.tensor([action.actor == "any" for action in TABLE])
    counts = torch.stack([(scene.n_people.view(300, 28) == n).float().mean(0)[free] for n in (1, 2, 3)])
    # 300 draws of a third: standard deviation 0.027, five of them for 72 figures
    assert float((counts - 1 / 3).abs().max()) < 0.136


@pytest.mark.parametrize(("first", "second"), [(a, b) for kind, a, b in PAIRS if kind == "order"])
def test_order_pairs_are_each_other_backwards(first: str, second: str) -> None:
    forwards, backwards = _trajectory(first), _trajectory(second)
    assert torch.allclose(forwards, backwards.flip(0), atol=1e-9)
    assert float((forwards - backwards).abs().amax()) > 0.1


@pytest.mark.parametrize(("first", "second"), [(a, b) for kind, a, b in PAIRS if kind == "side"])
def test_side_pairs_are_mirror_images(first: str, second: str) -> None:
    left, right = _trajectory(first), _trajectory(second)
    mirrored = right[:, MIRROR] * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.allclose(left, mirrored, atol=1e-9)
    assert not torch.allclose(left, right, atol=0.1)


@pytest.mark.parametrize(("first", "second"), [(a, b) for kind, a, b in PAIRS if kind == "speed"])
def test_speed_pairs_go_through_the_same_poses_faster(first: str, second: str) -> None:
    slow, fast = _trajectory(first, 401), _trajectory(second, 1601)
    rates = [action.rate_hz for name in (first, second) for action in TABLE if action.name == name]
    ratio = rates[1] / rates[0]
    moments = torch.arange(1601)  # the slow one at progress p is the fast one at p / ratio
    at = (moments * 4 / ratio / 4).round().long()
    is_exact = (moments * 1.0 / ratio - at).abs() < 1e-9
    assert ratio > 2
    n_checked = 0
    for i in moments[is_exact].tolist():
        if i % 4 == 0 and i // 4 < 401:
            assert torch.allclose(slow[i // 4], fast[at[i]], atol=1e-9)
            n_checked += 1
    assert n_checked > 50


@pytest.mark.parametrize(("first", "second"), [(a, b) for kind, a, b in PAIRS if kind == "who"])
def test_who_pairs_move_alike_and_differ_in_the_actor(first: str, second: str) -> None:
    assert torch.equal(_trajectory(first), _trajectory(second))
    index = torch.arange(28 * 20)
    scene = draw_scene(PeopleWorld(), index, 5, "train")
    x = scene.points[..., POINT["pelvis"], 0].mean(dim=2)
    for name, extreme in ((first, "amin"), (second, "amax")):
        rows = scene.labels == ACTIONS.index(name)
        assert int(scene.n_people[rows].min()) >= 2
        fill = math.inf if extreme == "amin" else -math.inf
        edge = getattr(x[rows].masked_fill(~scene.is_present[rows], fill), extreme)(dim=1)
        acting = x[rows].gather(1, scene.actor[rows, None])[:, 0]
        assert torch.equal(edge, acting)


def test_only_the_actor_moves_when_nothing_else_does(plain_clips: PeopleClips) -> None:
    moved = (plain_clips.joints[..., :2].amax(2) - plain_clips.joints[..., :2].amin(2)).amax((2, 3))
    actor = torch.nn.functional.one_hot(plain_clips.actor, 3).bool()
    assert float(moved[actor].min()) > 0.03
    assert float(moved[~actor].max()) < 1e-6


def test_unreachable_angles_by_hand() -> None:
    """Arms level and sideways, no bend: the wrist is an arm's length to the side of the shoulder."""
    channels = torch.zeros(1, 1, len(CHANNELS), dtype=torch.float64)
    channels[..., CHANNELS.index("left_arm")] = math.pi / 2
    lengths = {name: torch.tensor([length], dtype=torch.float64) for name, length in LENGTHS.items()}
    points = body_points(channels, lengths)[0, 0]
    reach = LENGTHS["upper_arm"] + LENGTHS["forearm"]
    shoulder = points[POINT["left_shoulder"]]
    assert torch.allclose(points[POINT["left_wrist"]] - shoulder, torch.tensor([reach, 0, 0], dtype=torch.float64))
    assert float(points[POINT["right_ankle"], 1]) == pytest.approx(0)
    assert float(shoulder[1]) == pytest.approx(LENGTHS["thigh"] + LENGTHS["shank"] + LENGTHS["torso"] - 0.02)
    channels[..., CHANNELS.index("yaw")] = math.pi / 2  # turned to the right of the image: the left arm points away
    turned = body_points(channels, lengths)[0]
    flat, nearness = project(turned[None], torch.zeros(1, dtype=torch.float64))
    assert float(nearness[0, 0, POINT["left_wrist"]]) < -reach
    assert float(flat[0, 0, POINT["nose"], 0]) > 0.05


def test_joints_lie_on_the_person_drawn(plain_clips: PeopleClips) -> None:
    """Without nuisances every pixel at a joint differs from the flat background."""
    frames, joints = plain_clips.frames, plain_clips.joints
    background = frames[:, 0, :, 0, 0]
    assert bool((frames[:, :, :, 0, 63] == background[:, None]).all())
    n_on = n_all = 0
    for clip, slot, time, joint in (joints[..., 2] > 0).nonzero()[::13].tolist():
        x, y = (joints[clip, slot, time, joint, :2] * 64).long().tolist()
        pixel = frames[clip, time, :, y, x].int()
        n_on += int((pixel - background[clip].int()).abs().max() > 8)
        n_all += 1
    assert n_all > 2000
    assert n_on / n_all > 0.99  # a shirt's colour may come close to the background's


def test_boxes_hold_their_joints(clips: PeopleClips) -> None:
    xy, is_valid = clips.joints[..., :2], clips.joints[..., 2] > 0
    inside = (xy >= clips.boxes[..., None, :2]) & (xy <= clips.boxes[..., None, 2:])
    assert bool(inside.all(-1)[is_valid].all())
    is_absent = clips.places < 0
    assert not bool(clips.boxes[is_absent].any())
    assert bool((clips.tracks[is_absent] == -1).all())
    assert not bool(clips.joints[is_absent].any())


def test_missing_joints_are_all_zero_and_as_many_as_asked() -> None:
    world = dataclasses.replace(PLAIN, missing_share=0.2, joint_noise=0.01)
    joints = generate(world, torch.arange(112), seed=0).joints
    is_missing = joints[..., 2] == 0
    assert not bool(joints[is_missing].any())
    assert float(joints[..., 2][~is_missing].min()) >= 0.3
    scene = draw_scene(world, torch.arange(112), 0, "train")
    share = float(is_missing[scene.is_present].float().mean())
    assert share == pytest.approx(0.2, abs=0.04)


def test_joint_noise_has_the_deviation_asked_for() -> None:
    world = dataclasses.replace(PLAIN, joint_noise=0.01)
    clean, noisy = (generate(w, torch.arange(56), seed=0).joints for w in (PLAIN, world))
    both = (clean[..., 2] > 0) & (noisy[..., 2] > 0)
    assert float((noisy - clean)[..., :2][both].std()) == pytest.approx(0.01, rel=0.03)


def test_tracks_name_the_actor(clips: PeopleClips) -> None:
    for i in range(len(clips)):
        actor = int(clips.actor[i])
        labels = set(clips.tracks[i, actor].tolist())
        assert int(clips.labels[i]) in labels
        assert labels <= {int(clips.labels[i]), IDLE}
        others = [s for s in range(int(clips.n_people[i])) if s != actor]
        assert all(set(clips.tracks[i, s].tolist()) == {IDLE} for s in others)


def test_captions_name_the_action(clips: PeopleClips) -> None:
    for text, label in zip(clips.captions, clips.labels.tolist(), strict=True):
        patterns = [re.escape(phrase).replace(r"\{p\}", "(their|their own)") for phrase in PHRASES[label]]
        assert any(re.search(pattern, text) for pattern in patterns), text
        assert "{" not in text
    assert len(set(clips.captions)) > 0.9 * len(clips)
    assert len({phrase for phrases in PHRASES[:24] for phrase in phrases}) == 24 * 3


def test_answers_are_true_of_the_clip(clips: PeopleClips) -> None:
    kinds = set()
    for i in range(len(clips)):
        n, actor, label = int(clips.n_people[i]), int(clips.actor[i]), int(clips.labels[i])
        shirts = {
            ("left", "middle", "right")[int(p) if n == 3 else 2 * int(p)]: SHIRTS[int(s) % len(SHIRTS)]
            for p, s in zip(clips.places[i, :n], clips.subjects[i, :n], strict=True)
        }
        place = ("left", "middle", "right")[int(clips.places[i, actor]) if n == 3 else 2 * int(clips.places[i, actor])]
        for q in clips.questions[i]:
            kinds.add(q.kind)
            if q.kind == "count":
                assert q.answer == ("one", "two", "three")[n - 1]
            elif q.kind == "side":
                assert f"_{q.answer}_" in ACTIONS[label]
            elif q.kind == "who":
                assert q.answer == f"the {place} person"
            elif q.kind == "action":
                assert q.answer == PHRASES[label][0].replace("{p}", "their")
            elif "acts" in q.question:
                assert q.answer == SHIRTS[int(clips.subjects[i, actor]) % len(SHIRTS)]
            else:
                where = next((w for w in ("left", "middle", "right") if w in q.question), None)
                assert q.answer == (shirts[where] if where else next(iter(shirts.values())))
    assert kinds == {"action", "count", "colour", "side", "who"}


def test_shirts_are_drawn_in_their_colour() -> None:
    """The pixel at the middle of the torso of a lone, unoccluded, resting person has the shirt's dominant channel."""
    scene = draw_scene(PLAIN, torch.arange(400), 2, "train")
    lone = ((scene.n_people == 1) & (scene.labels == ACTIONS.index("kick_left_leg"))).nonzero().squeeze(1)
    clips = generate(PLAIN, lone, seed=2)
    for i in range(len(clips)):
        points = clips.joints[i, 0, 0]
        x, y = (points[[5, 6, 11, 12], :2].mean(0) * 64).long().tolist()
        pixel = clips.frames[i, 0, :, y, x].double() / 255
        colour = draw_scene(PLAIN, lone[i : i + 1], 2, "train").colours[0, 0, 0]
        assert torch.allclose(pixel, colour, atol=0.01)
    assert len(clips) >= 2


def test_capsules_against_the_distance_to_a_segment() -> None:
    """Coverage of each pixel from a plain per-pixel distance computed with scalar mathematics."""
    ends, radius = (5.3, 20.1, 24.8, 9.4), 3.2
    canvas = torch.zeros(2, 32, 32, dtype=torch.int64)
    colour = pack_colours(torch.tensor([[1.0, 0.4, 0.0]]))
    paint_capsules(canvas, torch.tensor([1]), torch.tensor([ends]), torch.tensor([radius]), colour)
    assert not bool(canvas[0].any())
    ax, ay, bx, by = ends
    for y in range(32):
        for x in range(32):
            px, py = x + 0.5, y + 0.5
            t = ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
            t = min(1.0, max(0.0, t))
            distance = math.hypot(px - ax - t * (bx - ax), py - ay - t * (by - ay))
            expected = min(1.0, max(0.0, radius + 0.5 - distance))
            drawn = [int(unpack_channel(canvas[1, y, x], c)) for c in range(3)]
            assert drawn == pytest.approx([255 * expected, 102 * expected, 0], abs=1.01)


def test_drawing_scales_with_the_resolution() -> None:
    small = generate(PLAIN, torch.arange(4), seed=0)
    large = generate(dataclasses.replace(PLAIN, resolution=192), torch.arange(4), seed=0)
    assert torch.equal(small.joints, large.joints)
    pooled = torch.nn.functional.avg_pool2d(large.frames.flatten(0, 1).float(), 3)
    difference = (pooled - small.frames.flatten(0, 1).float()).abs()
    assert float(difference.mean()) < 2
    assert float((difference > 40).float().mean()) < 0.01


def test_frames_and_length_are_free() -> None:
    clips = generate(PeopleWorld(n_frames=20, resolution=48, n_people=2), torch.arange(28), seed=0)
    assert clips.frames.shape == (28, 20, 3, 48, 48)
    assert clips.tracks.shape == (28, 2, 3)
    assert int(clips.n_people.max()) == 2


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"n_people": 1}, "n_people"), ({"resolution": 0}, "resolution"), ({"missing_share": 2.0}, "missing_share")],
)
def test_bad_settings_are_named(settings: dict[str, float], key: str) -> None:
    with pytest.raises(InputError, match=key):
        PeopleWorld(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("indices", [torch.tensor([-1]), torch.tensor([1.0]), torch.zeros(0, dtype=torch.int64)])
def test_bad_indices_are_named(indices: Tensor) -> None:
    with pytest.raises(InputError, match="indices"):
        generate(PeopleWorld(), indices, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_draws_the_same_clips() -> None:
    indices = torch.arange(56)
    here, there = generate(PeopleWorld(), indices, seed=0), generate(PeopleWorld(), indices.cuda(), seed=0)
    assert there.frames.is_cuda
    assert torch.allclose(here.joints, there.joints.cpu(), atol=1e-5)
    assert float((here.frames.int() - there.frames.cpu().int()).abs().float().mean()) < 0.1
    assert here.captions == there.captions
