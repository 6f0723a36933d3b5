"""The file of embeddings: what is written can be read by the formats' own libraries, and damage is named."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from oskar.embedding.file import (
    EmbeddingHeader,
    EmbeddingRow,
    Embeddings,
    index_path,
    read_embeddings,
    write_embeddings,
)
from oskar.errors import InputError, StoppedRunError

MEAN = EmbeddingHeader(
    modality="video", pooling="mean", width=4, model_sha256="m" * 64, preprocessing_sha256="p" * 64, folder="/videos"
)
GRID = dataclasses.replace(MEAN, pooling="tokens", n_tokens=3)
SUFFIXES = ("safetensors", "parquet")


def rows(n: int) -> tuple[EmbeddingRow, ...]:
    return tuple(
        EmbeddingRow(
            row=i,
            clip_id=f"clip {i} é",
            path=f"a/{i}.mp4" if i else None,
            start_seconds=0.5 * i,
            end_seconds=0.5 * i + 1,
            fps=25.0,
            stride_frames=2.0,
            window=i,
            caption='he said "go",\nthen left',
            label="run",
            label_id=i,
            subject="7",
            split="test",
            source_sha256="s" * 64,
            metadata={"view": str(i)},
        )
        for i in range(n)
    )


def means(n: int = 3) -> Embeddings:
    return Embeddings(header=MEAN, vectors=torch.arange(4.0 * n).view(n, 4) / 7, rows=rows(n))


def grid() -> Embeddings:
    is_valid = torch.tensor([[True, False, True], [False, False, True]])
    return Embeddings(header=GRID, vectors=torch.arange(24.0).view(2, 3, 4), rows=rows(2), is_valid=is_valid)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [means, grid, lambda: means(0)])
def test_what_was_written_is_read(tmp_path: Path, suffix: str, make: Callable[[], Embeddings]) -> None:
    written, path = make(), tmp_path / f"new folder/e.{suffix}"
    write_embeddings(path, written)
    read = read_embeddings(path)
    assert read.rows == written.rows
    assert torch.equal(read.vectors, written.vectors)
    assert dataclasses.replace(read.header, index_sha256=None) == written.header
    assert (read.is_valid is None) == (written.is_valid is None)
    if read.is_valid is not None and written.is_valid is not None:
        assert torch.equal(read.is_valid, written.is_valid)
    assert len(list(path.parent.iterdir())) == (2 if suffix == "safetensors" else 1)


def test_other_programs_read_the_safetensors_and_its_index(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e.safetensors", means())
    with safe_open(tmp_path / "e.safetensors", framework="np") as file:
        assert list(file.keys()) == ["embeddings"]
        assert file.get_tensor("embeddings").tolist() == means().vectors.tolist()
        header = json.loads(file.metadata()["oskar"])
    assert (header["format"], header["version"], header["width"]) == ("oskar-embeddings", 1, 4)
    lines = [json.loads(line) for line in (tmp_path / "e.safetensors.index.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2]
    assert lines[1] == {
        "row": 1, "clip_id": "clip 1 é", "path": "a/1.mp4", "start_seconds": 0.5, "end_seconds": 1.5, "fps": 25.0,
        "stride_frames": 2.0, "window": 1, "caption": 'he said "go",\nthen left', "label": "run", "label_id": 1,
        "subject": "7", "split": "test", "source_sha256": "s" * 64, "metadata": {"view": "1"},
        "modality": "video", "model_sha256": "m" * 64, "preprocessing_sha256": "p" * 64,
    }  # fmt: skip


def test_other_programs_read_the_parquet(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "e.parquet", grid())
    table = pq.read_table(tmp_path / "e.parquet")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[12]"
    assert table["embedding"].to_pylist() == [[float(v) for v in range(12)], [float(v) for v in range(12, 24)]]
    assert table["is_valid"].to_pylist() == [[True, False, True], [False, False, True]]
    assert table["clip_id"].to_pylist() == ["clip 0 é", "clip 1 é"]
    assert table["path"].to_pylist() == [None, "a/1.mp4"]
    assert json.loads(table["metadata"][1].as_py()) == {"view": "1"}
    assert json.loads(table.schema.metadata[b"oskar"])["n_tokens"] == 3


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    seconds=st.none() | st.floats(0, 1e6),
    suffix=st.sampled_from(SUFFIXES),
)
def test_any_row_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], text: str, seconds: float | None, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"e.{suffix}"
    row = EmbeddingRow(row=0, clip_id=text, caption=text, start_seconds=seconds, metadata={text: text})
    write_embeddings(path, Embeddings(header=MEAN, vectors=torch.tensor([values]), rows=(row,)))
    read = read_embeddings(path)
    assert read.rows == (row,)
    assert read.vectors.tolist() == [values]


def edit_index(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    index = index_path(path)
    index.write_text("".join(line + "\n" for line in change(index.read_text().splitlines())))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), r"e.safetensors is not a file. Fix: write it with `oskar embed"),
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), r"e.safetensors is truncated or not safetensors"),
        (
            lambda p: index_path(p).unlink(),
            r"e.safetensors.index.jsonl cannot be read .*Fix: keep it beside e.safet",
        ),
        (lambda p: edit_index(p, lambda lines: lines[:-1]), r"index.jsonl is not the index that was written with"),
        (lambda p: edit_index(p, lambda lines: [lines[1], lines[0], lines[2]]), r"is not the index that was written"),
        (lambda p: edit_index(p, lambda lines: [lines[0][:-9], *lines[1:]]), r"index.jsonl line 1 is not JSON"),
        (lambda p: edit_index(p, lambda lines: ["[]", *lines[1:]]), r"index.jsonl line 1 is not an object"),
        (
            lambda p: edit_index(p, lambda lines: [lines[0], lines[1].replace("m" * 64, "n" * 64), lines[2]]),
            r"index.jsonl line 2 is of another file.*'model_sha256': 'nnn",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "e.safetensors"
    write_embeddings(path, means())
    damage(path)
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_embeddings(path)


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    write_embeddings(path, means())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"e.parquet is truncated or not parquet.*Fix: write it again"):
        read_embeddings(path)


def changed_header(path: Path, **values: object) -> None:
    header = json.loads(json.dumps(dataclasses.asdict(MEAN))) | values
    save_file({"embeddings": means().vectors}, path, {"oskar": json.dumps(header)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "version = 2, this oskar reads 1"),
        ({"format": "other"}, "header is not that of oskar-embeddings"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"modality": "audio"}, "modality = 'audio'"),
        ({"width": 5}, r"embeddings are float32 \[3, 4\], its header and 3 rows say \[3, 5\]"),
    ],
)
def test_a_header_that_does_not_fit_is_named(tmp_path: Path, values: dict[str, object], message: str) -> None:
    path = tmp_path / "e.safetensors"
    write_embeddings(path, means())
    changed_header(path, **values)
    with pytest.raises(InputError, match=message):
        read_embeddings(path)


def test_other_files_are_not_taken_for_embeddings(tmp_path: Path) -> None:
    save_file({"embeddings": torch.zeros(1, 4)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="no file of embeddings: its metadata has no key 'oskar'"):
        read_embeddings(tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"e.npy: embeddings are kept in .safetensors or .parquet files"):
        write_embeddings(tmp_path / "e.npy", means())


def test_what_does_not_fit_together_is_not_written(tmp_path: Path) -> None:
    path, good = tmp_path / "e.safetensors", means()
    nan = good.vectors.clone()
    nan[1, 2] = torch.nan
    for bad, message in (
        (dataclasses.replace(good, vectors=nan), r"row 1 \(clip 'clip 1 é'\) holds numbers that are not finite"),
        (dataclasses.replace(good, vectors=good.vectors.double()), r"embeddings are float64 \[3, 4\]"),
        (dataclasses.replace(good, rows=good.rows[::-1]), "row 0 of the index is numbered 2"),
        (dataclasses.replace(good, is_valid=torch.ones(3, 4) > 0), "is_valid belongs to a grid of tokens"),
        (dataclasses.replace(grid(), is_valid=None), "is_valid belongs to a grid of tokens"),
    ):
        with pytest.raises(InputError, match=message):
            write_embeddings(path, bad)
    assert not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"e.{suffix}"
    write_embeddings(path, means())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoppedRunError, match=rf"e.{suffix}\S* could not be written"):
        write_embeddings(path, means(2))
    monkeypatch.undo()
    assert len(read_embeddings(path)) == 3
    assert not list(tmp_path.glob(".tmp-*"))
