"""What a pose file must agree with."""

from dataclasses import dataclass

from oskar.tokens.layouts import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """A video that poses belong to: ``size`` is (width, height) in pixels, upright.

    ``first_frame`` is the number of the first frame in files, None where they show it (``people.first_frame``).
    ``layout`` is that of array files which do not name theirs.
    """

    n_frames: int
    size: tuple[float, float]
    first_frame: int | None = None
    layout: Layout | None = None
