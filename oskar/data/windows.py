"""Which frames of a sequence a clip shows: random windows to train on, fixed ones to evaluate.

Two of the rules of ``ClipConfig.temporal``, the same for video frames and for skeleton frames:

``"stride"``  A window of ``n_frames * stride_frames`` frames, of which every ``stride_frames``-th is
              taken. A sequence shorter than the window follows V-JEPA: ``L // stride_frames`` (at
              least one) numbers evenly from 0 to L inclusive, cut to L - 1 and to integers, and then
              the last frame L - 1 as often as it takes to fill the clip.
``"span"``    A share of the sequence, of which ``n_frames`` are taken evenly, its first and its last
              frame among them; short sequences repeat frames.
"""

from oskar.config import ClipConfig
from oskar.errors import InputError


def window_indices(n_available: int, *, n_frames: int, config: ClipConfig, u_start: float, u_share: float) -> list[int]:
    """The ``n_frames`` frame numbers of one random window, never decreasing.

    ``u_start`` and ``u_share`` are uniform in [0, 1): the place of the window, and under ``"span"``
    its length within ``config.span_share``. Raises InputError if there is no frame at all.
    """
    require_frames(n_available)
    if config.temporal == "span":
        low, high = config.span_share
        length = _span_length(n_available, low + u_share * (high - low))
        return evenly(draw_below(u_start, n_available - length + 1), length, n_frames)
    window = n_frames * config.stride_frames
    if n_available < window:
        return _short_sequence(n_available, n_frames, config.stride_frames)
    return _every_nth(draw_below(u_start, n_available - window + 1), n_frames, config.stride_frames)


def evaluation_windows(n_available: int, *, n_frames: int, config: ClipConfig, n_clips: int) -> list[list[int]]:
    """The frame numbers of ``n_clips`` fixed windows.

    ``"stride"``: the sequence is cut into equal segments with a window in the middle of each; where
    a segment is shorter than a window, windows overlap and start evenly from the first frame to the
    last possible start (V-JEPA); where the sequence is shorter than a window, all are alike.
    ``"span"``: one window is the whole sequence; more have the mean of ``config.span_share`` as
    their length and start evenly from the first to the last possible start.
    Raises InputError if there is no frame at all.
    """
    require_frames(n_available)
    if n_clips < 1:
        raise InputError(f"n_clips = {n_clips}", fix="ask for one clip or more")
    if config.temporal == "span":
        length = n_available if n_clips == 1 else _span_length(n_available, sum(config.span_share) / 2)
        return [evenly(start, length, n_frames) for start in even_starts(n_available - length, n_clips)]
    window = n_frames * config.stride_frames
    if n_available < window:
        return [_short_sequence(n_available, n_frames, config.stride_frames)] * n_clips
    if n_available >= n_clips * window:
        starts = [((2 * i + 1) * n_available - n_clips * window) // (2 * n_clips) for i in range(n_clips)]
    else:
        starts = even_starts(n_available - window, n_clips)
    return [_every_nth(start, n_frames, config.stride_frames) for start in starts]


def require_frames(n_available: int) -> None:
    """InputError where a sequence has no frame."""
    if n_available < 1:
        raise InputError(f"a sequence of {n_available} frames", fix="leave clips without frames out")


def draw_below(u: float, n: int) -> int:
    """A uniform number in [0, 1) to one of 0 .. n - 1, safe against rounding up to n."""
    return min(int(u * n), n - 1)


def _every_nth(start: int, n_frames: int, stride_frames: int) -> list[int]:
    return list(range(start, start + n_frames * stride_frames, stride_frames))


def _short_sequence(n_available: int, n_frames: int, stride_frames: int) -> list[int]:
    n_spread = max(n_available // stride_frames, 1)
    spread = [min(i * n_available // max(n_spread - 1, 1), n_available - 1) for i in range(n_spread)]
    return spread + [n_available - 1] * (n_frames - n_spread)


def _span_length(n_available: int, share: float) -> int:
    return min(max(int(share * n_available + 0.5), 1), n_available)


def even_starts(last_start: int, n_clips: int) -> list[int]:
    """``n_clips`` starts evenly from 0 to ``last_start``; a single one in the middle."""
    if n_clips == 1:
        return [last_start // 2]
    return [i * last_start // (n_clips - 1) for i in range(n_clips)]


def evenly(start: int, length: int, n_frames: int) -> list[int]:
    """``n_frames`` numbers evenly over ``length`` frames, ends included, each the nearest frame (half up)."""
    if n_frames == 1:
        return [start + (length - 1) // 2]
    gaps = n_frames - 1
    return [start + (2 * i * (length - 1) + gaps) // (2 * gaps) for i in range(n_frames)]
