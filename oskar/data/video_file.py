"""A video file as FFmpeg sees it: opened with checks, decoded in order, its packets counted."""

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from oskar.errors import InputError

# Codecs of which every packet is one shown picture. VP8 is not among them: it has hidden pictures.
_ONE_PICTURE_PER_PACKET = frozenset(
    {"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "ffv1", "rawvideo", "prores", "msmpeg4v3", "wmv2"}
)
_MPEG4_PLACEHOLDER_BYTES = 19  # pictures packed two to a packet leave packets this small, which are none


class VideoError(InputError):
    """A video file that cannot give the frames it was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFrame:
    """A frame that decodes without others: its number and its two times in ticks of the stream."""

    index: int
    presentation_time: int
    decoding_time: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketScan:
    """What the packets of a whole file tell, with only the first picture decoded.

    ``n_frames`` is None where packets do not count pictures. ``times`` are the presentation times in
    order, one per frame, and ``key_frames`` the places to seek to; both are empty where the file
    does not state them reliably.
    """

    first: VideoFrame | None
    n_frames: int | None
    times: list[int]
    key_frames: list[KeyFrame]


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; FFmpeg's errors inside the block become VideoError."""
    file = Path(path)
    if not file.is_file():
        raise VideoError(f"{path} is not a file", fix="check the path")
    if file.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)", fix="copy or download the file again")
    try:
        # The scheme keeps FFmpeg from reading a colon in a name as another protocol.
        with av.open(f"file:{file}", metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(
                    f"{path} has no video stream (format: {container.format.name})", fix="give a file with a picture"
                )
            codec = cast(VideoCodecContext | None, streams[0].codec_context)
            if codec is None:
                raise VideoError(
                    f"{path} is in a codec that FFmpeg does not know", fix="convert it, e.g. to H.264 in mp4"
                )
            codec.thread_count = 1
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be decoded ({error.strerror})", fix="replace the file or convert it, e.g. to H.264 in mp4"
        ) from error


def decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Pictures in presentation order from where the container stands; a packet cut short ends the video."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            yield from stream.codec_context.decode(None)
            return
        if packet.size > 0 or packet.dts is None:  # an empty packet with a time is a gap, not the end
            yield from stream.codec_context.decode(packet)


def scan_packets(container: InputContainer, stream: VideoStream) -> PacketScan:
    """Read all packets from the start of a container that was just opened."""
    codec = stream.codec_context.name
    first: VideoFrame | None = None
    packets: list[tuple[int | None, int | None, bool]] = []
    is_counting = codec in _ONE_PICTURE_PER_PACKET
    for packet in container.demux(stream):
        if packet.is_corrupt:
            break
        if packet.size == 0 and packet.dts is not None:
            continue
        if first is None:
            first = next(iter(stream.codec_context.decode(packet)), None)
        if packet.size == 0:
            continue
        if not packets and not packet.is_keyframe:
            is_counting = False  # what comes before the first key frame may or may not be shown
        if codec == "mpeg4" and packet.size <= _MPEG4_PLACEHOLDER_BYTES:
            is_counting = False
        if not packet.is_discard:
            packets.append((packet.pts, packet.dts, packet.is_keyframe))
    if first is None:
        first = next(iter(stream.codec_context.decode(None)), None)  # a file cut short while the decoder held it back
    times = sorted({pts for pts, _, _ in packets if pts is not None})
    # AVI stores no presentation times: those of its packets are guesses.
    is_timed = len(times) == len(packets) and container.format.name != "avi"
    if not is_timed and container.format.name != "avi":
        is_counting = False  # halves of pictures, or damage
    key_frames = _key_frames(packets, times) if is_counting and is_timed else []
    return PacketScan(
        first=first,
        n_frames=len(packets) if is_counting else None,
        times=times if key_frames else [],
        key_frames=key_frames,
    )


def _key_frames(packets: list[tuple[int | None, int | None, bool]], times: list[int]) -> list[KeyFrame]:
    """The key frames in order; none if the first frame is not one, for then its number is in doubt."""
    found = [
        KeyFrame(index=bisect.bisect_left(times, pts), presentation_time=pts, decoding_time=pts if dts is None else dts)
        for pts, dts, is_key in packets
        if is_key and pts is not None
    ]
    found.sort(key=lambda key_frame: key_frame.index)
    return found if found and found[0].index == 0 else []
