"""Decoding against the plainest oracle there is: decode the whole file in order and count."""

import random
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from av.video.reformatter import Interpolation
from torch import Tensor

from oskar.data import decoding
from oskar.data.decoding import VideoError, iter_all, probe, read_all, read_frames
from oskar.data.frame_cache import FrameCache
from oskar.data.video_file import open_video, scan_packets
from oskar.errors import InputError

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT


def picture(index: int, height: int, width: int) -> np.ndarray:
    """Moving coloured blobs, different in every frame, easy to compress."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 127 + 100 * np.sin((x + 3 * index) / 9)
    green = 127 + 100 * np.sin((y + 2 * index) / 7)
    blue = np.full((height, width), 40 + (37 * index) % 170)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def write_video(
    path: Path,
    n_frames: int,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (48, 64),
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """``times`` are presentation times in units of 1/100 s; without them 25 frames per second."""
    height, width = size
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for index in range(n_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, 25 if times is None else 100)
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


def decode_everything(path: Path) -> Tensor:
    with av.open(str(path)) as container:
        frames = [f.reformat(format="rgb24", interpolation=EXACT).to_ndarray() for f in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def real_video(name: str) -> Path:
    path = DATA_DIR / name
    if not path.exists():
        pytest.skip(f"real data not there: {path}")
    return path


VIDEOS: dict[str, Callable[[Path], Path]] = {
    "h264 with B frames": lambda d: write_video(d / "a.mp4", 150, options={"g": "20", "bf": "3", "preset": "veryfast"}),
    "h264 open groups": lambda d: write_video(
        d / "a.mkv", 150, options={"g": "20", "bf": "3", "x264-params": "open-gop=1:keyint=20:scenecut=0"}
    ),
    "h264 all key frames": lambda d: write_video(d / "a.mp4", 120, options={"g": "1"}),
    "h264 in ts": lambda d: write_video(d / "a.ts", 150, options={"g": "25", "bf": "2"}),
    "h264 in avi": lambda d: write_video(d / "a.avi", 120, options={"g": "20", "bf": "2"}),
    "hevc": lambda d: write_video(
        d / "a.mp4", 120, codec="libx265", options={"preset": "ultrafast", "x265-params": "keyint=25:log-level=none"}
    ),
    "vp8": lambda d: write_video(d / "a.webm", 90, codec="libvpx", options={"g": "20", "auto-alt-ref": "1"}),
    "vp9": lambda d: write_video(d / "a.webm", 90, codec="libvpx-vp9", options={"g": "20", "cpu-used": "8"}),
    "mpeg4 with B frames in avi": lambda d: write_video(
        d / "a.avi", 120, codec="mpeg4", options={"g": "20", "bf": "2"}
    ),
    "mpeg4 in mp4": lambda d: write_video(d / "a.mp4", 120, codec="mpeg4", options={"g": "20", "bf": "2"}),
    "mjpeg in avi": lambda d: write_video(d / "a.avi", 100, codec="mjpeg", pix_fmt="yuvj420p"),
    "variable rate": lambda d: write_video(
        d / "a.mp4", 120, times=np.cumsum(1 + np.arange(120) * 7 % 5).tolist(), options={"g": "20", "bf": "2"}
    ),
    "variable rate mkv": lambda d: write_video(
        d / "a.mkv", 120, times=np.cumsum(1 + np.arange(120) * 7 % 5).tolist(), options={"g": "20", "bf": "2"}
    ),
}
SEEKABLE = {
    "h264 with B frames",
    "h264 open groups",
    "h264 all key frames",
    "h264 in ts",
    "hevc",
    "vp9",
    "variable rate",
    "variable rate mkv",
}


@pytest.mark.parametrize("name", VIDEOS)
def test_any_frames_are_those_of_a_full_decode(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = VIDEOS[name](tmp_path)
    capfd.readouterr()
    everything = decode_everything(path)
    n = len(everything)
    assert probe(path).n_frames == n
    assert torch.equal(read_all(path), everything)
    generator = random.Random(0)
    for _ in range(8):
        chosen = [generator.randrange(n) for _ in range(generator.choice([1, 2, 5]))]
        assert torch.equal(read_frames(path, chosen), everything[chosen]), chosen
    far = [n - 1, 3, n - 1, 0, n // 2]
    assert torch.equal(read_frames(path, far), everything[far])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", sorted(SEEKABLE))
def test_every_single_frame_is_reached_by_seeking(name: str, tmp_path: Path) -> None:
    path = VIDEOS[name](tmp_path)
    everything = decode_everything(path)
    for index in range(0, len(everything), 5):
        found = decoding._read_by_seeking(path, [index], None)
        assert found is not None, index
        assert torch.equal(found[index], everything[index]), index


def test_seeking_decodes_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = VIDEOS["h264 with B frames"](tmp_path)
    n_numbered = 0
    number = decoding._number

    def counting(*args: object) -> object:
        nonlocal n_numbered
        for item in number(*args):  # type: ignore[arg-type]
            n_numbered += 1
            yield item

    monkeypatch.setattr(decoding, "_number", counting)
    read_frames(path, [145])
    assert n_numbered <= 20


REAL = [
    "sample_videos/videos/mmaction2__demo.mp4",
    "sample_videos/videos/mmaction2__test.avi",
    "utd_mhad/videos/a01_s1_t1.mp4",
    "basketball/videos/defense_1.mp4",
    "jhmdb_masks/videos/golf_040.mp4",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    path = real_video(name)
    everything = decode_everything(path)
    info = probe(path)
    n = len(everything)
    assert (info.n_frames, info.height, info.width) == (n, *everything.shape[2:])
    chosen = [n - 1, 0, n // 3, n // 3, 2 * n // 3]
    assert torch.equal(read_frames(path, chosen), everything[chosen])


def test_probe_measures(tmp_path: Path) -> None:
    info = probe(VIDEOS["h264 with B frames"](tmp_path))
    assert (info.codec, info.height, info.width, info.rotation_degrees) == ("h264", 48, 64, 0)
    assert info.fps == pytest.approx(25)
    assert info.duration_seconds == pytest.approx(6.0)
    times = np.cumsum(1 + np.arange(120) * 7 % 5).tolist()
    info = probe(VIDEOS["variable rate"](tmp_path))
    assert info.fps == pytest.approx(119 / ((times[-1] - times[0]) / 100), rel=0.02)


def test_pixels_survive_and_are_rgb(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5, options={"qp": "4"})
    for index, decoded in enumerate(iter_all(path)):
        original = torch.from_numpy(picture(index, 48, 64)).permute(2, 0, 1)
        error = (decoded.float() - original.float()).abs().mean(dim=(1, 2))
        assert decoded.dtype == torch.uint8
        assert error.max() < 6


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 3, codec="ffv1", pix_fmt="gray")
    frames = read_all(path)
    assert frames.shape == (3, 3, 48, 64)
    assert torch.equal(frames[:, 0], frames[:, 1])
    assert torch.equal(frames[:, 0], frames[:, 2])
    assert frames.float().std() > 10


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((45, 67), None, (45, 67)),
        ((45, 67), 17, (17, 25)),  # 67 * 17 / 45 = 25.3
        ((67, 45), 17, (25, 17)),
        ((48, 64), 72, (72, 96)),
        ((48, 50), 33, (33, 34)),  # 34.375
        ((31, 31), 8, (8, 8)),
    ],
)
def test_resized_like_antialiased_bilinear(
    tmp_path: Path, size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
) -> None:
    path = write_video(tmp_path / "a.mkv", 2, codec="ffv1", pix_fmt="yuv444p", size=size)
    resized = read_all(path, short_side=short_side).float()
    assert tuple(resized.shape[2:]) == expected
    oracle = F.interpolate(decode_everything(path).float(), expected, mode="bilinear", antialias=True)
    assert (resized - oracle).abs().mean() < 1.0


MATRICES = {  # the rows a b c d of the track header, as in the specification of the format
    0: (1, 0, 0, 1),
    270: (0, 1, -1, 0),  # clockwise by a quarter
    180: (-1, 0, 0, -1),
    90: (0, -1, 1, 0),
}


def with_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (65536 * value for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned = path.with_name("turned.mp4")
    turned.write_bytes(content)
    return turned


@pytest.mark.parametrize("degrees", MATRICES)
def test_rotation_metadata_is_applied(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "a.mp4", 4)
    upright = torch.rot90(read_all(path), k=degrees // 90, dims=(2, 3))
    turned = with_display_matrix(path, MATRICES[degrees])
    info = probe(turned)
    assert torch.equal(read_all(turned), upright)
    assert info.rotation_degrees == degrees
    assert (info.height, info.width) == tuple(upright.shape[2:])
    assert read_frames(turned, [2], short_side=24).shape[2:] == ((32, 24) if degrees in (90, 270) else (24, 32))


def test_mirroring_metadata_is_applied(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    assert torch.equal(read_all(with_display_matrix(path, (-1, 0, 0, 1))), read_all(path).flip(3))
    assert torch.equal(read_all(with_display_matrix(path, (1, 0, 0, -1))), read_all(path).flip(2))
    assert torch.equal(read_all(with_display_matrix(path, (0, 1, 1, 0))), read_all(path).transpose(2, 3))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_truncated_files_are_counted_not_believed(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", 100, options={"g": "20", "bf": "0"})
    everything = decode_everything(path)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    n = probe(cut).n_frames
    assert 20 < n < 90
    assert torch.equal(read_all(cut), everything[:n])
    assert torch.equal(read_frames(cut, [n - 1, 0]), everything[[n - 1, 0]])
    with pytest.raises(VideoError, match=rf"cut{suffix} holds {n} frames.*frame 99 .*Fix: ") as caught:
        read_frames(cut, [0, 99])
    assert isinstance(caught.value, InputError)


def test_damage_is_an_error_not_a_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "a.avi", 60, codec="mpeg4", options={"g": "30"})
    content = bytearray(path.read_bytes())
    generator = random.Random(1)
    for _ in range(200):
        content[generator.randrange(len(content) // 3, len(content) * 3 // 4)] = generator.randrange(256)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"a\.avi"):
        read_all(path)
    assert capfd.readouterr() == ("", "")


def test_no_video_in_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty, text, folder = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "folder.mp4"
    empty.touch()
    text.write_text("this is not a video\n" * 50)
    folder.mkdir()
    audio = tmp_path / "audio.mp4"
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    cases = {
        empty: r"empty.mp4 is empty \(0 bytes\)",
        text: "text.mp4 cannot be decoded",
        folder: "folder.mp4 is not a file",
        tmp_path / "gone.mp4": "gone.mp4 is not a file",
        audio: "audio.mp4 has no video stream",
    }
    for path, message in cases.items():
        for read in (probe, read_all, lambda p: read_frames(p, [0])):
            with pytest.raises(VideoError, match=rf"{message}.*Fix: "):
                read(path)
    assert capfd.readouterr() == ("", "")


def test_unknown_codec(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (probe, read_all, lambda p: read_frames(p, [0])):
        with pytest.raises(VideoError, match=r"a\.mp4 is in a codec that FFmpeg does not know.*Fix: "):
            read(path)


def test_odd_names_and_requests(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a b:c%03d é.mp4", 3)
    assert probe(path).n_frames == 3
    for chosen in ([], [-1], [0, -2]):
        with pytest.raises(VideoError, match="frame_idx"):
            read_frames(path, chosen)


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    info = probe(path)
    assert info.n_frames == 1
    assert info.duration_seconds == pytest.approx(0.04)
    assert read_frames(path, [0, 0, 0]).shape == (3, 3, 48, 64)
    with open_video(path) as (container, stream):
        assert scan_packets(container, stream).n_frames == 1


# ---------------------------------------------------------------------------------------- frame cache


def test_cache_gives_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    truth = read_all(path, short_side=24)
    for folder in (None, tmp_path / "cache"):
        cache = FrameCache(folder, short_side=24, memory_bytes=10**7)
        for _ in range(2):
            frames = cache.frames(path)
            assert frames is not None
            assert torch.equal(frames, truth)
            assert torch.equal(cache.read(path, [5, 2, 5]), truth[[5, 2, 5]])
    with pytest.raises(VideoError, match=r"holds 30 frames.*30"):
        cache.read(path, [30])
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        cache.read(tmp_path / "gone.mp4", [0])


def test_cached_files_are_used_replaced_when_bad_and_follow_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = write_video(tmp_path / "a.mp4", 12), tmp_path / "cache"
    truth = read_all(path, short_side=24)

    def fresh() -> FrameCache:
        return FrameCache(folder, short_side=24, memory_bytes=0)

    fresh().frames(path)
    (file,) = folder.iterdir()
    good = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.delattr("oskar.data.frame_cache.iter_all")  # a hit does not decode
        frames = fresh().frames(path)
        assert frames is not None
        assert torch.equal(frames, truth)
        frames.zero_()  # a private copy: the file is not touched
    assert file.read_bytes() == good
    for bad in (b"", b"nonsense", good[:-100], good[:60]):
        file.write_bytes(bad)
        frames = fresh().frames(path)
        assert frames is not None
        assert torch.equal(frames, truth)
        assert file.read_bytes() == good
    write_video(path, 7)
    assert len(fresh().read(path, list(range(7)))) == 7
    FrameCache(folder, short_side=16, memory_bytes=0).frames(path)
    assert len(list(folder.iterdir())) == 3


def test_cache_with_several_writers(tmp_path: Path) -> None:
    path, folder = write_video(tmp_path / "a.mp4", 20), tmp_path / "cache"
    truth = read_all(path, short_side=24)

    def first_use(_: int) -> Tensor:
        return FrameCache(folder, short_side=24, memory_bytes=0).read(path, list(range(20)))

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(frames, truth) for frames in pool.map(first_use, range(16)))
    assert [file.suffix for file in folder.iterdir()] == [".npy"]


def test_cache_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_video(tmp_path / f"{i}.mkv", 4, codec="ffv1") for i in range(3)]
    one = 4 * 3 * 24 * 32
    cache = FrameCache(None, short_side=24, memory_bytes=2 * one)
    decoded: list[str] = []
    iterate = decoding.iter_all

    def counting(path: Path, *, short_side: int | None) -> object:
        decoded.append(path.name)
        return iterate(path, short_side=short_side)

    monkeypatch.setattr("oskar.data.frame_cache.iter_all", counting)
    for i in (0, 1, 0, 2, 0, 1):
        cache.frames(paths[i])
    assert decoded == ["0.mkv", "1.mkv", "2.mkv", "1.mkv"]  # 2 pushed 1 out, for 0 was used more recently
    long = FrameCache(tmp_path / "cache", short_side=24, memory_bytes=10**7, max_frames=3)
    assert long.frames(paths[0]) is None
    assert long.frames(paths[0]) is None
    assert decoded[4:] == ["0.mkv"]  # its length is remembered
    assert torch.equal(long.read(paths[0], [3, 1]), read_frames(paths[0], [3, 1], short_side=24))
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache folder .*file.* cannot be written"):
        FrameCache(tmp_path / "file", short_side=24, memory_bytes=0)
