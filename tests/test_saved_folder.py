"""Folders to hand on: the same vectors wherever the weights come from, and mismatches that are named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from embedded import CAPTIONS, trained_run
from safetensors.torch import load_file, save_file

from oskar.embedding.loaded import LoadedModel, load
from oskar.errors import InputError, StoppedRunError
from oskar.sharing import saved
from oskar.sharing.preprocessing import preprocessing
from oskar.sharing.saved import from_pretrained
from oskar.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="session", params=["shared", "each", "none"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mixed_data: Path) -> Path:
    """Runs with one momentum encoder for all modalities, with one for each, and with none."""
    settings = {
        "shared": ("momentum.final=0.9",),
        "each": ("momentum.skeleton=0.5", "momentum.final=null"),
        "none": ("target.space=input", "target.centre=false", "momentum.video=null", "momentum.skeleton=null",
                 "momentum.text=null", "momentum.final=null"),
    }  # fmt: skip
    return trained_run(tmp_path_factory.mktemp("saved") / request.param, mixed_data, *settings[request.param])


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    load(run).save_pretrained(tmp_path / "folder", licence="cc-by-4.0")
    return tmp_path / "folder"


def vectors(model: LoadedModel, mixed_data: Path) -> dict[str, torch.Tensor]:
    found = {name: model.embed(mixed_data, name).vectors for name in ("video", "skeleton", "fused")}
    return found | {"text": model.embed(list(CAPTIONS), "text").vectors}


def test_run_encoder_checkpoint_and_folder_embed_alike(
    run: Path, folder: Path, mixed_data: Path, tmp_path: Path
) -> None:
    model = load(run)
    wanted = vectors(model, mixed_data)
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    for copy in (folder, checkpoint):  # alone, without the run around them
        moved = shutil.copytree(copy, tmp_path / f"moved {copy.name}")
        other = load(moved)
        for name, found in vectors(other, mixed_data).items():
            assert torch.equal(found, wanted[name]), (copy.name, name)
        for name in ("video", "fused"):
            assert other.embed(mixed_data, name).header == model.embed(mixed_data, name).header  # type: ignore[arg-type]
    load(folder).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert torch.equal(load(run / "encoder").embed(mixed_data).vectors, wanted["video"])


def test_an_encoder_folder_alone_cannot_fuse(run: Path, mixed_data: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run / "encoder", tmp_path / "encoder")
    if run.name == "none":
        assert load(alone).embed(mixed_data, "fused").header.modality == "fused"
        return
    with pytest.raises(InputError, match=r"holds no weights of the fusion encoder.*save_pretrained"):
        load(alone).embed(mixed_data, "fused")


def test_the_folder_has_what_hubs_expect(folder: Path, mixed_data: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "preprocessing.json", "words.json", "training.json", "README.md",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["format"], config["version"]) == ("oskar", "oskar-pretrained", 1)
    card = (folder / "README.md").read_text()
    front = card.split("---")[1]
    assert 'license: "cc-by-4.0"' in front
    assert "library_name: oskar" in front
    assert "| data | set |" in card
    assert "| steps | 2 |" in card
    assert f"| SHA-256 of the encoders | {config['encoder_sha256']} |" in card
    facts = json.loads((folder / "preprocessing.json").read_text())
    assert facts["n_frames"] == 4
    assert (facts["video"]["resize_shorter_side"], facts["video"]["resize_crop"]) == (46, 32)
    assert len(facts["skeleton"]["joints"]) == 17


def test_the_card_shows_results_beside_their_controls(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    evaluation = copied / "evaluations/x"
    evaluation.mkdir(parents=True)
    values = {
        "task": "action-recognition", "modality": "video", "protocol": "frozen", "data": ["set"], "split": "test",
        "n_expected": 4, "n_evaluated": 3, "seed": 7, "bad_clips": {"c": "broken"},
        "metrics": {"linear": {"top1": 25.125}, "pipe|d": 1},
        "controls": {"random_weights": {"linear": {"top1": 50.0}}, "chance": {"linear": {"top1": 12.5}}},
    }  # fmt: skip
    (evaluation / "summary.json").write_text(json.dumps(values))
    load(copied).save_pretrained(tmp_path / "folder")
    card = (tmp_path / "folder/README.md").read_text()
    assert "### action-recognition, video, frozen" in card
    assert "set, split test, 3 of 4 items, seed 7." in card
    assert "| metric | value | random_weights | chance |" in card
    assert "| linear.top1 | 25.12 | 50 | 12.5 |" in card
    assert "| pipe\\|d | 1 |" in card
    assert "Not stated: whoever wrote this folder gave none." in card
    assert "bad_clips" not in (tmp_path / "folder/training.json").read_text()
    load(tmp_path / "folder").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/README.md").read_text() == card
    (evaluation / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary.json: not JSON"):
        load(copied).save_pretrained(tmp_path / "third")


def rewritten(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Change weights, and the hash that the folder states of them."""
    tensors = load_file(folder / "model.safetensors") | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["weights_sha256"] = saved.sha256_of(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def test_a_mismatch_is_a_table_and_nothing_is_loaded(folder: Path) -> None:
    name = next(key for key in load_file(folder / "model.safetensors") if key.endswith("blocks.0.mlp.output.weight"))
    rewritten(folder, {name: None, "encoder.more": torch.zeros(2)})
    with pytest.raises(InputError) as caught:
        from_pretrained(folder)
    printed = str(caught.value)
    assert "model.safetensors does not fit" in printed
    assert f"1 missing:\n  {name}: found nothing, wanted float32 [32, 85]" in printed
    assert "1 unexpected:\n  encoder.more: found float32 [2], wanted nothing" in printed


def test_parts_load_only_where_they_are_named(folder: Path) -> None:
    """Other pictures have another table of positions: all else can be kept, by name."""
    with pytest.raises(InputError) as caught:
        from_pretrained(folder, overrides=["tokens.resolution=64"])
    assert "of another shape or type:\n  encoder." in str(caught.value)
    assert "video.table: found float32 [32, 32], wanted float32 [128, 32]" in str(caught.value)
    whole = from_pretrained(folder).transfer.encoder("video").state_dict()
    part = from_pretrained(folder, overrides=["tokens.resolution=64"], keys=["*.blocks.*", "*.norm.*"])
    again = from_pretrained(folder, overrides=["tokens.resolution=64"], keys=["*.blocks.*", "*.norm.*"])
    for name, tensor in part.transfer.encoder("video").state_dict().items():
        assert torch.equal(tensor, again.transfer.encoder("video").state_dict()[name])
        is_kept = name.startswith(("blocks.", "norm."))
        assert (tensor.shape == whole[name].shape and torch.equal(tensor, whole[name])) == is_kept, name
    assert part.transfer.sha256 != from_pretrained(folder).transfer.sha256
    for keys, named in (
        (["*.block.*"], r"key '\*.block.\*' names no weight of the file"),
        (["*.video.table"], "of another shape or type"),
    ):
        with pytest.raises(InputError, match=named):
            from_pretrained(folder, overrides=["tokens.resolution=64"], keys=keys)
    with pytest.raises(InputError, match=r"names no weight of the model"):
        from_pretrained(folder, overrides=["model.n_blocks=1", "model.mlp=gelu"], keys=["*gate_value*"])


def test_one_changed_weight_is_noticed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[next(name for name in tensors if name.endswith("norm.weight"))] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors is truncated or changed: sha256"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, "model.safetensors is missing|holds no encoder"),
        ("model.safetensors", b"\x00" * 9, "model.safetensors is truncated or changed: sha256"),
        ("config.json", None, "holds no config.json"),
        ("config.json", b"{", "config.json: not JSON"),
        ("config.json", b"[]", "config.json is not the configuration of a folder"),
        ("config.json", b'{"format": "oskar-pretrained", "version": 9}', "version = 9, this oskar reads 1"),
        (
            "config.json",
            b'{"format": "oskar-pretrained", "version": 1, "extra": 1}',
            "unknown key 'extra'|encoder_sha256",
        ),
        ("weights.pt", b"PK\x03\x04", "is a pickle, or an archive that may hold one, and is never loaded"),
    ],
)
def test_damage_is_named(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_folder_is_whole_or_not_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("x")
    with pytest.raises(InputError, match=r"mine is there and not empty\. Fix: name a new folder"):
        model.save_pretrained(tmp_path / "mine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saved, "put_in_place", full)
        with pytest.raises(StoppedRunError, match="new could not be written"):
            model.save_pretrained(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_hash_of_preprocessing_follows_what_clips_become(run: Path) -> None:
    pretrained = load(run).pretrained
    first = pretrained.preprocessing_sha256
    facts = preprocessing(pretrained.config, pretrained.words)
    assert facts["text"]["vocabulary_sha256"] is not None
    other = pretrained.config.with_overrides(["tokens.n_frames=8"])
    assert preprocessing(other, pretrained.words) != facts
    assert preprocessing(pretrained.config, None) != facts
    for changed in (
        "tokens.resolution=64", "tokens.patch_size=16", "tokens.tubelet_frames=1", "tokens.min_contrast=0.1",
        "tokens.n_people=3", "tokens.segment_frames=2", "tokens.min_confidence=0.4", "tokens.joint_frame=clip",
        "tokens.n_words=9", "clip.crop_scale=[0.3, 1.0]", "clip.projection=pinhole", "clip.focal_lengths=2",
        "clip.box_margin=0.2",
    ):  # fmt: skip
        assert preprocessing(pretrained.config.with_overrides([changed]), pretrained.words) != facts, changed
    assert preprocessing(pretrained.config.with_overrides(["train.lr=1"]), pretrained.words) == facts
    assert first == load(run).pretrained.preprocessing_sha256


def test_a_checkpoint_of_before_they_held_their_configuration(run: Path, tmp_path: Path) -> None:
    newest = latest_checkpoint(run)
    assert newest is not None
    tensors, state = load_checkpoint(newest)
    old = save_checkpoint(tmp_path, 2, tensors, state)
    with pytest.raises(InputError, match=r"step-00000002 holds no config.json: it is of a task, or of an older oskar"):
        load(old)
