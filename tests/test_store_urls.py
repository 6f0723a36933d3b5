"""Stores behind a URL: shards are fetched, checked, kept in a folder of bounded size, and named when they are bad."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import shrunk, video_folder

from oskar.config import Config
from oskar.data.open import open_training
from oskar.data.order import InBlocks
from oskar.data.reader import TrainingDraw
from oskar.data.store.settings import StoreConfig, TokenizeConfig
from oskar.data.store.write import tokenize
from oskar.errors import InputError
from oskar.masking.packing import build_batch

fsspec = pytest.importorskip("fsspec")
N_CLIPS = 10


@pytest.fixture(scope="module")
def config() -> Config:
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, n_frames=4, modalities=("video",))
    return replace(config, tokens=tokens, data=replace(config.data, captions="none"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """Ten clips in five shards."""
    base = tmp_path_factory.mktemp("store")
    folder = video_folder(base / "v", N_CLIPS)
    bytes_of_two = 2 * (32 * (384 + 5) + 4 * 2 * 4 * 55 + 4)
    settings = StoreConfig(workers=0, shard_mib=bytes_of_two / 2**20)
    tokenize(TokenizeConfig(tokens=config.tokens, clip=config.clip, store=settings), str(folder), base / "store")
    return base / "store"


def url_of(store: Path, kind: str) -> str:
    """The store behind ``file://``, or a copy of it in fsspec's memory."""
    if kind == "file":
        return store.as_uri()
    memory = fsspec.filesystem("memory")
    for path in store.rglob("*.*"):
        memory.pipe(f"/{store.parent.name}/{path.relative_to(store)}", path.read_bytes())
    return f"memory://{store.parent.name}"


def cached(config: Config, folder: Path, *, shards: float = 100.0) -> Config:
    """A configuration whose cache holds so many shards."""
    gib = shards * 35_000 / 2**30
    return config.with_overrides([f"data.cache_dir={folder}", f"data.cache_dir_gib={gib}"])


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_batches_equal_those_of_the_folder(kind: str, store: Path, config: Config, tmp_path: Path) -> None:
    remote = open_training([url_of(store, kind)], cached(config, tmp_path / "cache")).reader
    local = open_training([str(store)], config).reader
    order, draw = [7, 2, 0, 9], TrainingDraw(0, 1)
    ours, theirs = (reader.read(order, draw).clips for reader in (remote, local))
    assert ours is not None
    assert theirs is not None
    a, b = (build_batch(clips, config, 1).views[0].visible for clips in (ours, theirs))
    assert torch.equal(a.segments, b.segments)
    assert torch.equal(a.tokens["video"].values, b.tokens["video"].values)
    assert isinstance(remote, InBlocks)
    assert remote.blocks == (2,) * 5
    assert len(list((tmp_path / "cache").iterdir())) == 1 + 4  # the table, and the shards of these clips


def test_the_cache_is_bounded(store: Path, config: Config, tmp_path: Path) -> None:
    reader = open_training([url_of(store, "file")], cached(config, tmp_path / "cache", shards=3)).reader
    for i in range(N_CLIPS):
        clips = reader.read([i], TrainingDraw(0, 0)).clips
        assert clips is not None
        build_batch(clips, config, 0)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 3 * 35_000


def copy_to_memory(store: Path, name: str) -> str:
    memory = fsspec.filesystem("memory")
    for path in store.rglob("*.*"):
        memory.pipe(f"/{name}/{path.relative_to(store)}", path.read_bytes())
    return f"memory://{name}"


@pytest.mark.parametrize("damage", ["missing", "changed", "truncated"])
def test_a_bad_shard_is_named_and_not_kept(damage: str, store: Path, config: Config, tmp_path: Path) -> None:
    url = copy_to_memory(store, damage)
    memory = fsspec.filesystem("memory")
    path = f"/{damage}/shards/shard-000003.safetensors"
    data = memory.cat(path)
    memory.rm(path)
    if damage != "missing":
        memory.pipe(path, data[:-1] if damage == "truncated" else data[:5000] + b"?" + data[5001:])
    read = open_training([url], cached(config, tmp_path / "cache")).reader.read(range(N_CLIPS), TrainingDraw(0, 0))
    assert sorted(name for name, _ in read.bad) == ["v/v6", "v/v7"]
    assert all("shard-000003.safetensors" in reason for _, reason in read.bad)
    assert read.clips is not None
    assert len(read.clips) == N_CLIPS - 2
    assert len(list((tmp_path / "cache").iterdir())) == 1 + 4


def test_a_damaged_file_in_the_cache_is_fetched_again(store: Path, config: Config, tmp_path: Path) -> None:
    settings = cached(config, tmp_path / "cache")
    open_training([url_of(store, "file")], settings).reader.read([0], TrainingDraw(0, 0))
    largest = max((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    read = open_training([url_of(store, "file")], settings).reader.read([0], TrainingDraw(0, 0))
    assert read.bad == ()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///nowhere/at/all", r"file:///nowhere/at/all/store\.json: cannot be read"),
        ("nosuchprotocol://bucket/store", "nosuchprotocol"),
        ("memory://nothing-here", r"memory://nothing-here/store\.json: cannot be read"),
    ],
)
def test_urls_without_a_store_are_refused(url: str, message: str, config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        open_training([url], cached(config, tmp_path / "cache"))


def test_a_url_needs_a_cache(store: Path, config: Config) -> None:
    with pytest.raises(InputError, match=r"set data\.cache_dir to a folder"):
        open_training([store.as_uri()], config)
