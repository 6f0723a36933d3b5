"""An ONNX model in a local file, run by ONNX Runtime on the CPU."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oskar.errors import InputError

_NEEDS = 'pip install "oskar[onnx]"'


class OnnxFile:
    """A model with one picture input ``[N, 3, H, W]``; ``n_threads`` limits what it takes of the processor.

    Raises:
        InputError: ONNX Runtime is not installed, the file is no ONNX model, or its input is not of that form.
    """

    def __init__(self, path: Path, n_threads: int) -> None:
        try:
            import onnxruntime as ort
            from onnxruntime.capi import onnxruntime_pybind11_state as raised
        except ImportError as error:
            raise InputError(f"{path}: an ONNX model needs ONNX Runtime, which is not installed", fix=_NEEDS) from error
        if not path.is_file():
            raise InputError(f"{path}: there is no such file", fix="name an .onnx file; nothing is downloaded")
        self.path = path
        self._failures: tuple[type[Exception], ...] = (
            *(raised.Fail, raised.InvalidArgument, raised.InvalidGraph, raised.InvalidProtobuf, raised.NoSuchFile),
            *(raised.NotImplemented, raised.RuntimeException, raised.NoModel, RuntimeError),
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self._failures as error:
            raise InputError(
                f"{path}: is no ONNX model that can be run ({_first_line(error)})", fix="export the model again"
            ) from error
        inputs = self._session.get_inputs()
        self._input = inputs[0]
        shape = list(self._input.shape)
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, "3") or self._input.type != "tensor(float)":
            said = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise InputError(f"{path}: has the inputs {said}", fix="export it with one float input [N, 3, H, W]")
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    @property
    def is_batched(self) -> bool:
        """False where the model takes one picture at a time."""
        return bool(self._input.shape[0] != 1)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(width, height) of the pictures it takes, None where it leaves that open."""
        height, width = self._input.shape[2:]
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None

    @property
    def licence(self) -> str:
        """What the file says of its licence in its metadata."""
        said: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return said.get("license", said.get("licence", "the file does not say"))

    def run(self, pictures: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        """All outputs for float32 ``[N, 3, H, W]``; raises InputError where the model refuses the pictures."""
        try:
            outputs: Sequence[NDArray[Any]] = self._session.run(None, {self._input.name: pictures})
        except self._failures as error:
            raise InputError(
                f"{self.path}: fails on pictures {list(pictures.shape)} ({_first_line(error)})",
                fix="correct detector.input_pixels, or export the model with an open batch and size",
            ) from error
        return outputs


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
