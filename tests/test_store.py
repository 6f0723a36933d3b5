"""Token stores: batches equal those of decoding, only chosen rows are read, damage is named, kills leave no half."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import made_clips
from runs import shrunk, video_folder
from safetensors.numpy import load_file
from test_stream import flat

from oskar.clip import ClipBatch
from oskar.config import Config, TokensConfig
from oskar.data import people_reader
from oskar.data.open import open_split, open_training
from oskar.data.pooled_reader import PooledReader
from oskar.data.reader import EvaluationWindow, ReadClips, TrainingDraw
from oskar.data.store import shards as shards_module
from oskar.data.store.arrays_file import ArraysFile, Column, write_arrays
from oskar.data.store.reader import StoreReader
from oskar.data.store.settings import StoreConfig, TokenizeConfig
from oskar.data.store.tokenizers import RawTubelets
from oskar.data.store.write import tokenize
from oskar.data.stream import LoadedStep, StepDataset
from oskar.errors import InputError, StoppedRunError
from oskar.masking.packing import Batch, build_batch
from oskar.tokens.video import VideoTokens

CAPTIONS = ("a man waves", "a woman kicks a ball", "they sit down")


@pytest.fixture(autouse=True)
def _few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_reader, "_N_CAPTIONS", 64)  # a small vocabulary is enough


@pytest.fixture(scope="module")
def config() -> Config:
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, n_frames=4, segment_frames=2)
    return replace(config, tokens=tokens, clip=replace(config.clip, span_share=(0.3, 0.6), crop_scale=(0.3, 0.9)))


def full_folder(folder: Path, n: int = 5) -> Path:
    """Videos, joints in pixels and written captions; the last clip is a caption alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        joints = np.random.default_rng(i).uniform(2, 30, (8, 17, 2)).astype(np.float32)
        np.savez(folder / f"v{i}.npz", joints2d=joints, layout=np.array("COCO-17"))
    video_folder(folder, n, joints_path=lambda i: f"v{i}.npz" if i != 1 else "", caption=lambda i: CAPTIONS[i % 3])
    with (folder / "index.csv").open("a") as file:
        file.write("words,,,a person stands\n")
    return folder


def settings_of(config: Config, *, views: int = 1, shard_mib: float = 256.0) -> TokenizeConfig:
    store = StoreConfig(views=views, seed=11, shard_mib=shard_mib, workers=0, max_bad_share=0.5)
    return TokenizeConfig(tokens=config.tokens, clip=config.clip, store=store)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_folder(tmp_path_factory.mktemp("data") / "full")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, folder: Path, config: Config) -> Path:
    """Two views of every clip, in shards of two clips."""
    out = tmp_path_factory.mktemp("stores") / "store"
    bytes_of_two = 2 * 2 * (32 * (2 * 3 * 64 + 5) + 4 * 2 * 4 * 55 + 4)
    tokenize(settings_of(config, views=2, shard_mib=bytes_of_two / 2**20), str(folder), out)
    return out


def read(reader: Any, indices: Sequence[int], draw: Any) -> ClipBatch:
    result: ReadClips = reader.read(indices, draw)
    assert result.bad == ()
    assert result.clips is not None
    return result.clips


def tensors(batch: Batch) -> list[torch.Tensor]:
    return flat(LoadedStep([batch]))


def test_batches_equal_those_of_decoding_the_same_view(store: Path, folder: Path, config: Config) -> None:
    """Values, masks, slots and boxes, bit for bit, for every clip and view."""
    stored, decoded = open_training([str(store)], config), open_training([str(folder)], config)
    assert stored.names == decoded.names == ("full",)
    assert [stored.reader.clip_id(i) for i in range(6)] == [decoded.reader.clip_id(i) for i in range(6)]
    seen = set()
    for step in range(6):
        for i in range(6):
            ours = build_batch(read(stored.reader, [i], TrainingDraw(0, step)), config, step)
            views = [build_batch(read(decoded.reader, [i], TrainingDraw(11, view)), config, step) for view in (0, 1)]
            same = [
                len(tensors(view)) == len(tensors(ours))
                and all(torch.equal(a, b) for a, b in zip(tensors(ours), tensors(view), strict=True))
                for view in views
            ]
            assert any(same)
            seen |= {(i, view) for view in (0, 1) if same[view]}
    assert seen == {(i, view) for i in range(6) for view in (0, 1)}


def test_a_batch_of_stored_clips_is_its_clips_together(store: Path, config: Config) -> None:
    reader = open_training([str(store)], config).reader
    draw, order = TrainingDraw(0, 3), [4, 0, 5, 2]
    together = build_batch(read(reader, order, draw), config, 3).views[0].visible
    n_slots = together.segments.shape[1]
    for row, i in enumerate(order):
        alone = build_batch(read(reader, [i], draw), config, 3).views[0].visible
        assert torch.equal(together.segments[row], alone.segments[0])
        for name, tokens in alone.tokens.items():
            is_here = together.tokens[name].slots // n_slots == row
            assert torch.equal(together.tokens[name].values[is_here], tokens.values)


def test_contrast_decides_as_it_does_for_frames(tmp_path: Path, config: Config) -> None:
    config = replace(config, tokens=replace(config.tokens, modalities=("video",)))
    folder = video_folder(tmp_path / "v", 3)
    tokenize(settings_of(config), str(folder), tmp_path / "store")
    frames = read(open_training([str(folder)], config).reader, [0, 1, 2], TrainingDraw(11, 0)).frames
    assert frames is not None
    pixels = RawTubelets(config.tokens).tokens(frames)
    middle = float(np.median(np.ptp(pixels, axis=-1))) / 255.0
    config = replace(config, tokens=replace(config.tokens, min_contrast=middle))
    stored, decoded = open_training([str(tmp_path / "store")], config), open_training([str(folder)], config)
    ours = read(stored.reader, [0, 1, 2], TrainingDraw(0, 5))
    theirs = read(decoded.reader, [0, 1, 2], TrainingDraw(11, 0))
    assert ours.tubelets is not None
    assert theirs.frames is not None
    expected = VideoTokens(theirs.frames, torch.ones(3, dtype=torch.bool), config.tokens).is_valid
    assert torch.equal(ours.tubelets.is_valid, expected)
    assert 0 < int(expected.sum()) < expected.numel()


def test_tubes_lie_together() -> None:
    """Against slicing by hand: place, then step, then the values in the order frame, channel, row, column."""
    tokens = TokensConfig(n_frames=4, resolution=8, patch_size=4, modalities=("video",))
    clips = made_clips(2, tokens)
    assert clips.frames is not None
    cut = RawTubelets(tokens).tokens(clips.frames)
    assert cut.shape == (2, 4, 2, 96)
    for view in range(2):
        for row in range(2):
            for column in range(2):
                for step in range(2):
                    part = clips.frames[
                        view, 2 * step : 2 * step + 2, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4
                    ]
                    assert cut[view, 2 * row + column, step].tolist() == part.flatten().tolist()


def test_other_readers_of_safetensors_open_the_files(store: Path, config: Config) -> None:
    index = json.loads((store / "store.json").read_text())
    assert [shard["n_clips"] for shard in index["shards"]] == [2, 2, 2]
    shard = load_file(store / index["shards"][0]["file"])
    assert shard["video"].shape == (2, 2, 16, 2, 384)
    assert shard["joints"].shape == (1, 2, 2, 17, 4, 3)  # the second clip has no joints
    table = load_file(store / "clips.safetensors")
    assert table["ids_bytes"].tobytes().decode() == "v0v1v2v3v4words"
    assert table["video"].tolist() == [0, 1, 0, 1, 0, -1]
    assert table["skeleton"].tolist() == [0, -1, 0, 1, 0, -1]
    with (store / index["shards"][0]["file"]).open("rb") as file:
        assert (8 + int.from_bytes(file.read(8), "little")) % 4096 == 0  # the tubes start on a page


def test_only_chosen_rows_are_read(store: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_read: list[int] = []
    original = shards_module.Shards.tokens

    def counting(self: Any, shard: int, rows: Any) -> Any:
        rows_read.append(len(rows))
        return original(self, shard, rows)

    monkeypatch.setattr(shards_module.Shards, "tokens", counting)
    clips = read(open_training([str(store)], config).reader, [0, 2, 3, 4], TrainingDraw(0, 0))
    assert rows_read == []
    batch = build_batch(clips, config, 0)
    view = batch.views[0]
    chosen = sum(len(packed.tokens["video"].values) for packed in (view.visible, view.target))
    assert sum(rows_read) == chosen < 4 * 32


def test_pooled_with_decoded_clips(store: Path, folder: Path, tmp_path: Path, config: Config) -> None:
    other = full_folder(tmp_path / "other", 3)
    reader = open_training([str(store), str(other), "people:4"], config).reader
    assert isinstance(reader, PooledReader)
    names = [reader.clip_id(i) for i in range(len(reader))]
    assert len(names) == len(set(names)) == 6 + 4 + 4
    order = [names.index(n) for n in ("other/v1", "full/v0", "full/v3", names[-1], "full/words", "other/words")]
    clips = read(reader, order, TrainingDraw(0, 4))
    batch = build_batch(clips, config, 4)
    for i in order:
        alone = build_batch(read(reader, [i], TrainingDraw(0, 4)), config, 4)
        row = batch.clip_ids.tolist().index(int(alone.clip_ids[0]))
        for packed, single in (
            (batch.views[0].visible, alone.views[0].visible),
            (batch.views[0].target, alone.views[0].target),
        ):
            assert torch.equal(packed.segments[row], single.segments[0])
            for name, tokens in single.tokens.items():
                is_here = packed.tokens[name].slots // packed.segments.shape[1] == row
                assert torch.equal(packed.tokens[name].values[is_here], tokens.values)


def test_names_of_pooled_stores_are_told_apart(store: Path, folder: Path, config: Config) -> None:
    opened = open_training([str(folder), str(store)], config)
    assert opened.names == ("full", "full~2")
    assert len({opened.reader.clip_id(i) for i in range(12)}) == 12


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokens.n_frames=8", "set tokens.n_frames=4"),
        ("tokens.patch_size=16", "set tokens.patch_size=8"),
        ("tokens.n_people=3", "set tokens.n_people=2"),
        ("tokens.video_width=32", "set tokens.video_width=null"),
        ("clip.crop_scale=[0.1, 1.0]", r"set clip.crop_scale=\[0.3,0.9\]"),
        ("data.split=test", "was made of split 'train'"),
    ],
)
def test_a_store_that_does_not_fit_is_refused(override: str, message: str, tmp_path: Path, config: Config) -> None:
    folder = video_folder(tmp_path / "v", 2, split=lambda i: "train")
    tokenize(settings_of(config), str(folder), tmp_path / "store")
    with pytest.raises(InputError, match=message):
        open_training([str(tmp_path / "store")], config.with_overrides([override, "data.captions=none"]))


def test_a_run_takes_its_split_of_a_store(tmp_path: Path, config: Config) -> None:
    folder = video_folder(
        tmp_path / "v", 5, split=lambda i: ("train", "test", "", "val", "train")[i], label=lambda i: "abcab"[i]
    )
    settings = settings_of(config)
    tokenize(replace(settings, store=replace(settings.store, split=None)), str(folder), tmp_path / "store")
    for split, expected in (("train", [0, 2, 4]), ("val", [2, 3]), ("test", [1, 2])):
        silent = config.with_overrides([f"data.split={split}", "data.captions=none"])
        reader = open_training([str(tmp_path / "store")], silent).reader
        assert [reader.clip_id(i) for i in range(len(reader))] == [f"v/v{i}" for i in expected]
        assert [reader.label(i) for i in range(len(reader))] == [(0, 1, 2, 0, 1)[i] for i in expected]
        clips = read(reader, range(len(reader)), TrainingDraw(0, 0))
        theirs = read(open_training([str(folder)], silent).reader, range(len(reader)), TrainingDraw(11, 0))
        assert torch.equal(clips.clip_ids, theirs.clip_ids)
        ours = tensors(build_batch(clips, silent, 0))
        assert all(torch.equal(a, b) for a, b in zip(ours, tensors(build_batch(theirs, silent, 0)), strict=True))
    tokenize(settings, str(folder), tmp_path / "train")
    with pytest.raises(InputError, match="was made of split 'train'"):
        open_training([str(tmp_path / "train")], replace(silent, data=replace(silent.data, split="val")))
    only_labelled = video_folder(tmp_path / "w", 2, split=lambda i: "train")
    tokenize(replace(settings, store=replace(settings.store, split=None)), str(only_labelled), tmp_path / "all")
    with pytest.raises(InputError, match="no clip of split 'other'"):
        open_training([str(tmp_path / "all")], replace(silent, data=replace(silent.data, split="other")))


def resident_mib() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not tell a process's memory in /proc")
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def test_pages_that_were_read_leave_the_process(tmp_path: Path) -> None:
    rows = np.zeros((64, 2**20), np.uint8)
    write_arrays(tmp_path / "a", {"rows": Column("U8", (2**20,), [rows])})
    file = ArraysFile(tmp_path / "a", (tmp_path / "a").stat().st_size)
    del rows
    before = resident_mib()
    assert int(file.arrays["rows"].max()) == 0
    held = resident_mib() - before
    file.forget_pages()
    assert held > 50
    assert resident_mib() - before < 10


@pytest.mark.parametrize(("which", "n_with_text"), [("written", 1), ("all", 3), ("none", 0)])
def test_which_captions_count_is_free_at_every_run(
    which: str, n_with_text: int, tmp_path: Path, config: Config
) -> None:
    folder = video_folder(
        tmp_path / "v", 4, caption=lambda i: f"number {i}" if i < 3 else "",
        caption_source=lambda i: "written" if i == 1 else "composed",
    )  # fmt: skip
    tokenize(settings_of(config), str(folder), tmp_path / "store")
    opened = open_training([str(tmp_path / "store")], config.with_overrides([f"data.captions={which}"]))
    clips = read(opened.reader, range(4), TrainingDraw(0, 0))
    has_text = [False] * 4 if clips.word_ids is None else (clips.word_ids >= 0).any(1).tolist()
    assert has_text == [which == "all" or (which == "written" and i == 1) for i in range(3)] + [False]
    assert sum(has_text) == n_with_text
    assert (opened.words is None) == (which == "none")
    if opened.words is not None:
        assert ('"0":' in opened.words.to_json()) == (which == "all")


def test_every_file_that_was_read_is_let_go(store: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: set[str] = set()
    monkeypatch.setattr(ArraysFile, "forget_pages", lambda file: let_go.add(file.path.name))
    clips = read(open_training([str(store)], config).reader, [0, 2], TrainingDraw(0, 0))
    assert "clips.safetensors" in let_go
    build_batch(clips, config, 0)
    assert let_go == {"clips.safetensors", "shard-000000.safetensors", "shard-000001.safetensors"}


def test_evaluation_is_refused(store: Path, config: Config) -> None:
    with pytest.raises(InputError, match="evaluate on the data it was made from"):
        open_split([str(store)], config, None, "test")
    reader = open_training([str(store)], config).reader
    with pytest.raises(InputError, match="evaluate on the data it was made from"):
        reader.read([0], EvaluationWindow())


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the store to damage."""
    for path in store.rglob("*.*"):
        target = tmp_path / "copy" / path.relative_to(store)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "copy"


def shard_files(store: Path) -> list[Path]:
    return sorted((store / "shards").glob("*.safetensors"))


def loaded(store: Path, config: Config, step: int) -> LoadedStep:
    reader = open_training([str(store)], config).reader
    data = StepDataset(
        reader, partial(_build, config), n_steps=step + 1, batch_size=6, accumulation=1, seed=config.train.seed
    )
    return data[step]


def _build(config: Config, clips: ClipBatch, step: int) -> Batch:
    return build_batch(clips, config, step)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "header"])
def test_a_broken_shard_is_named_and_its_clips_are_listed(damage: str, copy: Path, config: Config) -> None:
    path = shard_files(copy)[1]
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-9], "empty": b"", "header": data[:8] + b"x" * 60 + data[68:]}[damage])
    step = loaded(copy, config, 0)
    assert sorted(name for name, _ in step.bad) == ["full/v2", "full/v3"]
    for _, reason in step.bad:
        assert path.name in reason
        assert "Fix: " in reason
    assert len(step.parts[0]) == 4


def test_a_changed_byte_is_found_where_it_is_read(copy: Path, config: Config) -> None:
    path = shard_files(copy)[1]
    whole = load_file(path)["video"]
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    size = whole[0, 0].nbytes
    for view in range(2):  # every token of the first clip, both views
        for token in range(32):
            data[start + view * size + token * 384 + 100] ^= 1
    path.write_bytes(data)
    steps = [loaded(copy, config, step) for step in range(3)]
    assert {name for step in steps for name, _ in step.bad} == {"full/v2"}
    assert all(path.name in reason and "checksum" in reason for step in steps for _, reason in step.bad)
    assert all(len(step.parts[0]) == 5 for step in steps if step.bad)
    joints = bytearray(shard_files(copy)[0].read_bytes())
    place = joints.find(load_file(shard_files(copy)[0])["joints"][0, 0].tobytes())
    joints[place + 5] ^= 1
    joints[place + load_file(shard_files(copy)[0])["joints"][0, 0].nbytes + 5] ^= 1
    shard_files(copy)[0].write_bytes(joints)
    assert "full/v0" in {name for name, _ in loaded(copy, config, 0).bad}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not the index of a token store"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 2; this oskar reads 'oskar-store'"),
        (lambda text: text.replace('"seed"', '"sead": 1, "seed"'), "unknown key 'sead'"),
    ],
)
def test_a_wrong_index_is_refused(change: Any, message: str, copy: Path, config: Config) -> None:
    path = copy / "store.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        open_training([str(copy)], config)


def test_a_table_that_was_cut_short_is_refused(copy: Path, config: Config) -> None:
    path = copy / "clips.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"clips\.safetensors: missing or damaged"):
        open_training([str(copy)], config)


def test_clips_that_cannot_be_read_are_listed_in_the_index(tmp_path: Path, config: Config) -> None:
    folder = video_folder(tmp_path / "v", 4)
    (folder / "v2.mkv").write_bytes(b"not a video")
    index = tokenize(settings_of(config), str(folder), tmp_path / "store")
    assert [name for name, _ in index.bad] == ["v2"]
    assert "v2.mkv" in index.bad[0][1]
    opened = open_training([str(tmp_path / "store")], replace(config, data=replace(config.data, captions="none")))
    assert (len(opened.reader), opened.n_left_out) == (3, 1)
    strict = settings_of(config)
    strict = replace(strict, store=replace(strict.store, max_bad_share=0.1))
    with pytest.raises(StoppedRunError, match=r"1 clips could not be read, 0 are allowed .*v2"):
        tokenize(strict, str(folder), tmp_path / "other")


def test_every_row_of_a_store_is_a_clip_of_a_reader(store: Path, config: Config) -> None:
    reader = open_training([str(store)], config).reader
    assert isinstance(reader, StoreReader)
    assert reader.blocks == ()
    assert {reader.label(i) for i in range(6)} == {-1}
