"""The frames and crops that the official protocols of action recognition show of a video.

L is the number of frames of the video, ``u`` are uniforms in [0, 1), which stand for the draws of a protocol; every
rule is exact in whole numbers. Clips are lists of frame numbers that never decrease.

VideoMAE fine-tuning   Kinetics: ``dense_train_idx``, ``dense_test_idx``. Something-Something and other sets whose
                       classes need the whole video: ``segment_train_idx``, ``segment_test_idx``.
V-JEPA frozen probe    ``probe_idx``.
NTU skeletons          ``centre_idx`` and ``random_idx`` over the frames that show somebody.
Crops at test          ``crop_corners`` of a video whose short side was resized to that of the crop.
"""

from collections.abc import Sequence

from oskar.data.windows import draw_below, even_starts, require_frames
from oskar.errors import InputError


def dense_train_idx(n_available: int, *, u: float, n_frames: int = 16, stride_frames: int = 4) -> list[int]:
    """One clip from a random window of W = ``n_frames * stride_frames`` frames.

    L > W: a start s of 0 .. L - W, then ``linspace(s, s + W, n_frames)`` cut to s + W - 1. Else ``linspace(0, L,
    L // stride_frames)`` cut to L - 1, then the last frame as often as it takes. Numbers are cut to integers.
    """
    require_frames(n_available)
    window = n_frames * stride_frames
    if n_available > window:
        start = draw_below(u, n_available - window + 1)
        return [start + i for i in _linspace(window, n_frames, highest=window - 1)]
    spread = _linspace(n_available, n_available // stride_frames, highest=n_available - 1)
    return spread + [n_available - 1] * (n_frames - len(spread))


def dense_test_idx(
    n_available: int, *, n_clips: int = 5, n_frames: int = 16, stride_frames: int = 4
) -> list[list[int]]:
    """Clips at even places of every ``stride_frames``-th frame of the whole video.

    These n frames, the last repeated up to ``n_frames``, are cut from ``int(k max(n - n_frames, 0) / (n_clips - 1))``
    on, k = 0 .. n_clips - 1; a single clip lies in the middle.
    """
    require_frames(n_available)
    taken = list(range(0, n_available, stride_frames))
    taken += [taken[-1]] * (n_frames - len(taken))
    starts = even_starts(len(taken) - n_frames, n_clips)
    return [taken[start : start + n_frames] for start in starts]


def segment_train_idx(n_available: int, *, u: Sequence[float], compat: bool = False) -> list[int]:
    """A random frame of each of ``len(u)`` = n segments of ``L // n`` frames.

    A video shorter than n frames is shown evenly, ``linspace(0, L - 1, n)`` cut to integers; ``compat``
    shows its first frame n times, as VideoMAE does.
    """
    require_frames(n_available)
    n_segments = len(u)
    length = n_available // n_segments
    if length > 0:
        return [i * length + draw_below(share, length) for i, share in enumerate(u)]
    return [0] * n_segments if compat else _linspace(n_available - 1, n_segments, highest=n_available - 1)


def segment_test_idx(n_available: int, *, n_clips: int = 2, n_frames: int = 16) -> list[list[int]]:
    """The numbers ``int(j L / (n_clips n_frames))`` dealt out to the clips in turn.

    For two clips of 16 these are VideoMAE's ``int(tick i)`` and ``int(tick / 2 + tick i)`` with tick = L / 16.
    """
    require_frames(n_available)
    n_all = n_clips * n_frames
    return [[j * n_available // n_all for j in range(clip, n_all, n_clips)] for clip in range(n_clips)]


def probe_idx(n_available: int, *, u: Sequence[float], n_frames: int = 16, stride_frames: int = 4) -> list[list[int]]:
    """A clip from each of ``len(u)`` = S equal segments, for training and test.

    A segment of W = ``n_frames * stride_frames`` frames or more has a random window as ``dense_train_idx`` has. Else
    the clips overlap and nothing is drawn: with M = min(W, L) - 1 all are ``linspace(0, M, M // stride_frames)``
    cut to integers, then M as often as it takes, moved by ``i (L - W) // (S - 1)`` where L > W.
    """
    require_frames(n_available)
    window, n_clips = n_frames * stride_frames, len(u)
    segment = n_available // n_clips
    if segment >= window:
        spread = _linspace(window, n_frames, highest=window - 1)
        starts = [i * segment + draw_below(share, segment - window + 1) for i, share in enumerate(u)]
    else:
        last = min(window, n_available) - 1
        spread = _linspace(last, last // stride_frames, highest=last)
        spread += [last] * (n_frames - len(spread))
        starts = even_starts(max(n_available - window, 0), n_clips)
    return [[start + i for i in spread] for start in starts]


def centre_idx(n_available: int, *, n_segments: int = 16) -> list[int]:
    """The frame in the middle of each of ``n_segments`` equal parts of the time."""
    require_frames(n_available)
    return [(2 * i + 1) * n_available // (2 * n_segments) for i in range(n_segments)]


def random_idx(n_available: int, *, u: Sequence[float]) -> list[int]:
    """The frame at a random moment of each of ``len(u)`` equal parts of the time."""
    require_frames(n_available)
    return [min(int((i + share) * n_available / len(u)), n_available - 1) for i, share in enumerate(u)]


def crop_corners(
    frame_size: tuple[int, int], *, side: int = 224, n_crops: int = 3, is_step_whole: bool = False
) -> list[tuple[int, int]]:
    """Top and left of square crops along the longer side of a frame of (height, width), the shorter being ``side``.

    Crop c starts at ``int(c (long - side) / (n_crops - 1))``. With ``is_step_whole`` the step is cut to a whole number
    before it is multiplied, as in the V-JEPA probe. A single crop lies in the middle.
    """
    height, width = frame_size
    if min(height, width) != side:
        raise InputError(f"a frame of {width} x {height} pixels", fix=f"resize its shorter side to {side} first")
    room = max(height, width) - side
    step = room // max(n_crops - 1, 1)
    starts = [c * step for c in range(n_crops)] if is_step_whole and n_crops > 1 else even_starts(room, n_crops)
    return [(start, 0) if height > width else (0, start) for start in starts]


def _linspace(last: int, n: int, *, highest: int) -> list[int]:
    """``n`` numbers evenly from 0 to ``last``, both included, cut to integers and to ``highest``."""
    return [min(i * last // max(n - 1, 1), highest) for i in range(n)]
