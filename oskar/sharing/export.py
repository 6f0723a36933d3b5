"""``oskar export``: encoders and heads as ONNX or as torch.export programs, compared with the model they came from."""

import dataclasses
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from oskar.config import Config
from oskar.errors import InputError, StoppedRunError
from oskar.sharing.exported_heads import encoder_graphs, head_graphs
from oskar.sharing.graphs import Graph, example_inputs
from oskar.sharing.load import load_pretrained
from oskar.sharing.preprocessing import PREPROCESSING_FILE, preprocessing_json
from oskar.train.pretrain import WORDS_FILE
from oskar.train.sealed import TEMPORARY, not_written, put_in_place

Target = Literal["onnx", "torch"]
Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
REPORT_FILE = "export.json"
VERSION = 1
OPSET = 20
TOLERANCE = 1e-4  # of the largest value; float32 in another order of sums
_SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
_BATCHES = (1, 3)  # the graphs are traced at another size


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file with its largest difference from the model, as a share of the largest value."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float


def export(run: Path, out: Path, to: Target, head: Path | None = None) -> tuple[Exported, ...]:
    """Write each encoder of a run, and with ``head`` each graph of that head, into a new folder.

    Every graph is run on made clips of two batch sizes and compared with the packed model; beside the graphs are
    ``preprocessing.json``, the words, and ``export.json`` with inputs, outputs and differences.

    Raises:
        InputError: wrong run or head, a folder that is not empty, or onnx is not installed.
        StoppedRunError: a graph does not give what the model gives, or the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} is there and not empty", fix="name a new folder")
    if to == "onnx":
        require_onnx()
    pretrained = load_pretrained(run)
    graphs = encoder_graphs(pretrained)
    if head is not None:
        graphs = (*graphs, *head_graphs(head, pretrained))
    temporary = out.with_name(TEMPORARY + out.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        done = tuple(_export(g, reference, pretrained.config, temporary, to) for g, reference in graphs)
        report = {
            "format": "oskar-export",
            "version": VERSION,
            "to": to,
            "torch": torch.__version__,
            "encoder_sha256": pretrained.transfer.sha256,
            "preprocessing_sha256": pretrained.preprocessing_sha256,
            "tolerance": TOLERANCE,
            "graphs": [dataclasses.asdict(one) for one in done],
        }
        texts = {
            REPORT_FILE: json.dumps(report, indent=2) + "\n",
            PREPROCESSING_FILE: preprocessing_json(pretrained.config, pretrained.words),
        }
        texts |= {} if pretrained.words is None else {WORDS_FILE: pretrained.words.to_json()}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        put_in_place(temporary, out)
    except OSError as error:
        raise not_written(out, 0, str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def require_onnx() -> None:
    """InputError that names the extra where onnx, onnxscript or onnxruntime is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"--to onnx needs {error.name}, which is not installed", fix='pip install "oskar[onnx]", or use --to torch'
        ) from error


def _export(graph: Graph, reference: Run, config: Config, folder: Path, to: Target) -> Exported:
    path = folder / (graph.name + _SUFFIX[to])
    module = graph.module.eval()
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with torch.no_grad():
        program = torch.export.export(
            module, example_inputs(config, graph, 2, seed=0), dynamic_shapes=(tuple({0: batch} for _ in graph.inputs),)
        )
    if to == "torch":
        torch.export.save(program, path)
        run = _torch_runner(path)
    else:
        with _quiet():
            torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                f=str(path),
            )
        run = _onnx_runner(path, graph)
    difference = _difference(run, reference, config, graph)
    if not difference <= TOLERANCE:
        raise StoppedRunError(
            f"{path.name} differs from the model by {difference:.1e} of its largest value, {TOLERANCE} is allowed",
            fix="report it with the versions of torch and onnx; use the run itself until then",
        )
    return Exported(file=path.name, inputs=graph.inputs, outputs=graph.outputs, difference=difference)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings of its own insides, such as that torchvision is not there."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _difference(run: Run, reference: Run, config: Config, graph: Graph) -> float:
    """The largest over outputs and batch sizes; what is not finite counts as infinite."""
    largest = 0.0
    for n_clips in _BATCHES:
        inputs = example_inputs(config, graph, n_clips, seed=n_clips)
        for found, wanted in zip(run(inputs), reference(inputs), strict=True):
            if found.shape != wanted.shape:
                return float("inf")
            exact = wanted.double()
            error = float((found.double() - exact).abs().max()) / max(float(exact.abs().max()), 1e-12)
            largest = max(largest, error) if error == error else float("inf")
    return largest


def _torch_runner(path: Path) -> Run:
    program = torch.export.load(path).module()

    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _several(program(*inputs))

    return run


def _onnx_runner(path: Path, graph: Graph) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
        outputs: Sequence[Any] = session.run(list(graph.outputs), given)
        return tuple(torch.from_numpy(value) for value in outputs)

    return run


def _several(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
