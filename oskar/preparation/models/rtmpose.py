"""RTMPose: the joints of one person in a crop, as SimCC: one distribution over x and one over y for each joint.

Outputs ``simcc_x`` ``[N, 17, k W]`` and ``simcc_y`` ``[N, 17, k H]`` over k bins a pixel (2 in the published models); a
joint is where both are highest, and its confidence is the lower of the two peaks (Jiang et al. 2023; MMPose).
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oskar.errors import InputError
from oskar.preparation.models.onnx_file import OnnxFile
from oskar.preparation.settings import DetectorConfig

_MEAN = (123.675, 116.28, 103.53)  # of red, green and blue, as the published models were trained
_DEVIATION = (58.395, 57.12, 57.375)
_N_JOINTS = 17


class RtmPose:
    """An RTMPose model in an ONNX file with COCO's 17 joints."""

    def __init__(self, path: Path, config: DetectorConfig, n_threads: int) -> None:
        self.file = OnnxFile(path, n_threads)
        self._scale = config.box_scale
        size = self.file.input_size
        if size is None:
            raise InputError(
                f"{path}: leaves the size of its input open", fix="export it for one size, such as 192x256"
            )
        self._size = size

    def joints(self, picture: Tensor, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[n, 17, 3]``: x, y in pixels of the picture uint8 ``[3, H, W]`` and confidence, for boxes ``[n, 4]``."""
        if not len(boxes):
            return np.zeros((0, _N_JOINTS, 3))
        regions = crop_regions(boxes, self._size, self._scale)
        crops = crop(picture, regions, self._size)
        parts = [crops] if self.file.is_batched else list(crops[:, None])
        outputs = [self._checked(self.file.run(part), len(part)) for part in parts]
        x, y = (np.concatenate([output[i] for output in outputs]) for i in range(2))
        return decode_simcc(x, y, regions)

    def _checked(self, outputs: object, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        shapes = [list(output.shape) for output in outputs] if isinstance(outputs, list) else []
        width, height = self._size
        is_right = len(shapes) == 2 and all(shape[:2] == [n, _N_JOINTS] and len(shape) == 3 for shape in shapes)
        is_right = is_right and shapes[0][2] * height == shapes[1][2] * width and shapes[0][2] % width == 0
        if not is_right or not isinstance(outputs, list):
            raise InputError(
                f"{self.file.path}: outputs {', '.join(self.file.output_names)} are {shapes}, not simcc_x "
                f"[{n}, 17, k {width}] and simcc_y [{n}, 17, k {height}]",
                fix="export an RTMPose model of COCO's 17 joints, or choose another convention",
            )
        return outputs[0], outputs[1]


def crop_regions(boxes: NDArray[np.float64], size: tuple[int, int], box_scale: float) -> NDArray[np.float64]:
    """Regions ``[n, 4]`` (centre x, y, width, height) around boxes: enlarged, and widened to the input's aspect."""
    aspect = size[0] / size[1]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    width, height = ((boxes[:, 2:] - boxes[:, :2]).clip(1.0) * box_scale).T
    return np.column_stack([centres, np.maximum(width, height * aspect), np.maximum(height, width / aspect)])


def crop(picture: Tensor, regions: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float32]:
    """The regions of a picture, ``[n, 3, height, width]``, normalised; black beyond its border.

    As OpenCV's ``warpAffine``, pixel j of the crop shows the picture at centre + (j - width / 2) region / width.
    """
    width, height = size
    places = torch.from_numpy(regions).to(torch.float32)
    x = places[:, 0:1] + (torch.arange(width) - width / 2) * places[:, 2:3] / width
    y = places[:, 1:2] + (torch.arange(height) - height / 2) * places[:, 3:4] / height
    x, y = (2 * values / max(side - 1, 1) - 1 for values, side in ((x, picture.shape[2]), (y, picture.shape[1])))
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    source = picture[None].to(torch.float32).expand(len(regions), -1, -1, -1)
    crops = torch.nn.functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    result: NDArray[np.float32] = ((crops - mean) / deviation).numpy()
    return result


def decode_simcc(x: NDArray[np.float32], y: NDArray[np.float32], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Joints ``[n, 17, 3]`` in pixels of the picture from distributions ``[n, 17, bins]`` over the regions."""
    shares = np.stack([x.argmax(axis=-1) / x.shape[-1], y.argmax(axis=-1) / y.shape[-1]], axis=-1)
    confidence = np.minimum(x.max(axis=-1), y.max(axis=-1)).clip(0, 1)
    centres, sizes = regions[:, None, :2], regions[:, None, 2:]
    return np.concatenate([centres + (shares - 0.5) * sizes, confidence[..., None]], axis=-1).astype(np.float64)
