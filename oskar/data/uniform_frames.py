"""Frames spread evenly over a whole video, as video-text benchmarks choose them."""

from oskar.errors import InputError


def uniform_frame_indices(n_frames_in_video: int, n: int) -> list[int]:
    """``n`` numbers evenly from the first frame to the last, ``linspace(0, L - 1, n)`` rounded down.

    Both ends are among them; a single one is frame 0; a video of fewer than ``n`` frames repeats some.
    In whole numbers, so that no rounding error of a float moves a frame.

    Raises:
        InputError: no frame to choose from, or none asked for.
    """
    if n_frames_in_video < 1:
        raise InputError(f"a video of {n_frames_in_video} frames", fix="leave videos without frames out")
    if n < 1:
        raise InputError(f"{n} frames asked for", fix="ask for one frame or more")
    return [i * (n_frames_in_video - 1) // max(n - 1, 1) for i in range(n)]
