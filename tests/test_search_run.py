"""Queries through a real run: the vectors of ``oskar embed``, and what is no query of one clip."""

from pathlib import Path

import pytest
import torch
from embedded import mixed_folder, trained_run

from oskar.embedding.embed import EmbedConfig, embed
from oskar.embedding.file import read_embeddings
from oskar.errors import InputError
from oskar.searching.indexing import index
from oskar.searching.queries import Question
from oskar.searching.run_encoder import RunEncoder, encoder_of
from oskar.searching.search import search
from oskar.searching.serve import page_server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def other(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("other"), data, "train.seed=7")


@pytest.fixture(scope="module")
def encoder(run: Path) -> RunEncoder:
    return encoder_of(run, None)


def test_a_file_finds_itself_among_the_embedded(run: Path, data: Path, tmp_path: Path) -> None:
    for modality in ("video", "skeleton"):
        config = EmbedConfig(modality=modality, workers=0, device="cpu")
        embed(run, [data], tmp_path / f"{modality}.safetensors", config)
    index([tmp_path / f"{modality}.safetensors" for modality in ("video", "skeleton")], tmp_path / "db")
    question = Question(clips=(data / "videos/c3.mkv",))
    (first, *_) = search(tmp_path / "db", run, question, n_top=1).hits
    assert first.values["clip_id"].endswith("/c3")
    assert first.similarity == pytest.approx(1.0, abs=1e-5)


def test_queries_are_embedded_as_the_command_would(encoder: RunEncoder, run: Path, data: Path, tmp_path: Path) -> None:
    videos = [data / f"videos/c{i}.mkv" for i in (2, 0, 2)]
    made = encoder.encode("video", videos, "mean+std", is_common=False)
    embed(run, videos[:2], tmp_path / "e.safetensors", EmbedConfig(pool="mean+std", workers=0, device="cpu"))
    wanted = read_embeddings(tmp_path / "e.safetensors")
    assert torch.allclose(made.vectors[:2], wanted.vectors, atol=1e-5)
    assert torch.equal(made.vectors[0], made.vectors[2])
    assert (made.header.model_sha256, made.header.width) == (wanted.header.model_sha256, wanted.header.width)


def test_a_sentence_is_never_taken_for_data(encoder: RunEncoder) -> None:
    """``people`` and ``people:9:x`` name data elsewhere."""
    made = encoder.encode("text", ["people", "people:9:x"], "mean", is_common=False)
    assert len(made) == 2
    assert [row.caption for row in made.rows] == ["people", "people:9:x"]


def test_what_is_no_query(encoder: RunEncoder, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mkv").write_bytes(b"no video")
    for item, named in (
        (Path("people"), "people is not a file"),
        (data, "is not a file"),
        (tmp_path / "bad.mkv", "bad.mkv"),
    ):
        with pytest.raises(InputError, match=named):
            encoder.encode("video", [item], "mean", is_common=False)


def test_another_run_is_refused_with_both_hashes(run: Path, other: Path, data: Path, tmp_path: Path) -> None:
    embed(run, [data], tmp_path / "e.safetensors", EmbedConfig(workers=0, device="cpu"))
    index([tmp_path / "e.safetensors"], tmp_path / "db")
    hashes = (
        f"{encoder_of(run, None).pretrained.transfer.sha256}, .*{encoder_of(other, None).pretrained.transfer.sha256}"
    )
    with pytest.raises(InputError, match=f"with model {hashes}"):
        search(tmp_path / "db", other, Question(clips=(data / "nothing.mkv",)))  # before the query is looked at
    with pytest.raises(InputError, match=f"with model {hashes}"), page_server(tmp_path / "db", data, other, port=0):
        pass
