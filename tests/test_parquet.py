"""Parquet manifests: the rows of the same CSV file, columns mapped from a file, faults found at the clip."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import noise_video, packed_folder, shrunk, video_folder

from oskar.config import Config
from oskar.data import parquet
from oskar.data.folder_reader import ColumnReader
from oskar.data.manifest import read_manifest
from oskar.data.open import open_split, open_training
from oskar.data.reader import TrainingDraw
from oskar.errors import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    return replace(config, tokens=replace(config.tokens, n_frames=4), data=replace(config.data, captions="all"))


def to_parquet(folder: Path, **columns: Any) -> Path:
    """Turn a folder's index.csv into index.parquet; whole numbers become such, ``columns`` replace others."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table: dict[str, Any] = {}
    for name in rows[0]:
        cells = [row[name] or None for row in rows]
        is_number = all(cell is None or cell.isdigit() for cell in cells) and any(cells)
        table[name] = [None if cell is None else int(cell) for cell in cells] if is_number else cells
    pq.write_table(pa.table(table | columns), folder / "index.parquet")
    (folder / "index.csv").unlink()
    return folder


@pytest.mark.parametrize("name", ["jhmdb_masks", "nw_ucla"])
def test_real_rows_equal_those_of_the_csv_file(name: str, tmp_path: Path, config: Config) -> None:
    if not (DATA_DIR / name).is_dir():
        pytest.skip(f"real data not there: {name}")
    folder = tmp_path / name
    folder.mkdir()
    for path in (DATA_DIR / name).rglob("*"):  # a manifest may not point outside its folder
        target = folder / path.relative_to(DATA_DIR / name)
        target.mkdir() if path.is_dir() else target.hardlink_to(path) if _same_disk(
            path, folder
        ) else target.write_bytes(path.read_bytes())
    expected = read_manifest(folder)
    to_parquet(folder)
    assert read_manifest(folder) == expected
    opened = open_training([str(folder)], config)
    reader = opened.reader
    assert isinstance(reader, ColumnReader)
    rows = {f"{name}/{row.clip_id}": row for row in expected.rows if row.split in ("train", None)}
    ids = [reader.clip_id(i) for i in range(len(reader))]
    assert ids == list(rows)
    for i in range(0, len(reader), 37):
        ours, theirs = reader.rows[i], rows[ids[i]]
        for field in (
            "video_path",
            "joints_path",
            "packed_rows",
            "has_joints",
            "caption",
            "width",
            "height",
        ):
            assert getattr(ours, field) == getattr(theirs, field)


def _same_disk(path: Path, folder: Path) -> bool:
    return path.stat().st_dev == folder.stat().st_dev


def test_clips_equal_those_of_the_csv_file(tmp_path: Path, config: Config) -> None:
    folder = packed_folder(tmp_path / "joints", 8)
    draw = TrainingDraw(0, 3)
    before = open_training([str(folder)], config).reader
    expected = before.read(range(len(before)), draw).clips
    opened = open_training([str(to_parquet(folder))], config)
    found = opened.reader.read(range(len(before)), draw).clips
    assert expected is not None
    assert found is not None
    assert expected.joints is not None
    assert found.joints is not None
    assert torch.equal(found.clip_ids, expected.clip_ids)
    assert torch.equal(found.joints, expected.joints)
    assert opened.names == ("joints",)
    assert opened.n_left_out == 4  # those of the test split
    assert len(open_split([str(folder)], config, None, "test").reader) == 4


def test_rows_without_the_recipes_modalities_are_left_out(tmp_path: Path, config: Config) -> None:
    folder = to_parquet(
        video_folder(tmp_path / "v", 4), path=["v0.mkv", None, "v2.mkv", "v3.mkv"], caption=["a", "b", None, ""],
    )  # fmt: skip
    assert len(open_training([str(folder)], config).reader) == 4
    silent = config.with_overrides(["data.captions=none"])
    opened = open_training([str(folder)], silent)
    assert [opened.reader.clip_id(i) for i in range(len(opened.reader))] == ["v/v0", "v/v2", "v/v3"]
    assert opened.n_left_out == 1


def test_rows_of_another_split_are_left_out(tmp_path: Path, config: Config) -> None:
    silent = config.with_overrides(["data.captions=none"])
    folder = to_parquet(video_folder(tmp_path / "v", 5), split=["train", None, "test", "", "train"])
    opened = open_training([str(folder)], silent)
    assert [opened.reader.clip_id(i) for i in range(len(opened.reader))] == ["v/v0", "v/v1", "v/v3", "v/v4"]
    other = open_training([str(folder)], silent.with_overrides(["data.split=test"]))
    assert [other.reader.clip_id(i) for i in range(len(other.reader))] == ["v/v1", "v/v2", "v/v3"]


def test_composed_captions_do_not_count_as_written(tmp_path: Path, config: Config) -> None:
    written = config.with_overrides(["data.captions=written"])
    folder = to_parquet(
        video_folder(tmp_path / "v", 3, caption=lambda i: f"someone does {i}"),
        caption_source=["written", "composed from the label", None],
    )
    opened = open_training([str(folder)], written)
    assert isinstance(opened.reader, ColumnReader)
    assert [row.caption for row in opened.reader.rows] == ["someone does 0", None, "someone does 2"]
    assert opened.words is not None
    assert '"1":' not in opened.words.to_json()


def test_captions_of_an_unknown_source_are_refused(tmp_path: Path, config: Config) -> None:
    folder = to_parquet(video_folder(tmp_path / "v", 3, caption=lambda i: "a", label=lambda i: "b"))
    with pytest.raises(InputError, match="no column caption_source"):
        open_training([str(folder)], config.with_overrides(["data.captions=written"]))
    assert len(open_training([str(folder)], config).reader) == 3


def test_faults_of_a_row_are_those_of_its_clip(tmp_path: Path, config: Config) -> None:
    paths = ["v0.mkv", "gone.mkv", "../outside.mkv", "v3.mkv", "/etc/hostname"]
    noise_video(tmp_path / "outside.mkv")
    folder = to_parquet(video_folder(tmp_path / "v", 5), path=paths)
    read = open_training([str(folder)], config).reader.read(range(5), TrainingDraw(0, 0))
    assert read.clips is not None
    assert len(read.clips) == 2
    reasons = dict(read.bad)
    assert sorted(reasons) == ["v/v1", "v/v2", "v/v4"]
    assert "gone.mkv does not exist" in reasons["v/v1"]
    assert "is not below" in reasons["v/v2"]
    assert "is not below" in reasons["v/v4"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"capton": ["a", "b"]}, "did you mean caption"),
        ({"split": ["test", "test"]}, "no clip of split 'train'"),
        ({"path": [None, None]}, "has any of video, skeleton, text"),
    ],
)
def test_wrong_columns_are_refused(columns: dict[str, Any], message: str, tmp_path: Path, config: Config) -> None:
    folder = to_parquet(video_folder(tmp_path / "v", 2), **columns)
    with pytest.raises(InputError, match=message):
        open_training([str(folder)], config)


def test_wrong_files_are_refused(tmp_path: Path, config: Config) -> None:
    folder = video_folder(tmp_path / "v", 2)
    index = (folder / "index.csv").read_text()
    path = to_parquet(folder) / "index.parquet"
    (folder / "index.csv").write_text(index)
    with pytest.raises(InputError, match="keep one of the two"):
        open_training([str(folder)], config)
    (folder / "index.csv").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"index\.parquet: cannot be read as Parquet"):
        open_training([str(folder)], config)
    pq.write_table(pa.table({"path": ["v0.mkv"]}), path)
    with pytest.raises(InputError, match="no column clip_id"):
        open_training([str(folder)], config)


def test_the_mapped_file_is_kept_where_asked(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = to_parquet(video_folder(tmp_path / "v", 2))
    cached = config.with_overrides([f"data.cache_dir={tmp_path / 'cache'}", "data.captions=none"])
    open_training([str(folder)], cached)
    (file,) = (tmp_path / "cache").glob("*.arrow")
    with monkeypatch.context() as patched:
        patched.delattr(parquet, "_copy")  # a second run, or rank, maps the file that is there
        assert len(open_training([str(folder)], cached).reader) == 2
    other = cached.with_overrides(['tokens.modalities=["video"]'])
    open_training([str(folder)], other)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 2
    assert file.exists()


def test_too_many_captions_ask_for_a_tokenizer(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_CAPTIONS", 2)
    folder = to_parquet(video_folder(tmp_path / "v", 3, caption=lambda i: "a"))
    with pytest.raises(InputError, match=r"3 captions to learn a vocabulary from.*data\.tokenizer"):
        open_training([str(folder)], config)


def test_data_are_told_apart_by_the_bytes_of_their_manifest(tmp_path: Path, config: Config) -> None:
    silent = config.with_overrides(["data.captions=none"])
    shas = [
        open_training([str(to_parquet(video_folder(tmp_path / name, n)))], silent).sha256
        for name, n in (("a", 2), ("b", 2), ("c", 3))
    ]
    assert shas[0] == shas[1] != shas[2]
