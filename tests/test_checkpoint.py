"""Checkpoint and encoder folders: exact round trips; truncated, damaged and foreign files; pickles."""

import contextlib
import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from oskar.errors import InputError
from oskar.train.checkpoint import (
    encoder_sha256,
    latest_checkpoint,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_encoder,
)
from oskar.train.sealed import refuse_pickle


def tensors_of(step: int) -> dict[str, Tensor]:
    """A different, known content per step."""
    generator = torch.Generator().manual_seed(step)
    return {"model/a": torch.randn(64, 64, generator=generator), "optimizer/a/step": torch.tensor(float(step))}


def is_whole(path: Path) -> int:
    """The step of a checkpoint that loads and holds what its step should."""
    tensors, state = load_checkpoint(path)
    step = int(state["step"])
    assert tensors.keys() == tensors_of(step).keys()
    assert all(torch.equal(tensors[name], value) for name, value in tensors_of(step).items())
    assert state["note"] == f"step {step}"
    return step


def save(run: Path, step: int) -> Path:
    return save_checkpoint(run, step, tensors_of(step), {"note": f"step {step}"})


# What is on the disk


def test_the_files_are_safetensors_and_json_with_their_sums(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12, {"w": torch.arange(6.0).view(2, 3)}, {"clips": [1, 2], "seed": 0})
    assert path == tmp_path / "checkpoints" / "step-00000012"
    assert {p.name for p in path.iterdir()} == {"tensors.safetensors", "state.json", "manifest.json"}
    assert [p.name for p in path.parent.iterdir()] == ["step-00000012"]
    assert json.loads((path / "state.json").read_text()) == {"clips": [1, 2], "seed": 0, "step": 12}
    with safe_open(path / "tensors.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("w"), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    data = (path / "tensors.safetensors").read_bytes()
    entry = json.loads((path / "manifest.json").read_text())["files"]["tensors.safetensors"]
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert len({p.stat().st_mode for p in path.iterdir()}) == 1


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "strided": base.t(),
        "row": base[1],
        "tied": base,
        "tied_again": base,
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
        "bfloat16": torch.randn(5).bfloat16(),
        "not_finite": torch.tensor([torch.nan, torch.inf, -0.0]),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "bool": torch.tensor([True, False]),
        "gradient": torch.ones(2, requires_grad=True),
    }
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path, 0, tensors, {}))
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        bits = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (loaded[name], value) if t.dim()]
        assert torch.equal(*bits) if bits else loaded[name] == value


def test_everything_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("what is flushed cannot be seen here")
    events: list[tuple[str, str]] = []
    rename = Path.rename

    def seen_fsync(descriptor: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    def seen_rename(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    save(tmp_path, 1)
    files = {("fsync", name) for name in ("state.json", "tensors.safetensors", "manifest.json")}
    assert set(events[:3]) == files
    assert events[3:] == [("fsync", ".tmp-step-00000001"), ("rename", "step-00000001"), ("fsync", "checkpoints")]


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 10, 99_999_999, 100_000_000):
        save(tmp_path, step)
        assert is_whole(latest_checkpoint(tmp_path) or tmp_path) == step
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-100000000", "step-99999999"]


def test_state_that_is_not_json_leaves_nothing_behind(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(ValueError):
        save_checkpoint(tmp_path, 2, tensors_of(2), {"loss": float("nan")})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_an_encoder_is_replaced_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    for value in (1.0, 2.0):
        save_encoder(folder, {"w": torch.tensor([value])}, '{"recipe": "x"}', {"preprocessing.json": "{}"})
    tensors, texts = load_encoder(folder)
    assert tensors["w"].tolist() == [2.0]
    assert texts == {"config.json": '{"recipe": "x"}', "preprocessing.json": "{}"}
    assert encoder_sha256(folder) == hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]
    (folder / "config.json").write_text('{"recipe": "y"}')
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        load_encoder(folder)


# Damaged and foreign files


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_truncated_file_is_named_with_the_fix(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    whole = (path / name).read_bytes()
    for n in (0, 1, 8, len(whole) // 2, len(whole) - 2):
        (path / name).write_bytes(whole[:n])
        with pytest.raises(InputError) as error:
            load_checkpoint(path)
        assert str(path / name) in str(error.value)
        assert "delete this folder, and --resume goes on from step-00000001" in str(error.value)
    (path / name).unlink()
    with pytest.raises(InputError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_any_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 2)
    whole = (path / name).read_bytes()
    draws = random.Random(0)
    for _ in range(100):
        position, bit = draws.randrange(len(whole)), draws.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        (path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name} is (damaged|a pickle)"):
            load_checkpoint(path)
    (path / name).write_bytes(whole)
    assert is_whole(path) == 2


def test_a_flipped_bit_in_the_manifest_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    file = path / "manifest.json"
    whole = file.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7
        file.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert is_whole(path) == 2


class RunsCode:
    """Fails the test if anything unpickles it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_in_place_of_the_tensors_is_never_loaded(tmp_path: Path, protocol: int) -> None:
    path = save(tmp_path, 1)
    (path / "tensors.safetensors").write_bytes(pickle.dumps(RunsCode(), protocol=protocol))
    with pytest.raises(InputError, match=r"tensors\.safetensors is a pickle.*safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights", "last.ckpt"])
def test_a_torch_file_is_named_and_never_loaded(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    torch.save({"w": torch.zeros(2)}, path / name)
    for asked in (path, path / name):
        with pytest.raises(InputError, match=f"{name} is a pickle"):
            load_checkpoint(asked)
    (path / name).unlink()
    assert is_whole(path) == 1


def test_a_safetensors_header_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    # headers of 0x0280 to 0x0580 bytes: a file then starts with the two bytes of a pickle
    starts = set()
    for n in range(560, 1400, 4):
        save_file({"x" * n: torch.zeros(1)}, tmp_path / "tensors.safetensors")
        starts.add((tmp_path / "tensors.safetensors").read_bytes()[:2])
        refuse_pickle(tmp_path)
    assert {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"} <= starts


def test_foreign_folders_and_versions_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is no checkpoint folder"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is no whole checkpoint folder"):
        load_checkpoint(tmp_path / "empty")
    save_encoder(tmp_path / "encoder", {}, "{}")
    with pytest.raises(InputError, match="format = 'oskar-encoder', wanted 'oskar-checkpoint'"):
        load_checkpoint(tmp_path / "encoder")
    path = save(tmp_path, 1)
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"version": 1', '"version": 7'))
    with pytest.raises(InputError, match="version = 7"):
        load_checkpoint(path)
