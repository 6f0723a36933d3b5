"""Tiny ONNX graphs that answer what they are told to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def constant_model(
    path: Path, outputs: Sequence[NDArray[np.float32]], shape: Sequence[int | str], licence: str | None = None
) -> Path:
    """A graph that answers ``outputs`` to every picture; a part of the picture times 0 keeps its input in use."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes, infos, constants = [], [], []
    constants.append(onnx.numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero"))
    nodes.append(helper.make_node("ReduceMax", ["pictures"], ["largest"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["largest", "zero"], ["nothing"]))
    for i, answer in enumerate(outputs):
        constants.append(onnx.numpy_helper.from_array(answer.astype(np.float32), f"answer{i}"))
        nodes.append(helper.make_node("Add", [f"answer{i}", "nothing"], [f"output{i}"]))
        infos.append(helper.make_tensor_value_info(f"output{i}", onnx.TensorProto.FLOAT, list(answer.shape)))
    pictures = helper.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, list(shape))
    graph = helper.make_graph(nodes, "constant", [pictures], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if licence is not None:
        helper.set_model_props(model, {"license": licence})
    onnx.save(model, str(path))
    return path


def candidates(*rows: Sequence[float]) -> NDArray[np.float32]:
    """``[1, 56, N]`` of rows (cx, cy, w, h, score); joint j lies j pixels right of the middle, confidence j / 20."""
    columns = []
    for cx, cy, w, h, score in rows:
        joints = [value for j in range(17) for value in (cx + j, cy, j / 20)]
        columns.append([cx, cy, w, h, score, *joints])
    return np.array(columns, dtype=np.float32).T[None]
