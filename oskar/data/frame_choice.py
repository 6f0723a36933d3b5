"""Which frames a clip shows by each rule of ``ClipConfig.temporal``, in training and at test.

``"stride"`` and ``"span"`` are those of ``windows.py``. The others are official protocols, those of ``views.py``:
``"dense"`` Kinetics, ``"segments"`` Something-Something, ``"centres"`` NTU skeletons.
"""

from collections.abc import Sequence

from oskar.config import ClipConfig
from oskar.data.views import (
    centre_idx,
    dense_test_idx,
    dense_train_idx,
    random_idx,
    segment_test_idx,
    segment_train_idx,
)
from oskar.data.windows import evaluation_windows, window_indices


def n_uniforms(n_frames: int) -> int:
    """How many uniforms ``training_frames`` takes."""
    return max(n_frames, 2)


def training_frames(n_available: int, *, n_frames: int, config: ClipConfig, u: Sequence[float]) -> list[int]:
    """The ``n_frames`` frame numbers of one random clip, from uniforms in [0, 1)."""
    if config.temporal == "dense":
        return dense_train_idx(n_available, u=u[0], n_frames=n_frames, stride_frames=config.stride_frames)
    if config.temporal == "segments":
        return segment_train_idx(n_available, u=u[:n_frames])
    if config.temporal == "centres":
        return random_idx(n_available, u=u[:n_frames])
    return window_indices(n_available, n_frames=n_frames, config=config, u_start=u[0], u_share=u[1])


def evaluation_frames(n_available: int, *, n_frames: int, config: ClipConfig, n_clips: int) -> list[list[int]]:
    """The frame numbers of ``n_clips`` fixed clips; several of ``"centres"`` take turns at the middles of the parts."""
    if config.temporal == "dense":
        return dense_test_idx(n_available, n_clips=n_clips, n_frames=n_frames, stride_frames=config.stride_frames)
    if config.temporal == "segments":
        return segment_test_idx(n_available, n_clips=n_clips, n_frames=n_frames)
    if config.temporal == "centres":
        middles = centre_idx(n_available, n_segments=n_frames * n_clips)
        return [middles[clip::n_clips] for clip in range(n_clips)]
    return evaluation_windows(n_available, n_frames=n_frames, config=config, n_clips=n_clips)
