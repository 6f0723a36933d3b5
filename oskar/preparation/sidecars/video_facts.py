"""What a pose file must agree with."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """A video that poses belong to: ``size`` is (width, height) in pixels, upright.

    ``first_frame`` is the number of the first frame in files, None where they show it (``people.first_frame``).
    """

    n_frames: int
    size: tuple[float, float]
    first_frame: int | None = None
