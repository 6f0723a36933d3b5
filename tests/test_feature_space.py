"""Components, neighbours, decoded poses and the pixels of maps, against other libraries and calculations by hand."""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from oskar.config import Config, TokensConfig
from oskar.modalities import N_JOINTS
from oskar.pretraining import MaskedPrediction
from oskar.reporting.exhibit import BONES, heat_map, png, skeleton_svg, smaller
from oskar.reporting.feature_space import (
    encode_sample,
    expected_share,
    nearest,
    principal_components,
    share_of_same_class,
)
from oskar.reporting.figures import strokes_of
from oskar.reporting.poses import PENALTY_SHARE, HiddenJoints, assembled, fit_decoder, hidden_joints, mean_error
from oskar.tasks.features import Features, tokens_of
from oskar.tokens.layouts import INTERNAL


def random_tokens(seed: int = 0) -> torch.Tensor:
    """Six clips of five tokens and seven features of unequal spread, with a mean at every position; one is missing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(6, 5, 7)) * np.array([5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1]) + rng.normal(size=(1, 5, 7)) * 4
    values[2, 3] = np.nan
    return torch.from_numpy(values).float()


def test_components_are_those_of_another_library() -> None:
    tokens = random_tokens()
    found = principal_components(tokens)
    values = tokens.double().numpy()
    rest = values - np.nanmean(values, axis=0)
    is_valid = ~np.isnan(rest[..., 0])
    reference = PCA(n_components=3).fit(rest[is_valid])
    projected = reference.transform(rest[is_valid])
    assert np.allclose(found.shares, reference.explained_variance_ratio_, atol=1e-6)
    for c in range(3):
        mine = found.values[is_valid][:, c]
        inside = (mine > 0) & (mine < 1)  # the ends are cut
        assert inside.sum() > 20
        assert abs(np.corrcoef(mine[inside], projected[inside, c])[0, 1]) > 0.9999
    assert np.isnan(found.values[2, 3]).all()
    assert np.isnan(found.values).sum() == 3
    total = ((values[is_valid] - values[is_valid].mean(0)) ** 2).sum()
    assert found.position_share == pytest.approx(1 - (rest[is_valid] ** 2).sum() / total)


def test_position_alone_explains_clips_that_are_alike() -> None:
    alike = random_tokens()[:1].repeat(4, 1, 1)
    assert principal_components(alike).position_share == pytest.approx(1.0)
    centred = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[-1.0, 0.0], [0.0, -2.0]]])
    found = principal_components(centred)
    assert found.position_share == pytest.approx(0.0)
    assert found.shares == pytest.approx((0.8, 0.2))
    assert found.values.shape == (2, 2, 2)


def test_one_clip_has_components_too() -> None:
    found = principal_components(random_tokens()[:1])
    assert found.position_share == pytest.approx(0.0)
    assert np.nanmin(found.values) == 0.0
    assert np.nanmax(found.values) == 1.0


def test_neighbours_are_those_of_another_library() -> None:
    pooled = torch.from_numpy(np.random.default_rng(1).normal(3.0, 2.0, (12, 6))).float() * torch.arange(1, 7)
    standard = (pooled - pooled.mean(0)) / pooled.std(0, correction=0)
    reference = NearestNeighbors(n_neighbors=4, metric="cosine").fit(standard)
    _, expected = reference.kneighbors()  # of the points themselves: they are left out
    assert nearest(pooled, 4).tolist() == expected.tolist()
    assert nearest(pooled[:3], 4).shape == (3, 2)


def test_shares_of_same_class_by_hand() -> None:
    neighbours = torch.tensor([[1, 2], [0, 3], [0, 1], [0, 1]])
    classes: list[object] = ["a", "a", "b", None]
    # hits of clip 0: 1 of 2; of clip 1: 1 of 2; of clip 2: none; clip 3 has no class
    assert share_of_same_class(neighbours, classes) == pytest.approx(2 / 6)
    assert expected_share(classes) == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)
    assert share_of_same_class(neighbours, [None] * 4) is None


def test_features_lie_at_their_tokens(small_config: Config, make_clips: Any) -> None:
    clips = make_clips(20, small_config.tokens, absent={"skeleton": {3}})
    encoder = MaskedPrediction(small_config).encoder("skeleton")
    found = encode_sample(encoder, clips, small_config, "skeleton")
    assert found is not None
    assert found.rows.tolist() == [i for i in range(20) if i != 3]
    for place, row in ((0, 0), (3, 4), (18, 19)):
        packed = tokens_of(clips.rows(torch.tensor([row])), small_config, "skeleton")
        with torch.no_grad():
            latents = encoder(packed, small_config.model.target_attention)
        token_idx = packed.tokens["skeleton"].token_idx
        assert torch.allclose(found.tokens[place, token_idx], latents[0], atol=1e-5)
        assert int((~found.tokens[place, :, 0].isnan()).sum()) == len(token_idx)
        pooled = Features(latents, packed.is_valid, torch.zeros(1), (), ()).pooled()
        assert torch.allclose(found.pooled[place], pooled[0], atol=1e-5)
    without = make_clips(4, small_config.tokens, absent={"skeleton": {0, 1, 2, 3}})
    assert encode_sample(encoder, without, small_config, "skeleton") is None


def made_joints(n: int = 400, width: int = 8) -> HiddenJoints:
    """Places that are a linear function of the features, around a mean place of each joint."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(n, width, generator=rng) * 3.0 + 1.0
    joint = torch.arange(n) % N_JOINTS
    rule = torch.randn(width, 2, generator=rng) * 0.05
    places = 0.3 + 0.02 * joint[:, None] + (features - 1.0) @ rule
    boxes = torch.tensor([0.1, 0.2, 0.5, 1.0]).repeat(n, 1)
    return HiddenJoints(features, places, boxes, joint, torch.zeros(n, dtype=torch.int64))


def test_the_decoder_is_a_ridge_regression() -> None:
    joints = made_joints()
    decoder = fit_decoder(joints)
    x = joints.features.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    means = np.stack([joints.places[joints.joint == j].double().numpy().mean(0) for j in range(N_JOINTS)])
    y = joints.places.double().numpy() - means[joints.joint.numpy()]
    reference = Ridge(alpha=PENALTY_SHARE * len(x), fit_intercept=False).fit(x, y)
    assert np.allclose(decoder.weights.numpy(), reference.coef_.T, atol=1e-5)
    assert np.allclose(decoder(joints).numpy(), reference.predict(x) + means[joints.joint.numpy()], atol=1e-4)
    assert mean_error(decoder(joints), joints) < 0.2 * mean_error(decoder.mean_places[joints.joint], joints)


def test_errors_are_shares_of_the_longer_side() -> None:
    joints = made_joints(2)
    moved = joints.places + torch.tensor([[0.3, 0.0], [0.0, 0.4]])
    # the box is 0.4 wide and 0.8 high: 0.3 of its width are 0.15 of its height
    assert mean_error(moved, joints) == pytest.approx((0.15 + 0.4) / 2)


@pytest.mark.parametrize("joint_frame", ["clip", "person"])
@pytest.mark.parametrize("segment_frames", [1, 2])
def test_places_put_together_are_the_joints(joint_frame: Any, segment_frames: int, make_clips: Any) -> None:
    """What is read of targets, put back into the frame, is where the clip has its joints."""
    tokens = TokensConfig(
        modalities=("skeleton",), n_frames=4, resolution=32, patch_size=8, n_people=2, n_words=4, vocabulary_size=8,
        joint_frame=joint_frame, segment_frames=segment_frames,
    )  # fmt: skip
    config = Config(recipe="test", tokens=tokens).with_overrides(
        ["model.width=16", "model.n_blocks=1", "model.n_heads=2", "predictor.width=16", "predictor.n_layers=2",
         "predictor.n_heads=2", "masking.n_visible=12", "masking.n_target=24"]
    )  # fmt: skip
    clips = make_clips(2, tokens, share_confident=1.0)
    found = hidden_joints(MaskedPrediction(config), clips, torch.full((60,), 1), config)
    people = assembled(found, found.places, config)
    assert people.shape == (2, 4 // segment_frames, N_JOINTS, 3)
    known = people[..., 2] > 0
    assert known.mean() > 0.5
    assert set(found.clip.tolist()) == {1}
    joints = clips.joints[1].numpy()  # [S, T, J, 3]
    for person, segment, joint in np.argwhere(known):
        frames = joints[person, segment * segment_frames : (segment + 1) * segment_frames, joint, :2]
        inside = frames[((frames >= 0) & (frames < 1)).all(1)]
        assert people[person, segment, joint, :2] == pytest.approx(inside.mean(0), abs=1e-4)


def pixels_of(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))[..., :3]


def test_pictures_hold_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    assert (pixels_of(png(pixels)) == pixels).all()
    assert png(pixels) == png(pixels.copy())


def test_large_frames_become_means_over_squares() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (260, 260, 3), dtype=np.uint8)
    small = smaller(frame)
    assert small.shape == (65, 65, 3)  # 260 / 4: a third does not go, a half is 130
    assert small[2, 3, 1] == round(float(frame[8:12, 12:16, 1].mean()))
    assert smaller(frame[:128, :128]).shape == (128, 128, 3)


def test_maps_are_read_without_colour() -> None:
    """Lightness rises with the value; what has no value is grey with a cross, unlike any value."""
    ramp = np.linspace(0.0, 1.0, 12)[None]
    light = heat_map(ramp, 0.0, 1.0)[0].astype(float) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light[::10]) > 2).all()
    with_gap = heat_map(np.array([[0.5, np.nan], [-3.0, 7.0]]), 0.0, 1.0)
    gap = with_gap[:10, 10:]
    assert len({tuple(pixel) for pixel in gap.reshape(-1, 3)}) == 2
    assert (gap == gap[..., :1]).all()
    lowest, highest = (np.round(np.array(mpl.colormaps["cividis"](v)[:3]) * 255) for v in (0.0, 1.0))
    assert (with_gap[15, 5] == lowest).all()  # beyond the scale is its end
    assert (with_gap[15, 15] == highest).all()


def test_skeletons_are_drawn_where_they_are() -> None:
    person = np.zeros((17, 3), dtype=np.float32)
    left, right, ankle = (INTERNAL.index(name) for name in ("left_hip", "left_knee", "left_ankle"))
    person[left], person[right] = (0.25, 0.5, 1.0), (0.75, 0.125, 0.4)
    measured = skeleton_svg([person])
    assert "M25.0 50.0L75.0 12.5" in measured
    assert "M25.0 50.0h.1M75.0 12.5h.1" in measured
    assert 'style="stroke-linecap:round"' in measured  # an attribute would lose to the styles of other figures
    assert measured.count("L") == 1  # the ankle is not known, so its bone is not drawn
    predicted = skeleton_svg([person], is_measured=False)
    assert "stroke-dasharray" in predicted
    assert "stroke-dasharray" not in measured
    assert (right, ankle) in BONES
    assert len(BONES) == len(set(BONES)) == 16


def test_28_runs_are_told_apart_without_colour() -> None:
    strokes = strokes_of([f"run {i}" for i in range(28)] + ["run 0"])
    assert len(strokes) == 28
    assert len({(stroke.dashes, stroke.marker) for stroke in strokes.values()}) == 28
