"""Predicted joints as rows of ``predictions.csv``, and the errors that the file alone gives again."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oskar.metrics.pose import pose_metrics, relative_errors
from oskar.modalities import N_JOINTS
from oskar.tasks.pose_features import PoseTargets
from oskar.tokens.layouts import INTERNAL

_DECIMALS = 5  # of a share of the crop: 0.002 pixels of 224
_SMALLEST_SIDE = 10.0**-_DECIMALS


@dataclass(slots=True)
class PredictedPoses:
    """All counted joints of the test clips: who and when, the truth, and the places each variant gives.

    Numbers are rounded as the file has them, so that the metrics of both are the same.
    """

    names: Sequence[str]
    clip_ids: list[str] = field(default_factory=list)
    _parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(
        self, clip_ids: Sequence[str], targets: PoseTargets, predicted: Mapping[str, Tensor], n_people: int
    ) -> None:
        """Clips with ``[B, N, F, 2]`` joints of every name; ``n_people`` cuts N into people."""
        clip, token, frame = targets.is_counted.nonzero(as_tuple=True)
        n_positions = targets.joints.shape[1] // n_people
        segment = token % n_positions // N_JOINTS
        columns = {
            "clip": clip + len(self.clip_ids),
            "person": token // n_positions,
            "frame": segment * targets.joints.shape[2] + frame,
            "joint": token % N_JOINTS,
            "side": _rounded(targets.sides[clip, token, frame]).clamp_min(_SMALLEST_SIDE),
            "truth": _rounded(targets.joints[clip, token, frame]),
        } | {name: _rounded(predicted[name][clip, token, frame]) for name in self.names}
        for name, values in columns.items():
            self._parts.setdefault(name, []).append(values)
        self.clip_ids += clip_ids

    def column(self, name: str) -> Tensor:
        """Whole numbers of "clip", "person", "frame", "joint"; "side"; places ``[n, 2]`` of "truth" or a name."""
        return torch.cat(self._parts[name])

    def metrics(self, name: str, evaluated_share: float) -> dict[str, float]:
        errors = relative_errors(self.column(name), self.column("truth"), self.column("side"))
        return pose_metrics(errors, evaluated_share=evaluated_share)

    def write(self, path: Path) -> None:
        """A row for every counted joint; places are shares of the crop, frames count those that the clip shows."""
        numbers = [self.column(name).numpy() for name in ("clip", "person", "frame", "joint")]
        places = [self.column(name).numpy() for name in ("truth", *self.names)]
        reals = np.concatenate([places[0], self.column("side").numpy()[:, None], *places[1:]], axis=1)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            axes = [f"{name}_{axis}" for name in self.names for axis in "xy"]
            writer.writerow(["clip_id", "person", "frame", "joint", "x", "y", "box_side", *axes])
            for (clip, person, frame, joint), values in zip(
                zip(*(n.tolist() for n in numbers), strict=True), reals.tolist(), strict=True
            ):
                rounded = [f"{value:.{_DECIMALS}f}" for value in values]
                writer.writerow([self.clip_ids[clip], person, frame, INTERNAL[joint], *rounded])


def _rounded(values: Tensor) -> Tensor:
    scale = 10.0**_DECIMALS
    return (values.double() * scale).round() / scale
