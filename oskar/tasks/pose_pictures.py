"""Pictures of decoded poses beside their pseudo-labels, as in the paper's Figure 4."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from oskar.modalities import N_JOINTS
from oskar.tokens.layouts import INTERNAL

_BONES = (
    *(("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear")),
    *(("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist")),
    *(("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("left_shoulder", "left_hip")),
    *(("right_shoulder", "right_hip"), ("left_hip", "right_hip"), ("left_hip", "left_knee")),
    *(("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle")),
)
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")  # of people; told apart with colour-blind eyes
_TITLES = {
    "pretrained": "decoded, with box",
    "without_box": "decoded, without box",
    "mean_pose": "mean pose in the box",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PosePicture:
    """One clip: frames uint8 ``[T, 3, H, W]`` if there are any, and places ``[N, F, 2]`` by name of a column.

    ``is_counted`` ``[N, F]``: the joints that the pseudo-label has; no others are drawn, in any column.
    """

    clip_id: str
    frames: Tensor | None
    is_counted: Tensor
    places: Mapping[str, Tensor]
    n_people: int


def draw_poses(folder: Path, pictures: Sequence[PosePicture]) -> list[Path]:
    """Write a PNG for each picture, named by its number and clip: the middle frame, a column for each of ``places``."""
    from matplotlib.figure import Figure

    paths = []
    for number, picture in enumerate(pictures):
        folder.mkdir(parents=True, exist_ok=True)
        figure = Figure(figsize=(2.6 * len(picture.places), 2.9), layout="constrained")
        frame, segments = _middle(picture)
        for axes, (name, places) in zip(
            figure.subplots(1, len(picture.places), squeeze=False)[0], picture.places.items(), strict=True
        ):
            axes.set_title(_TITLES.get(name, name), fontsize=9)
            axes.set_axis_off()
            axes.set_xlim(0, 1)
            axes.set_ylim(1, 0)
            axes.set_aspect("equal")
            if picture.frames is not None:
                pixels = picture.frames[frame].permute(1, 2, 0).numpy()
                axes.imshow(pixels, extent=(0.0, 1.0, 1.0, 0.0), alpha=0.75)
            for person in range(picture.n_people):
                _draw(axes, *_joints(picture, places, person, segments), _COLOURS[person % len(_COLOURS)])
        stem = re.sub(r"[^A-Za-z0-9]+", "-", picture.clip_id).strip("-")[-60:]
        path = folder / f"{number:02d}-{stem}.png"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths


def _middle(picture: PosePicture) -> tuple[int, tuple[int, int]]:
    """The number of the middle frame, and its segment and place in it."""
    n_tokens, per_segment = picture.is_counted.shape
    n_segments = n_tokens // picture.n_people // N_JOINTS
    frame = n_segments * per_segment // 2
    return frame, (frame // per_segment, frame % per_segment)


def _joints(picture: PosePicture, places: Tensor, person: int, at: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places ``[J, 2]`` and which of them are there, of one person in one frame."""
    segment, place = at
    n_positions = len(places) // picture.n_people
    first = person * n_positions + segment * N_JOINTS
    return places[first : first + N_JOINTS, place], picture.is_counted[first : first + N_JOINTS, place]


def _draw(axes: object, joints: Tensor, is_there: Tensor, colour: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    number = {name: i for i, name in enumerate(INTERNAL)}
    for first, second in _BONES:
        a, b = number[first], number[second]
        if bool(is_there[a] & is_there[b]):
            axes.plot(*joints[torch.tensor([a, b])].T.tolist(), color=colour, linewidth=1.6)
    x, y = joints[is_there].T.tolist() if bool(is_there.any()) else ([], [])
    axes.plot(x, y, linestyle="none", marker="o", markersize=2.6, color=colour)
