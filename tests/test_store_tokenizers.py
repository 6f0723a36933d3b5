"""Stores of a model's vectors: patch embeddings and features of tiny VideoMAE and V-JEPA 2 models of random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, CommandLine, records, shrunk, video_folder
from safetensors.numpy import load_file
from torch.nn import functional as F

from oskar.config import Config
from oskar.data.open import open_training
from oskar.data.reader import TrainingDraw
from oskar.data.store.settings import StoreConfig, TokenizeConfig
from oskar.data.store.write import tokenize
from oskar.errors import InputError
from oskar.masking.packing import build_batch
from oskar.pretraining import MaskedPrediction
from oskar.tokens import token_sources

transformers = pytest.importorskip("transformers")
WIDTH = 24
PROJECTIONS = {
    "videomae": "embeddings.patch_embeddings.projection",
    "vjepa2": "encoder.embeddings.patch_embeddings.proj",
}
STATISTICS = {
    "videomae": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "vjepa2": ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shared = {"patch_size": 8, "tubelet_size": 2, "hidden_size": WIDTH, "num_attention_heads": 2}
    mae = transformers.VideoMAEConfig(image_size=32, num_frames=4, num_hidden_layers=2, intermediate_size=32, **shared)
    transformers.VideoMAEModel(mae).save_pretrained(base / "videomae")
    predictor = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    jepa = transformers.VJEPA2Config(
        crop_size=32, frames_per_clip=4, num_hidden_layers=2, mlp_ratio=2, pred_num_mask_tokens=1, **predictor, **shared
    )
    transformers.VJEPA2Model(jepa).save_pretrained(base / "vjepa2")
    (base / "vjepa2" / "video_preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]})
    )
    return {"videomae": base / "videomae", "vjepa2": base / "vjepa2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_folder(tmp_path_factory.mktemp("data") / "v", 3)


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, n_frames=4, modalities=("video",))
    return replace(config, tokens=tokens, data=replace(config.data, captions="none"))


def settings_of(config: Config, **store: Any) -> TokenizeConfig:
    return TokenizeConfig(tokens=config.tokens, clip=config.clip, store=StoreConfig(workers=0, seed=3, **store))


def frames_of(folder: Path, config: Config) -> torch.Tensor:
    clips = open_training([str(folder)], config).reader.read(range(3), TrainingDraw(3, 0)).clips
    assert clips is not None
    assert clips.frames is not None
    return clips.frames


def normalised(frames: torch.Tensor, kind: str) -> torch.Tensor:
    """As the preprocessing file of the model says, or as ImageNet where there is none."""
    mean, std = STATISTICS[kind]
    return (frames.float() / 255.0 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def stored_vectors(store: Path, name: str = "video") -> torch.Tensor:
    """Vectors ``[clips, N, D]`` in the order of tokens: step, row, column."""
    (path,) = (store / "shards").iterdir()
    values = torch.from_numpy(load_file(path)[name])[:, 0]
    return values.transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_patch_embeddings_are_a_linear_map_of_their_own_tubelet(
    kind: str, models: dict[str, Path], folder: Path, config: Config, tmp_path: Path
) -> None:
    """By slicing the tubelets by hand and multiplying with the saved weights."""
    tokenize(settings_of(config, vector_type="float32"), str(folder), tmp_path / "s", tokenizer=str(models[kind]))
    weights = load_file(models[kind] / "model.safetensors")
    kernel, bias = (torch.from_numpy(weights[f"{PROJECTIONS[kind]}.{name}"]) for name in ("weight", "bias"))
    normal = normalised(frames_of(folder, config), kind)
    found = stored_vectors(tmp_path / "s")
    assert found.shape == (3, 32, WIDTH)
    for clip, step, row, column in ((0, 0, 0, 0), (1, 1, 2, 3), (2, 1, 0, 2)):
        part = normal[clip, 2 * step : 2 * step + 2, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        expected = torch.einsum("tcyx,dctyx->d", part, kernel) + bias
        torch.testing.assert_close(found[clip, 16 * step + 4 * row + column], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_features_are_those_of_the_whole_model(
    kind: str, models: dict[str, Path], folder: Path, config: Config, tmp_path: Path
) -> None:
    settings = settings_of(config, vector_type="float16", layer="features")
    index = tokenize(settings, str(folder), tmp_path / "s", tokenizer=str(models[kind]))
    assert (index.tokenizer.kind, index.tokenizer.model, index.tokenizer.width) == ("features", kind, WIDTH)
    normal = normalised(frames_of(folder, config), kind)
    cls = transformers.VJEPA2Model if kind == "vjepa2" else transformers.VideoMAEModel
    model = cls.from_pretrained(models[kind]).eval()
    with torch.no_grad():
        expected = model(normal).last_hidden_state
    torch.testing.assert_close(stored_vectors(tmp_path / "s").float(), expected, atol=3e-3, rtol=2e-3)


def test_a_run_learns_from_bfloat16_vectors(
    models: dict[str, Path], folder: Path, config: Config, tmp_path: Path
) -> None:
    tokenize(settings_of(config), str(folder), tmp_path / "s", tokenizer=str(models["videomae"]))
    with pytest.raises(InputError, match=f"set tokens.video_width={WIDTH}"):
        open_training([str(tmp_path / "s")], config)
    wide = replace(config, tokens=replace(config.tokens, video_width=WIDTH))
    clips = open_training([str(tmp_path / "s")], wide).reader.read(range(3), TrainingDraw(0, 0)).clips
    assert clips is not None
    batch = build_batch(clips, wide, 0)
    values = batch.views[0].visible.tokens["video"].values
    assert values.dtype is torch.bfloat16
    weights = load_file(models["videomae"] / "model.safetensors")
    kernel, bias = (torch.from_numpy(weights[f"{PROJECTIONS['videomae']}.{name}"]) for name in ("weight", "bias"))
    normal = normalised(frames_of(folder, config), "videomae").transpose(1, 2)
    exact = F.conv3d(normal, kernel, bias, stride=(2, 8, 8)).flatten(2).transpose(1, 2)
    tokens = batch.views[0].visible.tokens["video"]
    n_slots = batch.views[0].visible.segments.shape[1]
    torch.testing.assert_close(values.float(), exact[tokens.slots // n_slots, tokens.token_idx], atol=2e-2, rtol=1e-2)
    for space in ("latent", "input"):
        model = MaskedPrediction(replace(wide, target=replace(wide.target, space=space, centre=False)))
        loss = model(batch)["loss"]
        loss.backward()
        assert bool(loss.isfinite())


def test_frames_are_refused_where_tokens_are_vectors(folder: Path, config: Config) -> None:
    wide = replace(config, tokens=replace(config.tokens, video_width=WIDTH))
    clips = open_training([str(folder)], wide).reader.read([0], TrainingDraw(0, 0)).clips
    assert clips is not None
    with pytest.raises(InputError, match=r"tokens\.video_width = 24: video tokens are vectors of a model"):
        token_sources(clips, wide.tokens)


def test_wrong_models_are_refused(models: dict[str, Path], folder: Path, config: Config, tmp_path: Path) -> None:
    def refused(tokenizer: Path, message: str, **tokens: Any) -> None:
        settings = settings_of(replace(config, tokens=replace(config.tokens, **tokens)))
        with pytest.raises(InputError, match=message):
            tokenize(settings, str(folder), tmp_path / "s", tokenizer=str(tokenizer))

    refused(tmp_path / "nowhere", "not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "cannot be loaded")
    refused(models["videomae"], "the model in .* has 8.*set tokens.patch_size=8", patch_size=16)
    refused(models["videomae"], "set tokens.n_frames=4", n_frames=8)
    bert = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
    )
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "a bert model")
    assert not (tmp_path / "s").exists()


def test_both_commands_end_to_end(
    models: dict[str, Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = CommandLine(monkeypatch, capsys)
    store, geometry = tmp_path / "s", [word for word in TINY if word.startswith("tokens.")]
    code, printed = run(
        "tokenize", folder, "--out", store, "--recipe", "oskar-tiny", "--tokenizer", models["videomae"], "--views", 2,
        "store.workers=0", *geometry,
    )  # fmt: skip
    assert code == 0, printed
    assert "3 clips in 2 views" in printed
    code, printed = run(
        "pretrain", "oskar-tiny", "--data", store, "--out", tmp_path / "run", *TINY, 'tokens.modalities=["video"]',
        f"tokens.video_width={WIDTH}",
    )  # fmt: skip
    assert code == 0, printed
    assert len(records(tmp_path / "run")) == 3
