"""Embeddings in the space of a retrieval head: what the evaluation ranked first is first in the files too."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from embedded import mixed_folder, trained_run
from runs import CommandLine, rows_of, shrunk
from test_retrieval_task import QUICK, colour_folder, saved_run

from oskar.embedding.embed import EmbedConfig, embed
from oskar.embedding.file import read_embeddings
from oskar.embedding.loaded import load
from oskar.errors import InputError
from oskar.tasks.retrieval import evaluate_retrieval
from oskar.tasks.task import Protocol
from oskar.train.sealed import tensors_sha256

CONFIG = EmbedConfig(workers=0, device="cpu", split="test")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = shrunk("oskar-tiny")
    return saved_run(
        tmp_path / "run",
        replace(config, tokens=replace(config.tokens, n_frames=4, n_words=8, vocabulary_size=200)),
    )


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_files_rank_as_the_evaluation_did(run: Path, tmp_path: Path, protocol: Protocol) -> None:
    data, out = colour_folder(tmp_path / "data", per_colour=2), tmp_path / "out"
    evaluate_retrieval(run, [str(data)], "video", out, replace(QUICK, steps=20), protocol)
    embed(run, [data], tmp_path / "clips.safetensors", CONFIG, head=out)
    embed(run, [data], tmp_path / "texts.safetensors", replace(CONFIG, modality="text"), head=out / "heads")
    clips, texts = (read_embeddings(tmp_path / f"{name}.safetensors") for name in ("clips", "texts"))
    assert clips.header.head_sha256 == texts.header.head_sha256 == tensors_sha256(out / "heads/pretrained/head", "head")
    assert (clips.header.width, clips.header.model_sha256) == (16, texts.header.model_sha256)
    assert torch.allclose(clips.vectors.norm(dim=1), torch.ones(8), atol=1e-5)
    similarity = texts.vectors @ clips.vectors.T
    ranked = {
        texts.rows[i].clip_id: [clips.rows[j].clip_id for j in order]
        for i, order in enumerate(similarity.argsort(dim=1, descending=True).tolist())
    }
    rows = [row for row in rows_of(out) if row["weights"] == "pretrained" and row["direction"] == "text_to_video"]
    assert len(rows) == 8
    for row in rows:
        assert [row[f"top{i + 1}"] for i in range(8)] == ranked[row["query"].split("#")[0]]
    in_python = load(run, head=out)
    assert torch.allclose(in_python.embed([clips_text(data)], "text").vectors[0], texts.vectors[0], atol=1e-5)


def clips_text(data: Path) -> str:
    """The caption of the first clip of the test split."""
    lines = (data / "index.csv").read_text().splitlines()[1:]
    first = next(line for line in lines if ",test," in line)
    return first.split(",")[2]


def test_a_head_that_does_not_fit_is_refused(run: Path, tmp_path: Path, oskar: CommandLine) -> None:
    data, out = colour_folder(tmp_path / "data", per_colour=2), tmp_path / "out"
    evaluate_retrieval(run, [str(data)], "video", out, replace(QUICK, steps=2), "frozen")
    file = tmp_path / "e.safetensors"
    for words, named in (
        (["--modality", "skeleton"], "--head is of video and text, not of skeleton"),
        (["--modality", "fused"], "--head is of video and text, not of fused"),
        (["--pool", "tokens"], "--pool tokens with --head"),
    ):
        code, printed = oskar("embed", run, "people:2", "--out", file, "--head", out, *words)
        assert (code, named in printed) == (2, True), printed
    other = trained_run(tmp_path / "other", mixed_folder(tmp_path / "set"))
    with pytest.raises(InputError, match=r"learned on the encoder with SHA-256 \w{64}, this is \w{64}"):
        load(other, head=out)
    (out / "heads/pretrained/head/tensors.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is truncated or changed: 0 bytes"):
        load(run, head=out)


def test_a_sentence_is_cut_where_the_head_learned_to(run: Path, tmp_path: Path) -> None:
    data, out = colour_folder(tmp_path / "data", per_colour=2), tmp_path / "out"
    evaluate_retrieval(run, [str(data)], "video", out, replace(QUICK, steps=2, max_words=2), "frozen")
    sentences = ["all red the picture", "all red", "all"]
    with_head, without = (model.embed(sentences, "text").vectors for model in (load(run, head=out), load(run)))
    assert torch.allclose(with_head[0], with_head[1], atol=1e-6)
    assert not torch.allclose(with_head[0], with_head[2], atol=1e-3)
    assert not torch.allclose(without[0], without[1], atol=1e-3)
