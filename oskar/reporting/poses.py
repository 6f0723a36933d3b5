"""Predicted poses: a linear map from what the predictor says of hidden joints to where they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.masking.packing import ModalityTokens, build_batch
from oskar.modalities import N_JOINTS
from oskar.pretraining import MaskedPrediction
from oskar.reporting.error_map import draws_of, repeated, shown_steps
from oskar.reporting.exhibit import Block, Exhibit, Picture, Strip, Table, png_file, skeleton_svg
from oskar.reporting.pictured_run import Scene
from oskar.reporting.results import read_json

PENALTY_SHARE = 0.01  # of the ridge regression, as a share of its number of examples
_DRAWS_EACH = 8  # of every clip that the decoder learns on
_CLIPS_AT_ONCE = 16
_SMALLEST_BOX = 1e-3
_TITLE = "Predicted poses"
SAVED_TASK, N_SAVED = "pose-decoding", 3


@dataclass(frozen=True, slots=True, eq=False)
class HiddenJoints:
    """Joints that were targets: ``features [n, W]`` predicted for them, ``places [n, 2]`` as shares of their box.

    ``boxes [n, 4]``; ``token_idx`` and ``clip`` int64 ``[n]``.
    """

    features: Tensor
    places: Tensor
    boxes: Tensor
    token_idx: Tensor
    clip: Tensor

    @property
    def joint(self) -> Tensor:
        return self.token_idx % N_JOINTS


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Place of a joint = its mean place ``[17, 2]`` + standardised features @ ``weights [W, 2]``."""

    mean_places: Tensor
    mean: Tensor
    deviation: Tensor
    weights: Tensor

    def __call__(self, joints: HiddenJoints) -> Tensor:
        """Places ``[n, 2]``."""
        return self.mean_places[joints.joint] + (joints.features - self.mean) / self.deviation @ self.weights


def pose_exhibit(scene: Scene, run: Path) -> Exhibit:
    """Poses by a decoder fitted here, then the pictures that evaluations of pose decoding saved in the run folder."""
    fitted = fitted_exhibit(scene)
    return Exhibit(fitted.title, fitted.paragraphs, fitted.blocks + tuple(saved_blocks(run)))


def saved_blocks(run: Path) -> list[Block]:
    """The first pictures of every evaluation of pose decoding, as it drew them."""
    blocks = []
    for folder in sorted(run.glob("evaluations/*")):
        summary = read_json(folder / "summary.json")
        if summary is None or summary.get("task") != SAVED_TASK:
            continue
        pictures = [
            Picture(source=png_file(path), alt=f"Decoded poses, {path.stem}", caption=path.stem)
            for path in sorted(folder.glob("pictures/*.png"))[:N_SAVED]
        ]
        if pictures:
            strips = tuple(Strip("", (picture,), is_wide=True) for picture in pictures)
            blocks.append(Block(heading=f"Saved by {folder.name}", strips=strips))
    return blocks


def fitted_exhibit(scene: Scene) -> Exhibit:
    """Fit a decoder on every other clip for the run and for random weights, and draw a clip of the others."""
    if not scene.weights.has_predictor:
        return Exhibit(_TITLE, ("The run has no checkpoint any more, and its encoder alone predicts nothing.",))
    clips = scene.sample.clips
    has_people = torch.zeros(len(clips), dtype=torch.bool)
    if clips.joints is not None:
        has_people = (clips.joints[..., 2] > 0).flatten(1).any(1)
    rows = has_people.nonzero().squeeze(1)
    if len(rows) < 4:
        return Exhibit(_TITLE, (f"{len(rows)} of the pictured clips have a skeleton, too few to fit a decoder on.",))
    learnt, tested = rows[::2], rows[1::2]
    assert clips.joints is not None
    n_joints = (clips.joints[tested][..., 2] > 0).flatten(1).sum(1)
    drawn = int(tested[n_joints.argmax()])  # a whole person says more than a part of one
    decoded: dict[str, HiddenJoints] = {}
    places: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for name, module in (("run", scene.weights.run), ("random weights", scene.weights.start)):
        decoder = fit_decoder(hidden_joints(module, clips, learnt.repeat(_DRAWS_EACH), scene.config))
        of_test = hidden_joints(module, clips, tested.repeat(_DRAWS_EACH), scene.config)
        if len(of_test.clip) == 0:
            return Exhibit(_TITLE, ("No joint of the pictured clips was a target.",))
        errors[name] = mean_error(decoder(of_test), of_test)
        errors["mean pose"] = mean_error(decoder.mean_places[of_test.joint], of_test)
        decoded[name] = hidden_joints(module, clips, torch.full((draws_of(scene.config),), drawn), scene.config)
        places[name] = decoder(decoded[name])
        places["mean pose"], decoded["mean pose"] = decoder.mean_places[decoded[name].joint], decoded[name]
    order = ("run", "random weights", "mean pose")
    text = (
        "What the predictor says of hidden joints, and where in their person's box a ridge regression, one for all "
        f"joints, takes them to be from that. It learns on {len(learnt)} of the clips, with encoder and predictor "
        f"frozen, and is tested on {len(tested)} others. The mean pose knows the box and the joint alone. Solid bones "
        "and round joints are measured, dashed bones and square joints are predicted: each joint of a predicted pose "
        "was hidden, in one draw or another."
    )
    table = Table(
        "Mean distance of predicted from measured joints, as a share of the longer side of their box.",
        ("", *order),
        (("error", *(f"{errors[name]:.3f}" for name in order)),),
    )
    strips = (_measured(scene, drawn), *(_predicted(scene, name, decoded[name], places[name]) for name in order))
    heading = f"Clip {scene.sample.clip_ids[drawn]}"
    return Exhibit(_TITLE, (text,), (Block(table=table), Block(heading=heading, strips=strips)))


@torch.no_grad()
def hidden_joints(module: MaskedPrediction, clips: ClipBatch, rows: Tensor, config: Config) -> HiddenJoints:
    """What is predicted for the joints that are targets, each of the clips ``rows`` masked in its own way."""
    features, places, boxes, token_idx, clip = [], [], [], [], []
    for first in range(0, len(rows), _CLIPS_AT_ONCE):
        some = rows[first : first + _CLIPS_AT_ONCE]
        for output in module.compare(build_batch(repeated(clips, some, first), config, 0)):
            tokens = output.target.tokens.get("skeleton")
            if tokens is None or tokens.boxes is None:
                continue
            place, is_known = _places(tokens, config)
            features.append(output.comparison.predictions.flatten(0, 1)[tokens.slots][is_known].float())
            places.append(place[is_known])
            boxes.append(tokens.boxes[is_known])
            token_idx.append(tokens.token_idx[is_known])
            clip.append(some[tokens.slots // output.target.segments.shape[1]][is_known])
    if not features:
        none = torch.empty(0, dtype=torch.int64)
        return HiddenJoints(torch.empty(0, 1), torch.empty(0, 2), torch.empty(0, 4), none, none)
    return HiddenJoints(*(torch.cat(parts) for parts in (features, places, boxes, token_idx, clip)))


def fit_decoder(joints: HiddenJoints) -> Decoder:
    """The ridge regression from standardised features to the deviation from each joint's mean place."""
    counts = torch.bincount(joints.joint, minlength=N_JOINTS).clamp_min(1)[:, None]
    mean_places = torch.zeros(N_JOINTS, 2).index_add_(0, joints.joint, joints.places) / counts
    mean, deviation = joints.features.mean(0), joints.features.std(0, correction=0).clamp_min(1e-6)
    x = ((joints.features - mean) / deviation).double()
    y = (joints.places - mean_places[joints.joint]).double()
    penalty = PENALTY_SHARE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    return Decoder(mean_places, mean, deviation, torch.linalg.solve(x.T @ x + penalty, x.T @ y).float())


def mean_error(places: Tensor, joints: HiddenJoints) -> float:
    """Mean distance from where the joints are, as a share of the longer side of their box."""
    sides = joints.boxes[:, 2:] - joints.boxes[:, :2]
    shares = sides / sides.amax(1, keepdim=True)
    return float(((places - joints.places) * shares).norm(dim=1).mean())


def _places(tokens: ModalityTokens, config: Config) -> tuple[Tensor, Tensor]:
    """Mean place of each token over its frames as a share of its box, and whether it has a box to be a share of."""
    assert tokens.boxes is not None
    values = tokens.values.view(len(tokens.values), -1, 3)
    is_there = (values[..., 2:] > 0).float()
    place = (values[..., :2] * is_there).sum(1) / is_there.sum(1).clamp_min(1)
    sides = tokens.boxes[:, 2:] - tokens.boxes[:, :2]
    if config.tokens.joint_frame == "clip":
        place = (place - tokens.boxes[:, :2]) / sides.clamp_min(_SMALLEST_BOX)
    return place, (sides >= _SMALLEST_BOX).all(1) & (is_there.sum((1, 2)) > 0)


def _segments(config: Config) -> list[int]:
    return shown_steps(config.tokens.n_frames // config.tokens.segment_frames)


def _measured(scene: Scene, row: int) -> Strip:
    tokens, joints = scene.config.tokens, scene.sample.clips.joints
    assert joints is not None
    pictures = []
    for segment in _segments(scene.config):
        frame = segment * tokens.segment_frames + tokens.segment_frames // 2
        people = list(joints[row, :, frame].numpy())
        pictures.append(Picture(svg=skeleton_svg(people), alt=f"Measured in frame {frame}", caption=f"frame {frame}"))
    return Strip("measured", tuple(pictures))


def _predicted(scene: Scene, name: str, joints: HiddenJoints, places: Tensor) -> Strip:
    people = assembled(joints, places, scene.config)
    pictures = (
        Picture(svg=skeleton_svg(list(people[:, segment]), is_measured=False), alt=f"{name}, time segment {segment}")
        for segment in _segments(scene.config)
    )
    return Strip(name, tuple(pictures))


def assembled(joints: HiddenJoints, places: Tensor, config: Config) -> npt.NDArray[np.float32]:
    """People ``[S, segments, 17, 3]`` in the frame: each joint the mean over its draws, known where there was one."""
    tokens = config.tokens
    n_tokens = tokens.n_people * (tokens.n_frames // tokens.segment_frames) * N_JOINTS
    corner, sides = joints.boxes[:, :2], joints.boxes[:, 2:] - joints.boxes[:, :2]
    sums = torch.zeros(n_tokens, 2).index_add_(0, joints.token_idx, corner + places * sides)
    counts = torch.bincount(joints.token_idx, minlength=n_tokens)[:, None]
    people = torch.cat([sums / counts.clamp_min(1), (counts > 0).float()], dim=1)
    return np.asarray(people.view(tokens.n_people, -1, N_JOINTS, 3).numpy(), dtype=np.float32)
