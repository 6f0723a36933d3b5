"""Choosing and centring two actors: each rule by hand, and all of them against a slow literal reference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles.ntu_actors import Frame, two_actors

from oskar.data.formats.ntu_bodies import ActorTracks, centred_positions, track_actors
from oskar.data.formats.ntu_skeleton import KinectRecording, read_skeleton_file
from oskar.errors import InputError

SHARED = Path(__file__).parents[2] / "shared"
GENUINE = SHARED / "data" / "ntu_samples"


def recording_of(frames: list[Frame]) -> KinectRecording:
    sightings = [(number, body_id, pose) for number, frame in enumerate(frames) for body_id, pose in frame]
    n = len(sightings)
    return KinectRecording(
        source=Path("made.skeleton"),
        n_frames=len(frames),
        frame_idx=np.array([s[0] for s in sightings], dtype=np.int64),
        body_ids=np.array([s[1] for s in sightings], dtype=np.int64),
        positions=np.array([s[2] for s in sightings], dtype=np.float32).reshape(n, 25, 3),
        depth_xy=np.zeros((n, 25, 2), dtype=np.float32),
        colour_xy=np.zeros((n, 25, 2), dtype=np.float32),
        tracking=np.full((n, 25), 2, dtype=np.int8),
    )


def pose(x: float, *, width: float = 0.4, height: float = 1.6) -> list[list[float]]:
    """A body at ``x``; every coordinate is exact in float32 where the arguments are multiples of 1/16."""
    return [[x + width * (j % 5 - 2) / 4, height * (j // 5 - 2) / 4, 3.0 + j / 32] for j in range(25)]


def frames_of(n_frames: int, *bodies: tuple[int, list[int], float, float]) -> list[Frame]:
    """Bodies as id, the frames they are in, how far they walk in a frame, and their width."""
    frames: list[Frame] = [[] for _ in range(n_frames)]
    for body_id, numbers, step, width in bodies:
        for number in numbers:
            frames[number].append((body_id, pose(step * number, width=width)))
    return frames


def ids(recording: KinectRecording, tracks: ActorTracks) -> list[list[int]]:
    """Body ids ``[2][T]``, 0 where an actor is absent."""
    shown: list[list[int]] = np.where(tracks.is_present, recording.body_ids[tracks.sightings], 0).tolist()
    return shown


def chosen(frames: list[Frame], *, ctrgcn_compat: bool = False) -> tuple[list[list[int]], list[int]]:
    recording = recording_of(frames)
    tracks = track_actors(recording, ctrgcn_compat=ctrgcn_compat)
    return ids(recording, tracks), tracks.frame_idx.tolist()


def test_one_body_is_actor_1_however_short_or_wide() -> None:
    assert chosen(frames_of(5, (9, [1, 2, 4], 0.1, 4.0))) == ([[9] * 3, [0] * 3], [1, 2, 4])


def test_short_bodies_are_dropped_where_there_are_several() -> None:
    eleven, twelve = (9, list(range(11)), 1.0, 0.4), (8, list(range(12)), 0.0, 0.4)
    assert chosen(frames_of(20, eleven, twelve)) == ([[8] * 12, [0] * 12], list(range(12)))
    other = (7, list(range(12)), 1.0, 0.4)
    assert chosen(frames_of(20, twelve, other))[0] == [[7] * 12, [8] * 12]  # by motion, not by order


def test_the_fixture_has_two_actors_though_both_are_short() -> None:
    path = SHARED / "spec" / "fixtures" / "ntu" / "S017C003P001R002A055.skeleton"
    if not path.is_file():
        pytest.skip(f"fixture not there: {path}")
    recording = read_skeleton_file(path)
    assert ids(recording, track_actors(recording)) == [[90000000000000001] * 2, [0, 90000000000000002]]


def test_noisy_bodies_are_dropped_and_noise_does_not_count_as_motion() -> None:
    """Of 43 frames 30 are a share of 0.69767, just enough; 29 are 0.67442. At 0.8 of the height none is noisy."""
    calm = (1, list(range(43)), 0.0, 0.4)

    def with_noise(n_noisy: int, width: float = 1.5) -> list[Frame]:
        frames = frames_of(43, calm, (2, list(range(43)), 0.0625, 0.4))
        for number in range(n_noisy):
            frames[number][1] = (2, pose(0.0625 * number, width=width))
        return frames

    assert chosen(with_noise(30))[0] == [[1] * 43, [0] * 43]
    assert chosen(with_noise(29))[0] == [[2] * 43, [1] * 43]
    assert chosen(with_noise(43, width=1.28))[0] == [[2] * 43, [1] * 43]  # exactly 0.8 of 1.6 is not above it
    # a body that stands still in its clean frames has the motion of these, below that of one that moves a little
    jumps = frames_of(40, (1, list(range(40)), 0.015625, 0.4), (2, list(range(40)), 0.0, 0.4))
    for number in range(20):
        jumps[number][1] = (2, pose(8.0, width=4.0))
    assert chosen(jumps)[0] == [[1] * 40, [2] * 40]


def test_the_last_body_is_never_dropped_as_noisy() -> None:
    both = frames_of(20, (1, list(range(20)), 0.0, 4.0), (2, list(range(20)), 1.0, 4.0))
    assert chosen(both)[0] == [[2] * 20, [0] * 20]  # the first goes, then only one is left


def test_broken_tracks_are_joined_and_a_third_person_is_dropped() -> None:
    first, rest = list(range(20)), list(range(22, 40))
    frames = frames_of(
        40,
        (1, first, 0.5, 0.4),
        (2, list(range(40)), 0.125, 0.4),
        (3, rest, 0.25, 0.4),  # actor 1 again
        (4, list(range(5, 30)), 0.03125, 0.4),  # overlaps both
    )
    assert chosen(frames) == ([[1] * 20 + [0] * 2 + [3] * 18, [2] * 40], list(range(40)))
    assert chosen([*frames[:20], [], [], *frames[22:]]) == (
        [[1] * 20 + [3] * 18, [2] * 38],
        [*range(20), *rest],
    )


def test_frames_of_dropped_bodies_are_dropped() -> None:
    frames = frames_of(30, (1, list(range(5, 20)), 1.0, 0.4), (2, list(range(10)), 0.0, 0.4))
    assert chosen(frames) == ([[1] * 15, [0] * 15], list(range(5, 20)))


def test_true_frames_and_the_habits_of_ctrgcn() -> None:
    gone = [*range(6), *range(10, 18)]  # vanishes for four frames
    frames = frames_of(18, (1, list(range(18)), 0.0, 0.4), (2, gone, 0.5, 0.4))
    assert chosen(frames)[0] == [[2] * 6 + [0] * 4 + [2] * 8, [1] * 18]
    assert chosen(frames, ctrgcn_compat=True)[0] == [[2] * 14 + [0] * 4, [1] * 18]
    # two bodies that share frame 14
    touching = frames_of(30, (1, list(range(15)), 0.5, 0.4), (2, list(range(14, 30)), 0.0, 0.4))
    assert chosen(touching)[0] == [[1] * 15 + [0] * 15, [0] * 14 + [2] * 16]
    assert chosen(touching, ctrgcn_compat=True)[0] == [[1] * 14 + [2] * 16, [0] * 30]
    # actor 2 is broken, and its later part comes first by motion
    parts = frames_of(
        40, (1, list(range(40)), 1.0, 0.4), (2, list(range(20, 40)), 0.5, 0.4), (3, list(range(4, 18)), 0.25, 0.4)
    )
    assert chosen(parts)[0][1] == [0] * 4 + [3] * 14 + [0] * 2 + [2] * 20
    assert chosen(parts, ctrgcn_compat=True)[0][1] == [0] * 20 + [2] * 20


bodies_in_frames = st.lists(
    st.tuples(
        st.lists(st.integers(0, 39), min_size=1, max_size=4),  # where runs of frames start
        st.integers(1, 24),  # how long each is
        st.integers(-8, 8),  # sixteenths walked in a frame
        st.lists(st.sampled_from([0.25, 0.5, 1.25, 1.5, 2.0]), min_size=1, max_size=4),  # widths in turn
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(bodies=bodies_in_frames, ctrgcn=st.booleans())
def test_every_recording_against_the_reference(
    bodies: list[tuple[list[int], int, int, list[float]]], ctrgcn: bool
) -> None:
    frames: list[Frame] = [[] for _ in range(64)]
    for body_id, (starts, length, step, widths) in enumerate(bodies, start=1):
        for number in sorted({start + i for start in starts for i in range(length)}):
            # heights that no two bodies share, so that no two motions are alike, in values that float32 holds
            made = pose(body_id + step * number / 16, width=widths[number % len(widths)], height=1.6 + 0.0137 * body_id)
            frames[number].append((body_id, np.array(made, dtype=np.float32).tolist()))
    recording = recording_of(frames)
    tracks = track_actors(recording, ctrgcn_compat=ctrgcn)
    expected = two_actors(frames, ctrgcn=ctrgcn)
    assert tracks.frame_idx.tolist() == [number for number, _, _ in expected]
    shown = tracks.gather(recording.positions)
    for actor in (0, 1):
        poses = [np.zeros((25, 3)) if p[actor + 1] is None else np.array(p[actor + 1]) for p in expected]
        np.testing.assert_array_equal(shown[actor], np.array(poses, dtype=np.float32))


@pytest.mark.parametrize("ctrgcn", [False, True])
def test_genuine_files_against_the_reference(ctrgcn: bool) -> None:
    paths = sorted(GENUINE.glob("*.skeleton"))
    if not paths:
        pytest.skip(f"real data not there: {GENUINE}")
    for path in paths:
        recording = read_skeleton_file(path)
        frames: list[Frame] = [[] for _ in range(recording.n_frames)]
        for number, body_id, positions in zip(
            recording.frame_idx, recording.body_ids, recording.positions.tolist(), strict=True
        ):
            frames[number].append((int(body_id), positions))
        tracks = track_actors(recording, ctrgcn_compat=ctrgcn)
        expected = two_actors(frames, ctrgcn=ctrgcn)
        shown = tracks.gather(recording.positions)
        assert tracks.frame_idx.tolist() == [number for number, _, _ in expected]
        for t, (_, *poses) in enumerate(expected):
            for actor, expected_pose in enumerate(poses):
                assert tracks.is_present[actor, t] == (expected_pose is not None)
                if expected_pose is not None:
                    np.testing.assert_array_equal(shown[actor, t], np.array(expected_pose, dtype=np.float32))
        assert tracks.is_present[1].all() == ("A058" in path.name)  # only handshaking has two people


def test_centring_moves_everything_by_one_joint() -> None:
    frames = frames_of(30, (1, list(range(4, 30)), 0.5, 0.4), (2, list(range(30)), 0.0625, 0.4))
    recording = recording_of(frames)
    tracks = track_actors(recording)
    positions = centred_positions(recording, tracks)
    assert positions.dtype == np.float32
    assert positions.shape == (2, 30, 25, 3)
    origin = np.array(pose(0.5 * 4)[1])  # joint 2 of actor 1 when it first appears
    assert (positions[0, :4] == 0).all()
    np.testing.assert_allclose(positions[0, 10], np.array(pose(0.5 * 10)) - origin, atol=1e-6)
    np.testing.assert_allclose(positions[1, 0], np.array(pose(0.0)) - origin, atol=1e-6)
    assert positions[0, 4, 1].tolist() == [0, 0, 0]


def test_missing_joints_stay_missing() -> None:
    recording = recording_of(frames_of(3, (1, [0, 1, 2], 1.0, 0.4)))
    recording.positions[0, 1] = np.nan  # the origin is taken from the first frame that shows it
    recording.positions[2, 7] = np.nan
    positions = centred_positions(recording, track_actors(recording))
    assert positions[0, 1, 1].tolist() == positions[0, 0, 1].tolist() == positions[0, 2, 7].tolist() == [0, 0, 0]
    assert np.isfinite(positions).all()
    np.testing.assert_allclose(positions[0, 0, 0], np.array(pose(0.0)[0]) - pose(1.0)[1], atol=1e-6)
    recording.positions[:, 1] = np.nan
    with pytest.raises(InputError, match=r"made\.skeleton: no frame shows joints 2 of actor 1\. Fix: leave"):
        centred_positions(recording, track_actors(recording))


def aligned_reference(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two turns about the cross product by the angle between, as exponentials of matrices."""
    for start, end, axis in ((0, 1, [0, 0, 1]), (4, 8, [1, 0, 0])):
        line = positions[0, 0, end] - positions[0, 0, start]
        across = np.cross(line, axis)
        angle = np.arccos(line @ axis / np.linalg.norm(line))
        x, y, z = angle * across / np.linalg.norm(across)
        turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])).numpy()
        positions = positions @ turn.T
    return positions


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_aligning_turns_the_spine_and_then_the_shoulders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    recording = recording_of([[(1, rng.normal(size=(25, 3)).tolist())] for _ in range(3)])
    tracks = track_actors(recording)
    plain, aligned = (centred_positions(recording, tracks, align_spine=turned) for turned in (False, True))
    np.testing.assert_allclose(aligned, aligned_reference(plain.astype(np.float64)), atol=2e-5)
    shoulders = aligned[0, 0, 8] - aligned[0, 0, 4]
    assert shoulders[0] > 0
    np.testing.assert_allclose(shoulders[1:], 0, atol=2e-5)  # from left to right along +x
    lengths = [np.linalg.norm(p[0, :, :, None] - p[0, :, None], axis=-1) for p in (plain, aligned)]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-5)  # nothing is scaled or mirrored
    assert np.linalg.det(np.linalg.lstsq(plain[0, 0], aligned[0, 0], rcond=None)[0]) == pytest.approx(1, abs=1e-3)


def test_an_upside_down_or_straight_spine_is_turned_too() -> None:
    for direction, expected in ((1.0, 1.0), (-1.0, 1.0)):
        joints = np.zeros((25, 3))
        joints[0], joints[4], joints[8] = [0, 0, -direction], [-0.2, 0, 0.5], [0.2, 0, 0.5]
        recording = recording_of([[(1, joints.tolist())]])
        aligned = centred_positions(recording, track_actors(recording), align_spine=True)
        np.testing.assert_allclose(aligned[0, 0, 1] - aligned[0, 0, 0], [0, 0, expected], atol=1e-6)
        np.testing.assert_allclose(aligned[0, 0, 8] - aligned[0, 0, 4], [0.4, 0, 0], atol=1e-6)
    joints[8] = joints[4]
    recording = recording_of([[(1, joints.tolist())]])
    with pytest.raises(InputError, match=r"joints 5 and 9 coincide\. Fix: "):
        centred_positions(recording, track_actors(recording), align_spine=True)


def test_nobody_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"made\.skeleton: no body in any of its 4 frames\. Fix: leave"):
        track_actors(recording_of([[], [], [], []]))
