"""Settings: overrides, strictness, files, and what every recipe can be told."""

import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path

import pytest

from oskar.config import Config, TrainConfig
from oskar.errors import InputError
from oskar.recipes import RECIPES, recipe
from oskar.settings import apply_overrides, field_names
from oskar.tasks.recognition import ProbeConfig

KEYS = (
    *(f"train.{key}" for key in ("steps", "batch_size", "lr", "seed", "precision")),
    "train.checkpoint_every_steps",
    "train.log_every_steps",
    "data.workers",
    "data.max_bad_share",
    *(f"masking.{key}" for key in ("n_visible", "n_target", "alpha")),
    *(f"momentum.{key}" for key in ("video", "skeleton", "text")),
)


def value_at(config: Config, key: str) -> object:
    section, name = key.split(".")
    value: object = getattr(getattr(config, section), name)
    return value


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole_and_survives_its_file(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    assert config.recipe == name
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert Config.load(path) == config
    assert Config.from_json(config.to_json(), "x").to_json() == config.to_json()
    values = json.loads(path.read_text())
    dotted = {f"{section}.{key}" for section in values if section != "recipe" for key in values[section]}
    assert dotted | {"recipe"} == set(field_names(Config))  # nothing is left to the defaults of another version


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_promised_keys(name: str) -> None:
    config = recipe(name)
    unchanged = [f"{key}={json.dumps(value_at(config, key))}" for key in KEYS]
    assert config.with_overrides([u.replace('"', "") for u in unchanged]) == config
    changed = config.with_overrides(
        ["train.steps=7", "train.lr=2e-3", "train.precision=float32", "masking.n_visible=9", "masking.alpha=2"]
    )
    assert (changed.train.steps, changed.train.lr, changed.train.precision) == (7, 2e-3, "float32")
    assert (changed.masking.n_visible, changed.masking.alpha) == (9, 2.0)
    assert replace(config, train=changed.train, masking=changed.masking) == changed


def test_overrides_take_the_type_of_their_setting() -> None:
    config = recipe("oskar-tiny").with_overrides(
        [
            "train.seed=-3",
            "train.lr=1",
            "train.betas=[0.8, 0.9]",
            "train.clip_norm=null",
            "masking.tube_len=None",
            "model.box_embedding=false",
            'tokens.modalities=["video","text"]',
            "data.cache_dir=a=b c",
            "momentum.final=1.0",
        ]
    )
    assert (config.train.seed, config.train.lr, config.train.betas) == (-3, 1.0, (0.8, 0.9))
    assert isinstance(config.train.lr, float)
    assert config.train.clip_norm is None
    assert config.masking.tube_len is None
    assert config.model.box_embedding is False
    assert config.tokens.modalities == ("video", "text")
    assert config.data.cache_dir == "a=b c"
    assert config.momentum.final == 1.0


def test_none_is_a_word_where_it_is_a_choice() -> None:
    overrides = ["data.captions=none", "masking.exclusivity=none", "train.lr_scaling=none"]
    config = recipe("oskar-small").with_overrides(overrides)
    assert config.data.captions == config.masking.exclusivity == config.train.lr_scaling == "none"


def test_the_last_override_of_a_key_counts() -> None:
    assert recipe("oskar-tiny").with_overrides(["train.steps=5", "train.steps=6"]).train.steps == 6


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.step=3", "train.steps"),
        ("train.learning_rate=1", "train.lr_scaling"),
        ("masking.nvisible=3", "masking.n_visible"),
        ("momentum.vidoe=0.9", "momentum.video"),
        ("steps=3", "steps"),
        ("data.worker=3", "data.workers"),
        ("train=3", "train"),
        ("train.steps.x=3", "train.steps"),
        ("=3", ""),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(override: str, nearest: str) -> None:
    with pytest.raises(InputError) as error:
        recipe("oskar-tiny").with_overrides([override])
    assert f"unknown key {override.partition('=')[0]!r}" in str(error.value)
    assert "did you mean" in str(error.value)
    assert nearest in str(error.value).partition("did you mean")[2]


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=ten",
        "train.steps=2.5",
        "train.steps=",
        "train.steps=[1]",
        "train.steps=null",
        "train.lr=fast",
        "train.betas=[0.9]",
        "train.betas=[0.9,x]",
        "masking.style=cube",
        "model.bias=maybe",
        'tokens.modalities=["video","audio"]',
        "tokens.modalities=video",
        "data.tokenizer={}",
    ],
)
def test_a_wrong_type_is_named_with_key_and_value(override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(InputError) as error:
        recipe("oskar-tiny").with_overrides([override])
    assert key in str(error.value)
    assert error.value.exit_code == 2
    shown = "None" if value == "null" else value.strip('[]"').split(",")[-1].strip('"')
    assert shown in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=0",
        "train.batch_size=-4",
        "train.lr=0",
        "train.lr=nan",
        "train.lr=inf",
        "train.lr=1e999",
        "train.start_lr=-1",
        "train.weight_decay=-0.1",
        "train.final_weight_decay=nan",
        "train.betas=[0.9,1.0]",
        "train.accumulation=3",
        "train.clip_norm=0",
        "train.warmup_share=1.5",
        f"train.seed={2**63}",
        "tokens.resolution=60",
        "tokens.n_frames=15",
        "tokens.modalities=[]",
        'tokens.modalities=["text","text"]',
        "model.n_heads=3",
        "predictor.n_heads=5",
        "predictor.n_layers=3",
        "masking.n_visible=0",
        "masking.n_target=null",
        "masking.alpha=0",
        "masking.style=blocks",
        "masking.span_mean=0.5",
        "momentum.text=1.5",
        "momentum.text=null",
        "data.workers=-1",
        "data.max_bad_share=2",
        "clip.crop_scale=[0.9,0.3]",
        "clip.span_share=[0.5,1.5]",
        "target.context=all",
    ],
)
def test_values_out_of_range_are_named(override: str) -> None:
    config = recipe("mae-tiny" if override.startswith("target") else "oskar-tiny")
    with pytest.raises(InputError) as error:
        config.with_overrides([override])
    key = override.partition("=")[0]
    assert key in str(error.value) or key.partition(".")[0] in str(error.value)
    assert "Fix: " in str(error.value)


def test_an_override_needs_an_equals_sign() -> None:
    with pytest.raises(InputError, match="no '='"):
        recipe("oskar-tiny").with_overrides(["train.steps"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[]", "list"),
        ('{"recipe": "x", "tokens": {"resolutoin": 3}}', "tokens.resolution"),
        ('{"recipe": "x", "train": {"steps": "many"}}', "train.steps"),
        ('{"recipe": "x", "extra": 1}', "extra"),
        ('{"tokens": {}}', "recipe"),
        ('{"recipe": "x", "train": 3}', "train"),
        ('{"recipe": "x", "train": {"steps": 0}}', "train.steps"),
    ],
)
def test_a_config_file_is_read_strictly(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Config.load(path)
    assert named in str(error.value)


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path / "absent.json", tmp_path):
        with pytest.raises(InputError, match=path.name):
            Config.load(path)


def test_settings_are_frozen_and_named() -> None:
    config = recipe("oskar-tiny")
    with pytest.raises(FrozenInstanceError):
        config.train.steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainConfig(100)  # type: ignore[call-arg]
    for section in fields(Config)[1:]:
        values = getattr(config, section.name)
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(values, next(iter(asdict(values))), None)
        with pytest.raises((AttributeError, TypeError)):
            object.__setattr__(values, "a_new_one", 1)  # slots: no misspelt setting is kept


def test_overrides_leave_the_original_alone() -> None:
    config = recipe("oskar-tiny")
    before = config.to_json()
    config.with_overrides(["train.steps=1", "momentum.video=0.5", "momentum.skeleton=0.5", "momentum.text=0.5"])
    assert config.to_json() == before


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'oskar-tinny'.*did you mean oskar-tiny"):
        recipe("oskar-tinny")
    for name in ("", "?"):
        with pytest.raises(InputError, match="did you mean"):
            recipe(name)


def test_probe_settings_are_as_strict() -> None:
    assert apply_overrides(ProbeConfig(), ["steps=5", "precision=float32"]).steps == 5
    for override in ("step=5", "steps=0", "n_windows=0", "n_neighbours=0", "lr=-1", "precision=half"):
        with pytest.raises(InputError, match=override.partition("=")[0]):
            apply_overrides(ProbeConfig(), [override])
