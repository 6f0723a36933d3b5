"""What the page shows of a row: a small moving picture that every browser plays, and the joints in its frames."""

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from oskar.data.decoding import probe, read_frames
from oskar.data.placement import SkeletonSequence, place
from oskar.data.rows import PACKED_FILE
from oskar.data.skeletons import PackedSkeletons, folder_layout, read_joints_file
from oskar.errors import InputError
from oskar.searching.clips import Values
from oskar.searching.confined import Confined

SHORT_SIDE = 160
MOST_FRAMES = 48
FRAMES_PER_SECOND = 12
_RATE_UNKNOWN = 15.0
_MARGIN = 0.1  # around joints in a square of their own
_BITS_PER_SECOND = 250_000
_CACHE_BYTES = 64 << 20
_AT_ONCE = 2  # pictures made at the same time


@dataclass(frozen=True, slots=True)
class Shown:
    """Which frames of a clip or window are shown, and how many of them a second.

    ``speed`` is above 1 where a long window is shown faster than it happened.
    """

    frame_idx: tuple[int, ...]
    frames_per_second: float
    speed: float


def shown_frames(n_frames: int, fps: float, start_seconds: float | None, end_seconds: float | None) -> Shown:
    """At most ``MOST_FRAMES`` frames evenly over a window, about ``FRAMES_PER_SECOND``, as fast as it happened if so
    few suffice."""
    first = 0 if start_seconds is None else min(max(round(start_seconds * fps), 0), n_frames - 1)
    end = n_frames if end_seconds is None else min(max(round(end_seconds * fps), first + 1), n_frames)
    n_real = end - first
    n_shown = max(1, min(MOST_FRAMES, n_real, round(n_real / fps * FRAMES_PER_SECOND)))
    rate = max(n_shown / (n_real / fps), FRAMES_PER_SECOND / 2)
    idx = tuple(first + int((i + 0.5) * n_real / n_shown) for i in range(n_shown))
    return Shown(idx, rate, rate * n_real / fps / n_shown)


def webm(frames: Tensor, frames_per_second: float) -> bytes:
    """Uint8 RGB ``[T, 3, H, W]`` as VP8 in WebM, which all current browsers play."""
    height, width = (size - size % 2 for size in frames.shape[2:])
    buffer = io.BytesIO()
    rate = Fraction(frames_per_second).limit_denominator(1000)
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=rate, options={"deadline": "realtime", "cpu-used": "8"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = _BITS_PER_SECOND
        stream.codec_context.thread_count = 1
        for i, picture in enumerate(frames[:, :, :height, :width].permute(0, 2, 3, 1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


class Thumbnails:
    """Moving pictures by key, made when first asked for; the least used are dropped above a number of bytes."""

    def __init__(self, most_bytes: int = _CACHE_BYTES) -> None:
        self._most_bytes, self._n_bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[str, Shown], bytes] = OrderedDict()
        self._lock, self._at_once = Lock(), Semaphore(_AT_ONCE)

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, video: Path, shown: Shown) -> bytes:
        """The picture of some frames of a video; raises VideoError where they cannot be read."""
        key = (str(video), shown)
        kept = self._get(key)
        if kept is not None:
            return kept
        with self._at_once:
            kept = self._get(key)  # another may have made it meanwhile
            if kept is None:
                kept = webm(read_frames(video, shown.frame_idx, short_side=SHORT_SIDE), shown.frames_per_second)
                self._put(key, kept)
        return kept

    def _get(self, key: tuple[str, Shown]) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _put(self, key: tuple[str, Shown], picture: bytes) -> None:
        with self._lock:
            if len(picture) > self._most_bytes or key in self._kept:
                return
            self._kept[key] = picture
            self._n_bytes += len(picture)
            while self._n_bytes > self._most_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._n_bytes -= len(dropped)


def shown_video(video: Path, values: Values) -> Shown:
    """The frames of a row's window; raises VideoError where the file is no video."""
    info = probe(video)
    return shown_frames(info.n_frames, info.fps, values.get("start_seconds"), values.get("end_seconds"))


def shown_joints(confined: Confined, values: Values) -> dict[str, Any]:
    """The joints of a row in the frames that its picture shows, as the page draws them.

    ``people`` lists for each person and frame the 17 joints of COCO as ``[x, y]`` in shares of the frame, null where
    unknown. ``is_over_video`` is False for joints that do not lie on the picture: of clips without one, and in 3-D;
    they are in a square of their own. ``aspect`` is width by height.

    Raises:
        InputError: no joints, or joints that cannot be read.
    """
    path = confined.joints(values)
    if path is None:
        raise InputError(f"clip {values['clip_id']} has no joints", fix="give the data joints before it is embedded")
    video = confined.video(values)
    info = None if video is None else probe(video)
    size = None if info is None else (info.width, info.height)
    sequence = _sequence(path, confined, values, size)
    n_frames = sequence.n_frames if info is None else min(sequence.n_frames, info.n_frames)
    fps = (values.get("fps") if info is None else info.fps) or _RATE_UNKNOWN
    shown = shown_frames(n_frames, fps, values.get("start_seconds"), values.get("end_seconds"))
    is_over_video = info is not None and sequence.positions.shape[-1] == 2
    joints, _ = place(
        sequence,
        torch.tensor(shown.frame_idx),
        projection="orthographic",
        focal_length=1.0,
        yaw_radians=0.0,
        margin=_MARGIN,
        virtual_frame=not is_over_video,
    )
    return {
        "people": _points(joints),
        "frames_per_second": shown.frames_per_second,
        "speed": shown.speed,
        "is_over_video": is_over_video,
        "aspect": size[0] / size[1] if size is not None and is_over_video else 1.0,
    }


def _sequence(path: Path, confined: Confined, values: Values, size: tuple[int, int] | None) -> SkeletonSequence:
    start, end = values.get("joints_start"), values.get("joints_end")
    if path.name == PACKED_FILE and start is not None and end is not None:
        return PackedSkeletons(path.parent).sequence(int(start), int(end), size)
    parents = [folder for folder in path.parents if folder.is_relative_to(confined.folder)]
    layout = next((found for folder in parents if (found := folder_layout(folder)) is not None), None)
    sequence = read_joints_file(path, frame_size=size, layout=layout, prefer_2d=size is not None)
    if sequence is None:
        raise InputError(f"{path} holds no joints", fix="leave the file out of the data")
    return sequence


def _points(joints: Tensor) -> Sequence[Any]:
    """``[S, T, 17, 3]`` as lists of ``[x, y]`` or None."""
    return [
        [[[round(x, 4), round(y, 4)] if c > 0 else None for x, y, c in frame] for frame in person]
        for person in joints.tolist()
    ]
