"""Which parts of a clip get a vector of their own."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.data.reader import ClipLength, Span
from oskar.errors import InputError
from oskar.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig:
    """``"clip"``: one vector of the whole. ``"sliding"``: one of every window of ``seconds``, ``stride_seconds`` apart.

    Without ``stride_seconds`` windows follow each other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: Literal["clip", "sliding"] = "clip"
    seconds: float = 2.0
    stride_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--window-seconds", self.seconds), ("--stride-seconds", self.stride_seconds)):
            require(value is None or 0 < value < math.inf, name, value, "use a positive number of seconds")

    def spans(self, length: ClipLength, clip_id: str) -> list[Span]:
        """The windows of a clip, in order; text and single images have one.

        A window of ``seconds`` holds ``round(seconds * fps)`` frames, at least one, and starts at the frame nearest
        to a multiple of the stride. A clip shorter than a window is one window; frames after the last whole window
        get one more that ends with the clip.

        Raises:
            InputError: windows are in seconds, and the clip's frame rate is not known.
        """
        whole = [Span(0, length.n_frames)]
        if self.kind == "clip" or length.n_frames <= 1:
            return whole
        if length.fps is None:
            raise InputError(
                f"clip {clip_id}: its frame rate is not known, so it has no windows in seconds",
                fix="give the column fps in the index, or use --windows clip",
            )
        n_shown = max(1, round(self.seconds * length.fps))
        if n_shown >= length.n_frames:
            return whole
        stride_frames = max((self.stride_seconds or self.seconds) * length.fps, 1.0)
        last = length.n_frames - n_shown
        n_whole = math.floor(last / stride_frames) + 1
        starts = [start for i in range(n_whole) if (start := round(i * stride_frames)) <= last]
        if starts[-1] < last and starts[-1] + n_shown < length.n_frames:
            starts.append(last)
        return [Span(start, start + n_shown) for start in starts]
