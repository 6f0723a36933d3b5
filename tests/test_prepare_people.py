"""Boxes, tracks and the choice of people, against brute force and calculations by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pose_files import detections_of, moving_person, shares

from oskar.errors import InputError
from oskar.preparation.boxes import iou, suppress
from oskar.preparation.choice import choose, score_tracks
from oskar.preparation.detections import Detections, FoundPerson, gather
from oskar.preparation.settings import PeopleConfig
from oskar.preparation.tracking import track

CORNERS = st.tuples(*[st.integers(0, 12)] * 4).map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3]))


def cells(box: NDArray[np.float64]) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


@given(st.lists(CORNERS, min_size=1, max_size=4), st.lists(CORNERS, min_size=1, max_size=4))
def test_iou_counts_shared_cells(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> None:
    a, b = np.array(first, dtype=float), np.array(second, dtype=float)
    expected = [
        [len(cells(p) & cells(q)) / len(cells(p) | cells(q)) if cells(p) | cells(q) else 0.0 for q in b] for p in a
    ]
    np.testing.assert_allclose(iou(a, b), expected, rtol=1e-12)


@given(st.lists(CORNERS, max_size=8), st.integers(0, 10), st.randoms(use_true_random=False))
def test_suppression_by_its_definition(corners: list[tuple[int, ...]], tenths: int, random: object) -> None:
    boxes = np.array(corners, dtype=float).reshape(-1, 4)
    scores = np.random.default_rng(len(corners) + tenths).permutation(len(boxes)).astype(float)
    kept = suppress(boxes, scores, max_iou=tenths / 10)
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    overlap = iou(boxes, boxes)
    for row in range(len(boxes)):
        is_covered = any(scores[k] > scores[row] and overlap[row, k] > tenths / 10 for k in kept)
        assert (row in kept) != is_covered


def boxes_only(frames: list[int], boxes: list[tuple[float, ...]], n_frames: int = 20) -> Detections:
    """People whose boxes alone matter, with one joint in the middle."""
    corners = np.array(boxes, dtype=np.float32)
    joints = np.full((len(boxes), 17, 3), np.nan, dtype=np.float32)
    joints[..., 2] = 0
    joints[:, 0, :2], joints[:, 0, 2] = (corners[:, :2] + corners[:, 2:]) / 2, 1.0
    return Detections(
        n_frames=n_frames,
        frame_idx=np.array(frames, dtype=np.int64),
        joints=joints,
        boxes=corners,
        scores=np.full(len(boxes), np.nan, dtype=np.float32),
        track_ids=None,
    )


LEFT, RIGHT = (0.0, 0.0, 0.2, 0.5), (0.6, 0.0, 0.8, 0.5)


def test_people_keep_their_tracks_whatever_their_order_in_a_frame() -> None:
    found = boxes_only([0, 0, 1, 1, 2], [LEFT, RIGHT, RIGHT, LEFT, RIGHT])
    assert track(found, PeopleConfig()).tolist() == [0, 1, 1, 0, 1]


def test_the_largest_overlap_is_joined_first() -> None:
    near, nearer = (0.1, 0.0, 0.3, 0.5), (0.02, 0.0, 0.22, 0.5)
    found = boxes_only([0, 1, 1], [LEFT, near, nearer])
    assert track(found, PeopleConfig(min_iou=0.3)).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("gap", "is_same"), [(4, True), (5, True), (6, False)])
def test_a_person_unseen_for_too_long_is_a_new_track(gap: int, is_same: bool) -> None:
    found = boxes_only([0, 1 + gap], [LEFT, LEFT])
    assert track(found, PeopleConfig(gap_frames=5)).tolist() == ([0, 0] if is_same else [0, 1])


def test_less_overlap_than_asked_for_is_a_new_track() -> None:
    half = (0.1, 0.0, 0.3, 0.5)  # shares 0.1 x 0.5 of 0.3 x 0.5 with LEFT: 1/3
    found = boxes_only([0, 1], [LEFT, half])
    assert track(found, PeopleConfig(min_iou=0.33)).tolist() == [0, 0]
    assert track(found, PeopleConfig(min_iou=0.34)).tolist() == [0, 1]


def test_touching_nothing_is_no_track_even_without_a_least_overlap() -> None:
    assert track(boxes_only([0, 1], [LEFT, RIGHT]), PeopleConfig(min_iou=0.0)).tolist() == [0, 1]


def test_the_tracks_of_the_source_are_kept() -> None:
    person = shares(moving_person(0, 3))
    found = detections_of(person, person, n_frames=3, track_ids=[7, 3, 7, 3, 3, 7])
    assert track(found, PeopleConfig()).tolist() == [7, 3, 7, 3, 3, 7]


def person_at(x: float, y: float, *, way: float, confidence: float, n_frames: int, side: float = 0.2) -> NDArray:  # type: ignore[type-arg]
    """A person in shares of a square frame whose joints fill a box, all moving by ``way`` a frame to the right."""
    joints = np.zeros((n_frames, 17, 3))
    joints[..., 0] = x + np.linspace(-side / 2, side / 2, 17)
    joints[..., 1] = y + np.linspace(-side / 2, side / 2, 17)
    joints[..., 0] += way * np.arange(n_frames)[:, None]
    joints[..., 2] = confidence
    return joints


def scored(box_scores: tuple[float, ...]) -> tuple[Detections, NDArray[np.int64]]:
    """Three people on a 100 x 100 frame of 4 frames with given boxes: one still, one moving, one in two frames."""
    still = person_at(0.5, 0.5, way=0.0, confidence=0.5, n_frames=4)
    moving = person_at(0.2, 0.5, way=0.02, confidence=0.9, n_frames=4)
    brief = person_at(0.5, 0.9, way=0.01, confidence=0.7, n_frames=4)
    rows = [(0, t, still[t]) for t in range(4)] + [(1, t, moving[t]) for t in range(4)]
    rows += [(2, t, brief[t]) for t in (1, 2)]
    rows.sort(key=lambda row: row[1])
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    joints = np.stack([row[2] for row in rows]).astype(np.float32)
    centre = joints[:, 8, :2]  # the middle joint
    boxes = np.concatenate([centre - 0.1, centre + 0.1], axis=1)
    found = Detections(
        n_frames=4,
        frame_idx=np.array([row[1] for row in rows], dtype=np.int64),
        joints=joints,
        boxes=boxes,
        scores=np.array([box_scores[i] for i in ids], dtype=np.float32),
        track_ids=ids,
    )
    return found, ids


def test_the_score_of_a_track_by_hand() -> None:
    """Frame 100 x 100, boxes of side 20. Raw terms of still, moving, brief:

    presence 1, 1, 0.5; displacement 0, 2/20, 1/20; joint confidence 0.5, 0.9, 0.7; box confidence 0.6, 0.8, 0.7;
    distance to the centre 0, mean of 30 28 26 24 = 27, about (1, 40) and (2, 40) off; over half the diagonal 70.71.
    """
    found, ids = scored((0.6, 0.8, 0.7))
    far = (np.hypot(1, 40) + np.hypot(2, 40)) / 2
    raw = np.array(
        [
            [1.0, 0.0, 0.5, 0.6, 1.0],
            [1.0, 0.1, 0.9, 0.8, 1 - 27 / np.hypot(50, 50)],
            [0.5, 0.05, 0.7, 0.7, 1 - far / np.hypot(50, 50)],
        ]
    )
    by_hand = ((raw - raw.min(0)) / (raw.max(0) - raw.min(0))).mean(1)
    np.testing.assert_allclose(score_tracks(found, ids, (100, 100)), by_hand, atol=1e-5)
    assert by_hand.argsort()[::-1].tolist() == [1, 0, 2]


def test_unknown_box_confidences_do_not_count() -> None:
    nan = float("nan")
    unknown, ids = scored((nan, nan, nan))
    same, _ = scored((0.5, 0.5, 0.5))
    np.testing.assert_allclose(score_tracks(unknown, ids, (100, 100)), score_tracks(same, ids, (100, 100)), atol=1e-12)
    part, _ = scored((0.6, nan, 0.7))
    lowest, _ = scored((0.6, 0.6, 0.7))
    np.testing.assert_allclose(score_tracks(part, ids, (100, 100)), score_tracks(lowest, ids, (100, 100)), atol=1e-12)


def test_a_term_that_all_share_decides_nothing() -> None:
    """Rounding of a term that is the same for all would otherwise count as the whole range from 0 to 1."""
    person = person_at(0.5, 0.5, way=0.1 / 3, confidence=0.3, n_frames=5)
    found = detections_of(person, person + 1e-9, n_frames=5)
    ids = np.tile([0, 1], 5)
    np.testing.assert_allclose(score_tracks(found, ids, (97, 31)), [0.0, 0.0], atol=1e-12)


def test_the_distance_is_in_pixels_not_in_shares() -> None:
    """On a frame of 200 x 100, 0.2 of the width is farther off than 0.3 of the height."""
    beside = person_at(0.7, 0.5, way=0, confidence=0.5, n_frames=2)
    below = person_at(0.5, 0.8, way=0, confidence=0.5, n_frames=2)
    found = detections_of(beside, below, n_frames=2)
    scores = score_tracks(found, np.tile([0, 1], 2), (200, 100))
    np.testing.assert_allclose(scores, [0.0, 0.2], atol=1e-6)


def test_a_displacement_needs_two_frames_in_a_row() -> None:
    jumps = person_at(0.5, 0.5, way=0.1, confidence=0.5, n_frames=5)
    stays = person_at(0.5, 0.5, way=0.0, confidence=0.5, n_frames=5)
    both = detections_of(jumps, stays, n_frames=5)
    ids = np.tile([0, 1], 5)
    is_kept = np.isin(both.frame_idx, (0, 2))
    gaps = Detections(
        n_frames=5,
        frame_idx=both.frame_idx[is_kept],
        joints=both.joints[is_kept],
        boxes=both.boxes[is_kept],
        scores=both.scores[is_kept],
        track_ids=None,
    )
    moved = score_tracks(both, ids, (10, 10)) - score_tracks(gaps, ids[is_kept], (10, 10))
    assert moved[0] > 0.19  # the fifth that motion is worth
    assert moved[1] == pytest.approx(0.0, abs=0.02)


def test_the_displacement_is_a_mean_over_frames() -> None:
    """On a square frame, sizes alike: ways of 0.1, 0, 0, 0 are less than 0.05 four times, and more than none."""
    people = [person_at(0.5, 0.5, way=0.0, confidence=0.5, n_frames=5) for _ in range(3)]
    people[0][1:, :, 0] += 0.1
    people[1][..., 0] += 0.05 * (np.arange(5) % 2)[:, None]
    scores = score_tracks(detections_of(*people, n_frames=5), np.tile([0, 1, 2], 5), (100, 100))
    raw = np.array([[0.025, 1 - 0.08 / np.hypot(0.5, 0.5)], [0.05, 1 - 0.02 / np.hypot(0.5, 0.5)], [0.0, 1.0]])
    by_hand = ((raw - raw.min(0)) / (raw.max(0) - raw.min(0))).sum(1) / 5
    np.testing.assert_allclose(scores, by_hand, atol=1e-5)


def test_people_without_a_box_have_one_around_their_known_joints() -> None:
    """Padded by 5 % of its longer side, or 1 % of the frame where that is more: a single joint has a box too."""
    found = detections_of(person_at(0.5, 0.5, way=0, confidence=0.5, n_frames=2, side=0.4), n_frames=2)
    found.joints[0, 16] = (np.nan, np.nan, 0)
    found.joints[1, 1:] = (np.nan, np.nan, 0)
    high = 0.7 - 0.4 / 16
    pad = 0.05 * (high - 0.3)
    expected = [[0.3 - pad, 0.3 - pad, high + pad, high + pad], [0.29, 0.29, 0.31, 0.31]]
    np.testing.assert_allclose(found.extents(), expected, atol=1e-6)


def test_of_equal_people_the_one_seen_earlier_comes_first() -> None:
    person = person_at(0.5, 0.5, way=0, confidence=0.5, n_frames=4)
    found = detections_of(person, n_frames=4)
    people = choose(found, np.array([8, 8, 3, 3]), 2, (100, 100))
    assert np.isfinite(people.joints[:, :, 0, 0]).tolist() == [[True, True, False, False], [False, False, True, True]]


def test_the_best_come_first_and_the_others_go() -> None:
    found, ids = scored((0.6, 0.8, 0.7))
    people = choose(found, ids, 2, (100, 100))
    assert people.joints.shape == (2, 4, 17, 3)
    np.testing.assert_array_equal(people.joints[0], found.joints[ids == 1])
    np.testing.assert_array_equal(people.joints[1], found.joints[ids == 0])
    assert people.track_scores[0] > people.track_scores[1]
    everyone = choose(found, ids, 3, (100, 100))
    is_missing = np.isnan(everyone.joints[2, :, 0, 0])
    assert is_missing.tolist() == [True, False, False, True]
    assert (everyone.joints[2, is_missing, :, 2] == 0).all()
    assert np.isnan(everyone.boxes[2, 0]).all()
    np.testing.assert_allclose(everyone.box_scores[2, 1:3], 0.7)


def test_of_equal_people_the_first_comes_first() -> None:
    person = person_at(0.5, 0.5, way=0, confidence=0.5, n_frames=3)
    found = detections_of(person, person, n_frames=3)
    people = choose(found, np.tile([4, 2], 3), 1, (100, 100))
    assert len(people.joints) == 1
    assert people.track_scores[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": 6}, "frame 6: the video has 6 frames"),
        ({"frame": -1}, "frame -1: the video has 6 frames"),
        ({"joints": np.ones((16, 3))}, "16 joints, layout COCO-17 has 17"),
        ({"joints": np.full((17, 3), 3.0)}, "confidences from 3 to 3"),
        ({"joints": np.full((17, 3), (900.0, 20.0, 1.0))}, "only 0% of the joints lie inside the frame"),
    ],
)
def test_poses_that_cannot_be_this_videos(change: dict[str, object], message: str) -> None:
    person: dict[str, object] = {"frame": 0, "joints": moving_person(0)[0]} | change
    with pytest.raises(InputError, match=f"poses.json.*{message}"):
        gather([FoundPerson(**person)], frame_size=(64, 48), n_frames=6, source="poses.json")  # type: ignore[arg-type]


def test_one_track_twice_in_a_frame_is_refused() -> None:
    person = FoundPerson(frame=2, joints=moving_person(0)[0], track_id=5)
    with pytest.raises(InputError, match="frame 2: track 5 is there twice"):
        gather([person, person], frame_size=(64, 48), n_frames=6, source="poses.json")


def test_nan_and_unsure_joints_are_unknown_and_nobody_is_left_out() -> None:
    joints = moving_person(0)[0]
    joints[3] = np.nan
    joints[4, 2] = 0.0
    nobody = np.zeros((17, 3))
    found = gather(
        [FoundPerson(frame=1, joints=nobody), FoundPerson(frame=0, joints=joints)],
        frame_size=(64, 48),
        n_frames=6,
        source="poses.json",
    )
    assert found.frame_idx.tolist() == [0]
    assert np.isnan(found.joints[0, [3, 4], :2]).all()
    assert (found.joints[0, [3, 4], 2] == 0).all()
    np.testing.assert_allclose(found.joints[0, 5], shares(joints)[5], rtol=1e-6)


def test_half_tracked_files_are_tracked_here() -> None:
    people = [FoundPerson(frame=t, joints=moving_person(0)[0], track_id=9 if t else None) for t in range(3)]
    found = gather(people, frame_size=(64, 48), n_frames=6, source="poses.json")
    assert found.track_ids is None
    assert track(found, PeopleConfig()).tolist() == [0, 0, 0]
