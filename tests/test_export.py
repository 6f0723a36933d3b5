"""Exported graphs: they mixed_run without the library and give what its own packed model gives, at any batch size."""

import dataclasses
import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from embedded import trained_run
from runs import CommandLine, packed_folder
from test_embed import frames_by_hand
from torch import Tensor, nn

from oskar.embedding.loaded import load
from oskar.errors import StoppedRunError
from oskar.sharing import export as export_module
from oskar.sharing.export import export
from oskar.sharing.exported_heads import encoder_graphs, head_graphs
from oskar.sharing.graphs import example_inputs
from oskar.tasks.finetuning import FinetuneConfig, evaluate_finetuned
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.tasks.retrieval import RetrievalConfig, evaluate_retrieval

DIFFERENCE = 1e-5


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory, mixed_data: Path) -> Path:
    """The quickest to export: one graph."""
    return trained_run(tmp_path_factory.mktemp("export") / "text", mixed_data, 'tokens.modalities=["text"]')


def require_close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one.double(), other.double(), atol=DIFFERENCE)


@pytest.mark.parametrize(
    "settings",
    [(), ("momentum.skeleton=0.5", "momentum.final=null"), ("tokens.min_contrast=0.5", "model.positions=sincos"),
     ("tokens.segment_frames=2", "tokens.joint_frame=clip", "model.box_embedding=false", "model.bias=true",
      "model.mlp=gelu")],
)  # fmt: skip
def test_dense_graphs_equal_the_packed_model(mixed_data: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Before any export: whatever a recipe says of tokens and encoder, and whatever is missing."""
    pretrained = load(trained_run(tmp_path / "run", mixed_data, *settings)).pretrained
    graphs = encoder_graphs(pretrained)
    assert [graph.name for graph, _ in graphs] == [f"encoder-{n}" for n in ("video", "skeleton", "text", "fused")]
    for graph, reference in graphs:
        inputs = example_inputs(pretrained.config, graph, 4, seed=1)
        with torch.no_grad():
            found = graph.module(*inputs)
        require_close(found, reference(inputs))
        is_all_valid = bool(found[2].all())
        assert is_all_valid == (graph.name == "encoder-video" and "tokens.min_contrast=0.5" not in settings)


def test_a_vector_of_a_graph_is_that_of_embed(mixed_run: Path, mixed_data: Path) -> None:
    model = load(mixed_run)
    (graph, _), *_ = encoder_graphs(model.pretrained)

    path = mixed_data / "videos/c0.mkv"
    with torch.no_grad():
        vector, tokens, _ = graph.module(frames_by_hand(path)[None])
    assert torch.allclose(vector, model.embed(path).vectors, atol=DIFFERENCE)
    assert torch.allclose(tokens, model.embed(path, pool="tokens").vectors, atol=DIFFERENCE)


def test_a_program_of_torch_export_runs_at_any_batch_size(text_run: Path, tmp_path: Path, oskar: CommandLine) -> None:
    out = tmp_path / "out"
    code, printed = oskar("export", text_run, "--out", out, "--to", "torch")
    assert code == 0, printed
    assert "encoder-text.pt2: word_ids -> vector, tokens, is_valid" in printed
    assert {path.name for path in out.iterdir()} == {
        "encoder-text.pt2", "export.json", "preprocessing.json", "words.json",
    }  # fmt: skip
    report = json.loads((out / "export.json").read_text())
    assert (report["format"], report["version"], report["to"]) == ("oskar-export", 1, "torch")
    assert report["graphs"][0]["difference"] < DIFFERENCE
    pretrained = load(text_run).pretrained
    assert report["encoder_sha256"] == pretrained.transfer.sha256
    ((graph, reference),) = encoder_graphs(pretrained)
    program = torch.export.load(out / "encoder-text.pt2").module()
    for n_clips in (1, 5):
        inputs = example_inputs(pretrained.config, graph, n_clips, seed=9)
        require_close(program(*inputs), reference(inputs))
    code, printed = oskar("export", text_run, "--out", out, "--to", "torch")
    assert (code, "is there and not empty. Fix: name a new folder" in printed) == (2, True)


@pytest.mark.slow
def test_onnx_of_every_encoder(mixed_run: Path, tmp_path: Path) -> None:
    done = export(mixed_run, tmp_path / "out", "onnx")
    assert [one.file for one in done] == [f"encoder-{n}.onnx" for n in ("video", "skeleton", "text", "fused")]
    assert max(one.difference for one in done) < DIFFERENCE
    pretrained = load(mixed_run).pretrained
    for graph, reference in encoder_graphs(pretrained):
        path = tmp_path / f"out/{graph.name}.onnx"
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert all(isinstance(one.shape[0], str) for one in session.get_inputs())  # a name: any size
        inputs = example_inputs(pretrained.config, graph, 5, seed=9)
        given = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
        require_close(tuple(torch.from_numpy(o) for o in session.run(list(graph.outputs), given)), reference(inputs))


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory, mixed_data: Path, mixed_run: Path) -> dict[str, Path]:
    """An evaluation of every kind that saves a head."""
    folder = tmp_path_factory.mktemp("heads")
    labelled = packed_folder(folder / "labelled", 12)
    frozen = ProbeConfig(steps=2, batch_size=4, precision="float32", device="cpu", n_neighbours=2)
    tuned = FinetuneConfig(steps=2, batch_size=4, precision="float32", device="cpu")
    paired = RetrievalConfig(steps=2, batch_size=4, precision="float32", device="cpu", captions="all")
    evaluate_recognition(mixed_run, [str(labelled)], "skeleton", folder / "probes", frozen)
    evaluate_finetuned(mixed_run, [str(labelled)], "skeleton", folder / "finetuned", tuned)
    evaluate_retrieval(mixed_run, [str(mixed_data)], "video", folder / "retrieval", paired, "frozen")
    return {name: folder / name for name in ("probes", "finetuned", "retrieval")}


def test_heads_as_graphs_equal_the_packed_models(mixed_run: Path, heads: dict[str, Path]) -> None:
    pretrained = load(mixed_run).pretrained
    names: list[str] = []
    for folder in heads.values():
        for graph, reference in head_graphs(folder, pretrained):
            names.append(graph.name)
            inputs = example_inputs(pretrained.config, graph, 4, seed=2)
            with torch.no_grad():
                found = graph.module.eval()(*inputs)
            require_close(found if isinstance(found, tuple) else (found,), reference(inputs))
    assert names == ["probes-skeleton", "recognition-skeleton", "retrieval-video", "retrieval-text"]


@pytest.mark.slow
def test_onnx_of_every_head(
    mixed_run: Path, heads: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "encoder_graphs", lambda pretrained: ())
    found = [one for name, folder in heads.items() for one in export(mixed_run, tmp_path / name, "onnx", folder)]
    assert [one.outputs for one in found] == [
        ("scores_attentive", "scores_linear"),
        ("scores",),
        ("vector",),
        ("vector",),
    ]
    assert max(one.difference for one in found) < 1e-4


class _Wrong(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        vector, tokens, is_valid = self.module(*inputs)
        return vector * 1.001, tokens, is_valid


def test_a_graph_that_differs_is_not_kept(text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((graph, reference),) = encoder_graphs(load(text_run).pretrained)
    wrong = dataclasses.replace(graph, module=_Wrong(graph.module))
    monkeypatch.setattr(export_module, "encoder_graphs", lambda pretrained: ((wrong, reference),))
    with pytest.raises(StoppedRunError, match=r"encoder-text.pt2 differs from the model by 1\.0e-03"):
        export(text_run, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_are_refused(
    text_run: Path, heads: dict[str, Path], mixed_data: Path, tmp_path: Path, oskar: CommandLine
) -> None:
    for words, named in (
        (["--to", "tflite"], "--to 'tflite' is not known. Fix: use onnx or torch"),
        (["--head", mixed_data], "holds no saved head"),
        (["--head", heads["probes"]], "learned on the encoder with SHA-256"),
    ):
        code, printed = oskar("export", text_run, "--out", tmp_path / "out", *words)
        assert (code, named in printed) == (2, True), printed
