"""``oskar embed`` with ``oskar-small`` on made videos: its rate as a share of the encoder's own.

The encoder's own rate is that of the same batches, read and packed before the clock starts. Weights are random: they
cost the same. Videos are 640 x 360, 10 s at 30 a second, H.264 where this FFmpeg has an encoder for it.

    python benchmarks/embed_rate.py [--clips 20] [--threads 1] [--workers 1] [--recipe oskar-small]
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from oskar.embedding.embed import EmbedConfig, EmbedSummary, embed
from oskar.embedding.encode import build_encoder
from oskar.embedding.inputs import open_inputs
from oskar.embedding.job import Loaded, LoadedBatches, encoded, plan
from oskar.embedding.windows import WindowConfig
from oskar.pretraining import MaskedPrediction
from oskar.recipes import recipe
from oskar.sharing.load import load_pretrained
from oskar.train.pretrain import save_transfer

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 30, 10


def make_video(path: Path, seed: int) -> None:
    """Noise that drifts, so that frames differ and compress as video does."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 256, (HEIGHT // 8 + 8, WIDTH // 8 + FPS * SECONDS // 8, 3), dtype=np.uint8)
    scene = scene.repeat(8, 0).repeat(8, 1)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(FPS * SECONDS):
            picture = np.ascontiguousarray(scene[i % 32 : i % 32 + HEIGHT, i : i + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class Spent:
    """Seconds a clip, by the clock and of the processor; other jobs change the former alone."""

    wall: float
    cpu: float

    @classmethod
    def by(cls, run: Callable[[], object], n_clips: int) -> "Spent":
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        return cls((time.perf_counter() - wall) / n_clips, (time.process_time() - cpu) / n_clips)


def own_rate(run: Path, videos: Path, n_clips: int) -> tuple[Spent, Spent]:
    """What the encoder takes for batches in memory, and what reading them takes in this process."""
    pretrained = load_pretrained(run)
    inputs = open_inputs([videos], (), pretrained, "video")
    encoder = build_encoder(pretrained, "video", "mean", None, None, torch.device("cpu"))
    batches = LoadedBatches.of(encoder, inputs.sources, plan(inputs.sources, WindowConfig(), None), None)
    loaded: list[Loaded] = []
    reading = Spent.by(lambda: loaded.extend(batches[i] for i in range(len(batches))), n_clips)
    return Spent.by(lambda: [encoded(encoder, batch) for batch in loaded], n_clips), reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--recipe", default="oskar-small")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.workers} workers, {platform.machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "videos").mkdir()
        for i in range(options.clips):
            make_video(folder / f"videos/{i}.mp4", i)
        config = recipe(options.recipe)
        torch.manual_seed(0)
        save_transfer(MaskedPrediction(config), config, None, folder / "run" / "encoder")
        for repeat in range(options.repeats):
            own, reading = own_rate(folder / "run", folder / "videos", options.clips)
            done: list[EmbedSummary] = []
            settings = EmbedConfig(workers=options.workers, device="cpu")
            whole = Spent.by(
                partial(run_embed, folder, folder / f"{repeat}.safetensors", settings, done), options.clips
            )
            rate = options.clips / done[0].seconds
            print(
                f"{options.recipe}, {options.clips} clips: encoder alone {1 / own.wall:.3f} clips/s, oskar embed "
                f"{rate:.3f} clips/s = {100 * rate * own.wall:.0f} % of it, waiting for data "
                f"{100 * done[0].wait_share:.1f} % of the time\n  processor seconds a clip: encoder {own.cpu:.2f}, "
                f"the process that encodes {whole.cpu:.2f} ({100 * own.cpu / whole.cpu:.0f} % of it the encoder), "
                f"reading {reading.cpu:.2f} in the worker"
            )


def run_embed(folder: Path, out: Path, settings: EmbedConfig, done: list[EmbedSummary]) -> None:
    done.append(embed(folder / "run", [folder / "videos"], out, settings))


if __name__ == "__main__":
    main()
