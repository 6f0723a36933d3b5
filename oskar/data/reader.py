"""The contract of a clip reader: how clips are asked for, and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oskar.clip import ClipBatch


@dataclass(frozen=True, slots=True)
class TrainingDraw:
    """Read for training: windows, crops and yaw are drawn from (seed, step, clip id).

    Every index is there ``n_repeats`` times in a row, to be read as that many clips: ``repeated_id``. Equal indices
    beyond that, as where an epoch ends with the clip that the next begins with, are the same clip: what is drawn
    must not depend on what else a batch holds.
    """

    seed: int
    step: int
    n_repeats: int = 1


@dataclass(frozen=True, slots=True)
class EvaluationWindow:
    """Read for evaluation: window ``number`` of ``n_windows`` over the whole clip, nothing random.

    ``crop`` is the number of a square of the frame, of ``n_crops`` that lie evenly along its longer side; a single
    one is in the middle. People of clips without a video have no frame to cut: all their crops are alike.
    """

    number: int = 0
    n_windows: int = 1
    crop: int = 0
    n_crops: int = 1


def evaluation_views(n_windows: int, n_crops: int) -> tuple[EvaluationWindow, ...]:
    """All windows of the first crop, then all of the next."""
    return tuple(
        EvaluationWindow(number, n_windows, crop, n_crops) for crop in range(n_crops) for number in range(n_windows)
    )


Draw = TrainingDraw | EvaluationWindow


def n_repeats(draw: Draw) -> int:
    """How many clips are wanted of each index."""
    return draw.n_repeats if isinstance(draw, TrainingDraw) else 1


def repeated_id(clip_id: str, number: int) -> str:
    """The id by which windows, crops and masks of a repeated clip are drawn: its own, then with ``#1``, ``#2`` ..."""
    return f"{clip_id}#{number}" if number else clip_id


@dataclass(frozen=True, slots=True)
class Span:
    """The frames ``first`` to ``end`` - 1 of a clip."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class ClipLength:
    """How long a clip is: 0 frames where it is text alone, ``fps`` None where no rate is known."""

    n_frames: int
    fps: float | None


@dataclass(frozen=True, slots=True)
class ReadClips:
    """The clips that could be read and the others: (clip id, reason)."""

    clips: ClipBatch | None
    bad: tuple[tuple[str, str], ...] = ()


class ClipReader(Protocol):
    """Random access to the clips of one run or evaluation."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def clip_id(self, index: int) -> str: ...

    def label(self, index: int) -> int:
        """The class of a clip, -1 where it has none."""

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        """Read clips; a clip that cannot be read is listed, never replaced by another.

        In training the repeats of an index are clips of their own: ``TrainingDraw``.
        """
