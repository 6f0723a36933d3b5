"""Models with the output of YOLO as Ultralytics exports it (YOLOv8 and later): people with or without joints.

Output ``[1, C, N]``: N candidates of cx, cy, w, h in input pixels, then the scores of the classes. ``yolo-pose`` has
one class and 17 joints of x, y, confidence: C = 56. A detector has one score a class, person first. Either finds
people; 56 values are always taken for a pose model's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oskar.errors import InputError
from oskar.preparation.boxes import suppress
from oskar.preparation.models.onnx_file import OnnxFile
from oskar.preparation.settings import DetectorConfig

N_POSE_VALUES = 56
_PADDING_GRAY = 114  # what YOLO was trained with


@dataclass(frozen=True, kw_only=True, slots=True)
class Letterbox:
    """How a picture was laid on the input: scaled by ``scale``, then moved by ``left`` and ``top`` pixels."""

    scale: float
    left: int
    top: int

    def undo(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Input pixels ``[..., 2]`` as pixels of the picture."""
        return np.asarray((points - np.array([self.left, self.top])) / self.scale)


def letterbox(picture: Tensor, size: tuple[int, int]) -> tuple[NDArray[np.float32], Letterbox]:
    """A picture uint8 ``[3, H, W]`` as ``[3, height, width]`` in [0, 1], its aspect kept, gray around its middle."""
    width, height = size
    scale = min(width / picture.shape[2], height / picture.shape[1])
    inner = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[2] * scale), 1))
    scaled = torch.nn.functional.interpolate(
        picture[None].to(torch.float32), size=inner, mode="bilinear", align_corners=False
    )[0]
    top, left = round((height - inner[0]) / 2 - 0.1), round((width - inner[1]) / 2 - 0.1)
    laid = torch.full((3, height, width), float(_PADDING_GRAY))
    laid[:, top : top + inner[0], left : left + inner[1]] = scaled
    return (laid / 255).numpy(), Letterbox(scale=scale, left=left, top=top)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PeopleOfFrame:
    """n people of one picture in its pixels: ``boxes`` ``[n, 4]``, ``scores`` ``[n]``, ``joints`` ``[n, 17, 3]``."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    joints: NDArray[np.float64]


class Yolo:
    """A YOLO model in an ONNX file; ``has_joints`` says whether its 17 joints are asked for."""

    def __init__(self, path: Path, config: DetectorConfig, n_threads: int, *, has_joints: bool) -> None:
        self.file = OnnxFile(path, n_threads)
        self._config, self._has_joints = config, has_joints

    def people(self, picture: Tensor) -> PeopleOfFrame:
        """The people in a picture uint8 ``[3, H, W]``, the surest first."""
        size = self.file.input_size or (self._config.input_pixels, self._config.input_pixels)
        pixels, laid = letterbox(picture, size)
        output = self.file.run(pixels[None])[0]
        return decode_yolo(self._checked(output), laid, self._config, has_joints=self._has_joints)

    def _checked(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        is_right = output.ndim == 3 and output.shape[0] == 1
        is_right &= output.shape[1:2] == (N_POSE_VALUES,) if self._has_joints else output.shape[1:2] >= (5,)
        if not is_right:
            wanted = f"[1, {N_POSE_VALUES}, N]" if self._has_joints else "[1, 4 + classes, N]"
            raise InputError(
                f"{self.file.path}: output {self.file.output_names[0]} is {list(output.shape)}, not {wanted}",
                fix="export a YOLO model without built-in suppression (nms=False), or choose another convention",
            )
        return output


def decode_yolo(
    output: NDArray[np.float32], laid: Letterbox, config: DetectorConfig, *, has_joints: bool
) -> PeopleOfFrame:
    """People of ``[1, C, N]``: those of class 0 above ``detector.min_score``, less those that a surer one covers."""
    rows = output[0].T.astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    classes = rows[:, 4:5] if output.shape[1] == N_POSE_VALUES else rows[:, 4:]
    is_person = (classes.argmax(axis=1) == 0) & (classes[:, 0] >= config.min_score)
    rows = rows[is_person]
    middle, half = rows[:, :2], rows[:, 2:4] / 2
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    kept = suppress(boxes, rows[:, 4], max_iou=config.nms_iou)
    joints = np.zeros((len(kept), 17, 3))
    if has_joints:
        joints = rows[kept, 5:].reshape(-1, 17, 3)
        joints[..., :2] = laid.undo(joints[..., :2])
        joints[..., 2] = joints[..., 2].clip(0, 1)
    corners = laid.undo(boxes[kept].reshape(-1, 2, 2)).reshape(-1, 4)
    return PeopleOfFrame(boxes=corners, scores=rows[kept, 4], joints=joints)
