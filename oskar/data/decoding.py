"""Frames out of video files, by their place in presentation order.

A frame is wanted by number, never by time: frame i is the i-th picture that the decoder gives when
the whole file is decoded from its start. Seeking is only a shortcut to the same pictures, taken
where the file's time stamps allow it to be checked and given up where they do not.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from oskar.data.video_file import KeyFrame, PacketScan, VideoError, decode, open_video, scan_packets

__all__ = ["VideoError", "VideoInfo", "iter_all", "probe", "read_all", "read_frames"]

SEEK_GAP_FRAMES = 32  # a shorter way to the next wanted frame is decoded through

# Bilinear over a support that grows with the reduction, which is what antialiasing means; rounding
# and chroma are exact, so that pictures do not depend on the processor.
_SCALER = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_RATE_TOLERANCE = 0.02  # a stated rate this close to the measured one is the same, less rounded

_Numbered = Iterator[tuple[int, VideoFrame]]


class _SeekMissedError(Exception):
    """A jump that could not be proved to have landed where it should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a video file really holds; ``n_frames`` is counted, not read from the header.

    ``width`` and ``height`` are those of the upright picture; ``rotation_degrees`` (0, 90, 180 or
    270, counter-clockwise) is what uprighting took. ``fps`` is the mean rate over the file.
    """

    n_frames: int
    fps: float
    width: int
    height: int
    duration_seconds: float
    codec: str
    rotation_degrees: int


def probe(path: str | Path) -> VideoInfo:
    """Count and measure a video; decodes one frame, or all where packets do not tell their number.

    Raises VideoError if there is no file, no video in it, or not one frame that can be decoded.
    """
    with open_video(path) as (container, stream):
        scan = scan_packets(container, stream)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        seconds_per_tick = float(stream.time_base or 0)
        codec = stream.codec_context.name
    if scan.first is None:
        raise _nothing_to_decode(path)
    n_frames = scan.n_frames
    if n_frames is None:
        with open_video(path) as (container, stream):
            n_frames = sum(1 for _ in decode(container, stream))
    if len(scan.times) > 1:
        measured = (len(scan.times) - 1) / ((scan.times[-1] - scan.times[0]) * seconds_per_tick)
        rate = rate if abs(rate / measured - 1) < _RATE_TOLERANCE else measured
    if rate <= 0:
        raise VideoError(f"{path} states no frame rate", fix="write the file again with a frame rate")
    upright = _Orientation.of(scan.first)
    height, width = upright.size(scan.first.height, scan.first.width)
    return VideoInfo(
        n_frames=n_frames,
        fps=rate,
        width=width,
        height=height,
        duration_seconds=n_frames / rate,
        codec=codec,
        rotation_degrees=upright.rotation_degrees,
    )


def read_frames(path: str | Path, frame_idx: Sequence[int], *, short_side: int | None = None) -> Tensor:
    """The chosen frames, uint8 RGB ``[len(frame_idx), 3, H, W]``, upright; any order, repeats allowed.

    ``short_side`` resizes so that the shorter side has this many pixels (fewer or more than the
    original, the longer side to the nearest pixel); None keeps the size. Pixels count as square.
    Raises VideoError if a frame is not there or damaged, or the file is no video.
    """
    if len(frame_idx) == 0 or min(frame_idx) < 0:
        raise VideoError(f"{path}: frame_idx = {list(frame_idx)!r}", fix="ask for one frame or more, counted from 0")
    wanted = sorted(set(frame_idx))
    pictures = None
    if max(after - before for before, after in zip([0, *wanted], wanted, strict=False)) >= SEEK_GAP_FRAMES:
        pictures = _read_by_seeking(path, wanted, short_side)
    if pictures is None:
        pictures = _read_in_order(path, wanted, short_side)
    return torch.stack([pictures[i] for i in frame_idx])


def iter_all(path: str | Path, *, short_side: int | None = None) -> Iterator[Tensor]:
    """Every frame in turn, uint8 RGB ``[3, H, W]``, resized as in ``read_frames``; raises VideoError."""
    convert = _Converter(short_side)
    n_frames = 0
    with open_video(path) as (container, stream):
        for frame in decode(container, stream):
            _require_intact(path, n_frames, frame)
            yield convert(frame)
            n_frames += 1
    if n_frames == 0:
        raise _nothing_to_decode(path)


def read_all(path: str | Path, *, short_side: int | None = None) -> Tensor:
    """Every frame, uint8 RGB ``[T, 3, H, W]``: for short videos, all of it is in memory at once."""
    return torch.stack(list(iter_all(path, short_side=short_side)))


def _nothing_to_decode(path: str | Path) -> VideoError:
    return VideoError(f"{path} holds 0 frames that can be decoded", fix="replace the file or leave it out")


def _require_intact(path: str | Path, index: int, frame: VideoFrame) -> None:
    if frame.is_corrupt:
        raise VideoError(f"{path} is damaged at frame {index}", fix="replace the file or leave it out")


def _read_in_order(path: str | Path, wanted: list[int], short_side: int | None) -> dict[int, Tensor]:
    convert = _Converter(short_side)
    pictures: dict[int, Tensor] = {}
    missing = set(wanted)
    n_frames = 0
    with open_video(path) as (container, stream):
        for frame in decode(container, stream):
            _require_intact(path, n_frames, frame)
            if n_frames in missing:
                pictures[n_frames] = convert(frame)
                missing.discard(n_frames)
            n_frames += 1
            if not missing:
                return pictures
    raise VideoError(
        f"{path} holds {n_frames} frames that can be decoded, frame {wanted[-1]} (counted from 0) was asked for",
        fix="replace the file if it was cut short, or ask for frames that are there",
    )


def _read_by_seeking(path: str | Path, wanted: list[int], short_side: int | None) -> dict[int, Tensor] | None:
    """As ``_read_in_order`` by way of key frames; None where that is not certain to give the same."""
    with open_video(path) as (container, stream):
        scan = scan_packets(container, stream)
    if not scan.key_frames or wanted[-1] >= len(scan.times):
        return None
    starts = [key_frame.index for key_frame in scan.key_frames]
    convert = _Converter(short_side)
    pictures: dict[int, Tensor] = {}
    with open_video(path) as (container, stream):
        numbered = _number(path, decode(container, stream), scan)
        place = 0
        try:
            for wanted_index in wanted:
                key_frame = scan.key_frames[bisect.bisect_right(starts, wanted_index) - 1]
                if key_frame.index > place:
                    numbered = _jump(path, container, stream, scan, key_frame)
                pictures[wanted_index] = convert(next(frame for index, frame in numbered if index == wanted_index))
                place = wanted_index + 1
        except (_SeekMissedError, StopIteration):
            return None
    return pictures


def _jump(
    path: str | Path, container: InputContainer, stream: VideoStream, scan: PacketScan, key_frame: KeyFrame
) -> _Numbered:
    """Numbered pictures from ``key_frame`` or an earlier key frame.

    Some formats look times up by presentation and some by decoding: the first attempt is the nearest
    for the former and may land late in the latter, which the second attempt does not.
    """
    for time in (key_frame.presentation_time, key_frame.decoding_time):
        container.seek(time, stream=stream)
        numbered = _number(path, decode(container, stream), scan)
        landed = next(numbered, None)
        if landed is not None and landed[0] <= key_frame.index:
            return chain([landed], numbered)
    raise _SeekMissedError


def _number(path: str | Path, frames: Iterator[VideoFrame], scan: PacketScan) -> _Numbered:
    """Give pictures their numbers, from the first key frame on, and check that none is left out.

    Pictures shown before that key frame but stored after it lack what they refer to: skipped.
    """
    key_index = {key_frame.presentation_time: key_frame.index for key_frame in scan.key_frames}
    index: int | None = None
    for frame in frames:
        if index is None:
            index = None if frame.pts is None else key_index.get(frame.pts)
            if index is None:
                continue
        if index >= len(scan.times) or frame.pts != scan.times[index]:
            raise _SeekMissedError
        _require_intact(path, index, frame)
        yield index, frame
        index += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Orientation:
    """How a stored picture is turned upright: transposed first, then flipped along its new axes."""

    is_transposed: bool
    is_flipped_x: bool
    is_flipped_y: bool

    @classmethod
    def of(cls, frame: VideoFrame) -> "_Orientation":
        """From the display matrix; angles between the right ones go to the nearest.

        The matrix maps stored (x, y) to shown (a x + c y, b x + d y) and is stored as a b u c d v ...
        """
        side_data = cast(SideDataContainer, frame.side_data)
        if SideDataType.DISPLAYMATRIX not in side_data:
            return cls(is_transposed=False, is_flipped_x=False, is_flipped_y=False)
        a, b, _, c, d = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), dtype=np.int32)[:5].tolist()
        if abs(b) > abs(a):
            return cls(is_transposed=True, is_flipped_x=c < 0, is_flipped_y=b < 0)
        return cls(is_transposed=False, is_flipped_x=a < 0, is_flipped_y=d < 0)

    @property
    def rotation_degrees(self) -> int:
        if self.is_transposed:
            return 90 if self.is_flipped_y else 270
        return 180 if self.is_flipped_y else 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        return (width, height) if self.is_transposed else (height, width)

    def apply(self, picture: Tensor) -> Tensor:
        """``picture`` is ``[3, H, W]`` as stored."""
        if self.is_transposed:
            picture = picture.transpose(1, 2)
        axes = [axis for axis, is_flipped in ((2, self.is_flipped_x), (1, self.is_flipped_y)) if is_flipped]
        return picture.flip(axes) if axes else picture


class _Converter:
    """Decoded pictures of one video to upright RGB tensors of one size, which the first one sets."""

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._scaler = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._upright: _Orientation | None = None

    def __call__(self, frame: VideoFrame) -> Tensor:
        if self._size is None or self._upright is None:
            self._size = _resized(frame.height, frame.width, self._short_side)
            self._upright = _Orientation.of(frame)
        height, width = self._size
        rgb = self._scaler.reformat(frame, width, height, "rgb24", interpolation=_SCALER, threads=1)
        return self._upright.apply(torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1))


def _resized(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    if short_side is None:
        return height, width
    short, long = min(height, width), max(height, width)
    long_side = (2 * long * short_side + short) // (2 * short)  # rounds half up
    return (short_side, long_side) if height <= width else (long_side, short_side)
