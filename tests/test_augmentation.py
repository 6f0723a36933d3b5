"""Augmentation of clips: every operation against Pillow, colours against colorsys, the draws and the rectangles."""

import colorsys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.data.augmentation.colour_jitter import ColourJitter
from oskar.data.augmentation.erasing import AREA, RATIO, draw_rectangles, erase
from oskar.data.augmentation.geometric import rotation, shear_x, shear_y, translation, warp
from oskar.data.augmentation.photometric import (
    autocontrast,
    brighten,
    contrast,
    equalize,
    grey,
    invert,
    posterize,
    saturate,
    sharpen,
    shift_colours,
    solarize,
    solarize_add,
)
from oskar.data.augmentation.rand_augment import OPERATIONS, draw_operations, rand_augment
from oskar.data.reader import Draw, EvaluationWindow, ReadClips, TrainingDraw
from oskar.data.repeated_reader import RepeatedReader
from oskar.errors import InputError
from oskar.randomness import clip_keys
from oskar.tasks.finetuning import FinetuneConfig
from oskar.tasks.finetuning_recipes import LOCALIZATION_RECIPES, RECOGNITION_RECIPES
from oskar.train.schedules import lr_at


def pictures(n: int = 3, height: int = 24, width: int = 36, seed: int = 0) -> Tensor:
    """Smooth pictures of unequal range, so that statistics of frames differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 220, (n, 4, 6, 3)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BILINEAR)) for c in coarse]
    noise = rng.integers(-9, 10, (n, height, width, 3))
    return torch.from_numpy((np.stack(large) + noise).clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


def pillow(frame: Tensor) -> Image.Image:
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())


def differences(ours: Tensor, theirs: list[Image.Image]) -> Tensor:
    expected = torch.from_numpy(np.stack([np.asarray(image) for image in theirs])).permute(0, 3, 1, 2)
    return (ours.int() - expected.int()).abs()


def test_operations_without_a_factor_equal_pillow() -> None:
    frames = pictures()
    for ours, theirs in (
        (invert(frames), ImageOps.invert),
        (autocontrast(frames), ImageOps.autocontrast),
        (equalize(frames), ImageOps.equalize),
        (posterize(frames, 3), lambda image: ImageOps.posterize(image, 3)),
        (solarize(frames, 77), lambda image: ImageOps.solarize(image, 77)),
        (solarize(frames, 256), lambda image: image),
    ):
        assert differences(ours, [theirs(pillow(frame)) for frame in frames]).max() == 0
    assert not posterize(frames, 0).any()
    flat = torch.full((1, 3, 4, 4), 9, dtype=torch.uint8)
    assert torch.equal(equalize(flat), flat)
    assert torch.equal(autocontrast(flat), flat)
    values = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 5)
    assert solarize_add(values, 90)[0, 0, 0].tolist() == [90, 190, 217, 128, 255]


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.9])
def test_operations_with_a_factor_equal_pillow(factor: float) -> None:
    frames = pictures()
    for ours, theirs in (
        (saturate, ImageEnhance.Color),
        (contrast, ImageEnhance.Contrast),
        (brighten, ImageEnhance.Brightness),
        (sharpen, ImageEnhance.Sharpness),
    ):
        assert differences(ours(frames, factor), [theirs(pillow(f)).enhance(factor) for f in frames]).max() <= 1
    grey_of = [np.asarray(pillow(frame).convert("L")) for frame in frames]
    assert np.array_equal(grey(frames)[:, 0].numpy(), np.stack(grey_of))


def test_maps_equal_those_of_pillow() -> None:
    frames = pictures(height=32, width=48)
    height, width = frames.shape[-2:]
    bilinear = Image.Resampling.BILINEAR
    for affine in (
        rotation(17.0, height, width),
        rotation(-30.0, height, width),
        shear_x(0.2),
        shear_y(-0.3),
        translation(7.5, 0.0),
        translation(0.0, -11.0),
    ):
        theirs = [
            pillow(f).transform((width, height), Image.Transform.AFFINE, affine, bilinear, fillcolor=(128,) * 3)
            for f in frames
        ]
        difference = differences(warp(frames, affine), theirs)
        assert difference.max() <= 2
        assert (warp(frames, affine) == 128).all(1).any()
    turned = [pillow(f).rotate(17.0, Image.Resampling.BILINEAR, fillcolor=(128,) * 3) for f in frames]
    assert (differences(warp(frames, rotation(17.0, height, width)), turned) > 2).float().mean() < 0.01
    assert torch.equal(warp(frames, translation(0.0, 0.0)), frames)
    assert torch.equal(warp(frames, translation(5.0, 0.0))[..., :-5], frames[..., 5:])


def test_colours_shift_as_colorsys_says() -> None:
    frames = pictures(1, 6, 7)
    frames[0, :, 0, 0] = 90  # grey has no hue
    for hue, saturation, value in ((20.0, 0.0, 0.0), (-20.0, 0.1, -0.1), (170.0, -0.1, 0.1), (0.0, 0.0, 0.0)):
        shifted = shift_colours(frames, hue_degrees=hue, saturation=saturation, value=value)
        for y in range(6):
            for x in range(7):
                h, s, v = colorsys.rgb_to_hsv(*(frames[0, :, y, x].double() / 255).tolist())
                s = min(max(s + saturation, 0.0), 1.0) if s > 0 else 0.0
                expected = colorsys.hsv_to_rgb((h + hue / 360) % 1.0, s, min(max(v + value, 0.0), 1.0))
                assert np.abs(shifted[0, :, y, x].numpy() - 255 * np.array(expected)).max() <= 0.51


def test_jitter_stays_in_its_range_and_is_one_for_all_frames() -> None:
    same = pictures(1).expand(2, 4, 3, 24, 36)
    jitter = ColourJitter(hue_degrees=20.0, saturation=0.1, value=0.1)
    shifted = jitter(same, torch.tensor([5, 6]), seed=0, step=3)
    assert all(torch.equal(shifted[0, 0], frame) for frame in shifted[0])
    assert not torch.equal(shifted[0], shifted[1])
    assert torch.equal(ColourJitter()(same, torch.tensor([5, 6]), seed=0, step=3), same)
    ids = torch.arange(400)
    light = torch.full((400, 1, 3, 1, 1), 100, dtype=torch.uint8)
    values = ColourJitter(value=0.1)(light, ids, seed=1, step=0).flatten(1)[:, 0].double() / 255 - 100 / 255
    assert values.min() < -0.09
    assert values.max() > 0.09
    assert values.abs().max() <= 0.1 + 1 / 255


def test_the_draws_of_rand_augment() -> None:
    ids = torch.arange(4000)
    drawn = draw_operations(ids, seed=0, step=0, n_layers=4, magnitude=7.0, magnitude_std=0.5)
    applied = [layer for layers in drawn for layer in layers]
    assert abs(len(applied) / 16000 - 0.5) < 0.02
    counts = Counter(name for name, _, _ in applied)
    assert set(counts) == set(OPERATIONS)
    assert len(OPERATIONS) == 15
    assert max(counts.values()) < 1.3 * min(counts.values())
    levels = np.array([level for _, level, _ in applied])
    assert abs(levels.mean() - 0.7) < 0.005
    assert abs(levels.std() - 0.05) < 0.005
    assert abs(np.mean([sign for _, _, sign in applied])) < 0.05
    some = draw_operations(ids[7:9], seed=0, step=0, n_layers=4, magnitude=7.0, magnitude_std=0.5)
    assert some == drawn[7:9]
    assert some != draw_operations(ids[7:9], seed=0, step=1, n_layers=4, magnitude=7.0, magnitude_std=0.5)
    (highest,) = draw_operations(ids[:1], seed=0, step=0, n_layers=99, magnitude=10.0, magnitude_std=9.0)
    assert max(level for _, level, _ in highest) == 1.0
    assert min(level for _, level, _ in highest) >= 0.0


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("rotate", 0.7, lambda f: warp(f, rotation(-21.0, *f.shape[-2:]))),
        ("posterize", 0.7, lambda f: f & 0b11000000),  # 4 - int(2.8) = 2 bits
        ("solarize", 0.7, lambda f: solarize(f, 77)),  # 256 - int(179.2)
        ("solarize_add", 0.7, lambda f: solarize_add(f, 77)),
        ("colour", 0.7, lambda f: saturate(f, 0.37)),
        ("contrast", 1.0, lambda f: contrast(f, 0.1)),
        ("brightness", 0.5, lambda f: brighten(f, 0.55)),
        ("sharpness", 0.5, lambda f: sharpen(f, 0.55)),
        ("shear_x", 0.7, lambda f: warp(f, shear_x(-0.21))),
        ("shear_y", 0.7, lambda f: warp(f, shear_y(-0.21))),
        ("translate_x", 0.5, lambda f: warp(f, translation(-0.225 * 36, 0.0))),
        ("translate_y", 0.5, lambda f: warp(f, translation(0.0, -0.225 * 24))),
    ],
)
def test_levels_mean_what_the_reference_says(name: str, level: float, expected: object) -> None:
    frames = pictures()
    assert callable(expected)
    assert torch.equal(OPERATIONS[name](frames, level, -1.0), expected(frames))


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    clips = torch.stack([pictures(1, seed=i).expand(3, -1, -1, -1) for i in range(6)])
    ids = torch.arange(6)
    changed = rand_augment(clips, ids, seed=0, step=0, n_layers=4, magnitude=7.0, magnitude_std=0.5)
    assert changed.shape == clips.shape
    for clip in changed:
        assert torch.equal(clip[0], clip[2])
    assert not torch.equal(changed, clips)
    alone = rand_augment(clips[4:5], ids[4:5], seed=0, step=0, n_layers=4, magnitude=7.0, magnitude_std=0.5)
    assert torch.equal(alone[0], changed[4])


def test_rectangles_to_erase() -> None:
    keys = clip_keys(0, 0, torch.arange(4000))
    rectangles = [r for r in draw_rectangles(keys, 200, 300, 0.25) if r is not None]
    assert abs(len(rectangles) / 4000 - 0.25) < 0.03
    corners = np.array(rectangles)
    heights, widths = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    assert corners.min() == 0
    assert corners[:, 2].max() == 200
    assert corners[:, 3].max() == 300
    areas = heights * widths / 60000
    assert AREA[0] - 0.002 < areas.min() < 0.03
    assert 0.3 < areas.max() < AREA[1] + 0.01
    assert RATIO[0] * 0.95 < (heights / widths).min() < 0.4
    assert abs(np.log(heights / widths).mean()) < 0.25


def test_a_rectangle_is_noise_at_one_place_of_all_frames() -> None:
    clips = torch.full((8, 3, 3, 40, 40), 7, dtype=torch.uint8)
    ids = torch.arange(8)
    erased = erase(clips, ids, seed=0, step=0, probability=1.0)
    is_changed = (erased != 7).any(2)
    for i, (top, left, bottom, right) in enumerate(filter(None, draw_rectangles(clip_keys(0, 0, ids), 40, 40, 1.0))):
        inside = torch.zeros(40, 40, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert not bool(is_changed[i][:, ~inside].any())
        assert float(is_changed[i][:, inside].float().mean()) > 0.95
        assert not torch.equal(erased[i, 0], erased[i, 1])
    many = erase(torch.zeros(200, 1, 3, 32, 32, dtype=torch.uint8), torch.arange(200), seed=1, step=0, probability=1.0)
    red = many[:, 0, 0][many[:, 0].amax(1) > 0].double()
    assert abs(float(red.mean()) - 0.485 * 255) < 3
    assert torch.equal(erase(clips, ids, seed=0, step=0, probability=0.0), clips)


class Counting:
    """A reader whose clips hold the seed they were read with."""

    classes = ("a",)

    def __len__(self) -> int:
        return 3

    def clip_id(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int:
        return index

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        kept = [i for i in indices if i != 2]
        seed = draw.seed if isinstance(draw, TrainingDraw) else 0
        frames = torch.full((len(kept), 1, 3, 1, 1), seed % 251, dtype=torch.uint8)
        clips = ClipBatch(clip_ids=torch.tensor(kept), labels=torch.tensor(kept), frames=frames)
        return ReadClips(clips, (("2", "broken"),) if 2 in indices else ())


def test_repeated_clips_are_drawn_anew() -> None:
    reader = RepeatedReader(Counting(), 2)
    read = reader.read([1, 0, 2], TrainingDraw(5, 0))
    assert read.clips is not None
    assert read.clips.labels.tolist() == [1, 0, 1, 0]
    assert len(set(read.clips.clip_ids.tolist())) == 4
    assert read.clips.frames is not None
    values = read.clips.frames[:, 0, 0, 0, 0].tolist()
    assert (values[0], values[2]) == (values[1], values[3])
    assert values[0] != values[2]
    assert read.bad == (("2", "broken"),)
    tested = reader.read([1, 0], EvaluationWindow()).clips
    assert tested is not None
    assert len(tested) == 2


def test_recipes_have_the_published_numbers() -> None:
    table = {
        name: (r.lr, r.epochs, r.layer_decay, r.drop_path, r.dropout, r.batch_size)
        for name, r in RECOGNITION_RECIPES.items()
    }
    assert table == {
        "k400-small": (5e-4, 150, 0.75, 0.1, 0.0, 384),
        "k400-base": (5e-4, 75, 0.75, 0.1, 0.0, 384),
        "k400-large": (2e-3, 35, 0.75, 0.1, 0.0, 128),
        "k400-large-vjepa": (2e-3, 35, 0.75, 0.1, 0.0, 256),
        "k400-huge": (1e-3, 50, 0.75, 0.2, 0.5, 512),
        "k400-huge-vjepa": (5e-4, 25, 0.75, 0.2, 0.0, 1024),
        "ssv2-small": (1e-3, 40, 0.7, 0.1, 0.0, 384),
        "ssv2-base": (5e-4, 30, 0.75, 0.1, 0.0, 384),
        "ssv2-large": (5e-4, 15, 0.75, 0.2, 0.5, 256),
        "ntu60": (3e-4, 100, 0.75, 0.3, 0.3, 48),
        "ntu120": (5e-4, 100, 0.75, 0.3, 0.3, 48),
    }
    people = {n: (r.lr, r.layer_decay, r.epochs, r.drop_path, r.batch_size) for n, r in LOCALIZATION_RECIPES.items()}
    assert people == {
        "ava-small": (1e-3, 0.6, 30, 0.2, 128),
        "ava-base": (2.5e-4, 0.75, 30, 0.2, 128),
        "ava-large": (2.5e-4, 0.75, 30, 0.2, 128),
        "ava-huge": (5e-4, 0.8, 20, 0.2, 128),
    }
    shown = {
        name: (r.temporal, r.n_windows, r.n_crops, r.flip_probability, r.rand_layers, r.n_repeats)
        for name, r in RECOGNITION_RECIPES.items()
    }
    assert shown["k400-base"] == ("dense", 5, 3, 0.5, 4, 2)
    assert shown["ssv2-base"] == ("segments", 2, 3, 0.0, 4, 2)


def test_epochs_are_steps_of_the_data_and_rates_follow_the_batch() -> None:
    recipe = RECOGNITION_RECIPES["k400-large"]
    assert recipe.n_steps(240_000) == 35 * 240_000 // 128
    assert recipe.n_steps(1) == 1
    assert FinetuneConfig(steps=7).n_steps(10**6) == 7
    schedule = recipe.train_config()
    peak = max(lr_at(step, schedule) for step in range(schedule.steps))
    assert peak == pytest.approx(2e-3 * 128 / 256)
    assert lr_at(schedule.steps - 1, schedule) == pytest.approx(1e-6 * 128 / 256)


def test_settings_of_augmentation_are_checked() -> None:
    for setting in ("rand_magnitude=11", "erasing_probability=1.5", "n_repeats=0", "rand_layers=-1"):
        name, value = setting.split("=")
        with pytest.raises(InputError, match=name):
            FinetuneConfig(**{name: float(value) if "." in value else int(value)})  # type: ignore[arg-type]
