"""An interrupted job keeps its rows, and ends with the file that an uninterrupted one writes, byte for byte."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from embedded import mixed_folder
from runs import CommandLine, forked, forked_command
from torch import Tensor

from oskar.embedding import encode
from oskar.embedding.embed import EmbedConfig, embed
from oskar.embedding.file import index_path, read_embeddings
from oskar.embedding.partial import Partial, partial_path
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError, InterruptedRunError, StoppedRunError
from oskar.masking.packing import PackedTokens

CONFIG = EmbedConfig(workers=0, device="cpu", windows=WindowConfig(kind="sliding", seconds=0.2))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 windows of five clips in eight batches of two: some batches end in the middle of a clip."""
    monkeypatch.setattr(encode, "MOST_CLIPS_AT_ONCE", 2)


def whole(mixed_run: Path, mixed_data: Path, folder: Path, config: EmbedConfig = CONFIG) -> bytes:
    embed(mixed_run, [mixed_data], folder / "whole.safetensors", config)
    return (folder / "whole.safetensors").read_bytes() + index_path(folder / "whole.safetensors").read_bytes()


def written(out: Path) -> bytes:
    assert not partial_path(out).exists()
    return out.read_bytes() + index_path(out).read_bytes()


class Killed(Partial):
    """Kills its process before it has written the line of batch ``at``, with that batch's vectors on the disk."""

    at = 3

    def _write(self, name: str, data: bytes) -> None:
        if self.n_batches == self.at and name.endswith(".jsonl"):
            super()._write(name, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(name, data)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, pool="tokens"), replace(CONFIG, modality="fused")])
def test_killed_in_the_middle_of_a_row(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: EmbedConfig
) -> None:
    out = tmp_path / "e.safetensors"
    monkeypatch.setattr("oskar.embedding.embed.Partial", Killed)
    _, status = os.waitpid(forked(lambda: embed(mixed_run, [mixed_data], out, config), tmp_path / "log"), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    monkeypatch.undo()
    monkeypatch.setattr(encode, "MOST_CLIPS_AT_ONCE", 2)
    assert not out.exists()
    encoded = count_encoded(monkeypatch)
    embed(mixed_run, [mixed_data], out, config)
    assert encoded == [2, 2, 2, 2, 1]  # of eight batches three were done
    assert written(out) == whole(mixed_run, mixed_data, tmp_path, config)


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the list grow by the number of rows of each batch that is encoded."""
    sizes: list[int] = []
    call = encode.Encoder.__call__

    def counted(self: encode.Encoder, packed: PackedTokens) -> tuple[Tensor, Tensor | None]:
        sizes.append(len(packed.segments))
        return call(self, packed)

    monkeypatch.setattr(encode.Encoder, "__call__", counted)
    return sizes


def test_killed_from_outside_with_a_worker(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever moment: kill the whole group when some rows are done, twice, and go on."""
    out = tmp_path / "e.safetensors"
    words = (
        "embed",
        mixed_run,
        mixed_data,
        "--out",
        out,
        "--windows",
        "sliding",
        "--window-seconds",
        "0.2",
        "--workers",
        "1",
    )
    call = encode.Encoder.__call__

    def slow(self: encode.Encoder, packed: PackedTokens) -> tuple[Tensor, Tensor | None]:
        time.sleep(0.2)
        return call(self, packed)

    monkeypatch.setattr(encode.Encoder, "__call__", slow)
    for n_lines in (1, 3):
        child = forked_command(tmp_path / "log", *words, "--device", "cpu")
        wait_for_lines(partial_path(out) / "done.jsonl", n_lines, child)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not out.exists()
    monkeypatch.setattr(encode.Encoder, "__call__", call)
    embed(mixed_run, [mixed_data], out, replace(CONFIG, workers=1))
    assert written(out) == whole(mixed_run, mixed_data, tmp_path)


def wait_for_lines(path: Path, n: int, child: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), (path.parents[1] / "log").read_text()
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.005)
    raise AssertionError(f"{path}: no {n} lines in time")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_batch_finish(
    mixed_run: Path,
    mixed_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    oskar: CommandLine,
    number: signal.Signals,
) -> None:
    out = tmp_path / "e.parquet"
    call = encode.Encoder.__call__

    def interrupted(self: encode.Encoder, packed: PackedTokens) -> tuple[Tensor, Tensor | None]:
        os.kill(os.getpid(), number)
        return call(self, packed)

    monkeypatch.setattr(encode.Encoder, "__call__", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(
        InterruptedRunError, match=f"{number.name} after 2 rows, which wait in .*go on by the same command"
    ):
        embed(mixed_run, [mixed_data], out, CONFIG)
    assert signal.getsignal(number) == before
    code, printed = oskar(
        "embed",
        mixed_run,
        mixed_data,
        "--out",
        out,
        "--windows",
        "sliding",
        "--window-seconds",
        0.2,
        "--workers",
        0,
        "--device",
        "cpu",
    )
    assert code == 4, printed
    monkeypatch.setattr(encode.Encoder, "__call__", call)
    embed(mixed_run, [mixed_data], out, CONFIG)
    assert not partial_path(out).exists()
    embed(mixed_run, [mixed_data], tmp_path / "whole.parquet", CONFIG)
    first, second = read_embeddings(out), read_embeddings(tmp_path / "whole.parquet")
    assert torch.equal(first.vectors, second.vectors)
    assert first.rows == second.rows


def begun(mixed_run: Path, mixed_data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a job that was killed."""
    with monkeypatch.context() as patch:
        patch.setattr("oskar.embedding.embed.Partial", Killed)
        os.waitpid(forked(lambda: embed(mixed_run, [mixed_data], out, CONFIG), out.with_suffix(".log")), 0)


def test_rows_of_another_job_are_refused(mixed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed_data, out = mixed_folder(tmp_path / "set"), tmp_path / "e.safetensors"
    begun(mixed_run, mixed_data, out, monkeypatch)
    for other, named in (
        (replace(CONFIG, pool="mean+std"), "begun with other header"),
        (replace(CONFIG, windows=WindowConfig(kind="sliding", seconds=0.3)), "begun with other windows"),
        (replace(CONFIG, precision="bfloat16"), "begun with other precision"),
        (replace(CONFIG, split="test"), "begun with other files"),
    ):
        with pytest.raises(InputError, match=rf"e.safetensors.partial was {named}.*Fix: give the same command again"):
            embed(mixed_run, [mixed_data], out, other)
    os.utime(mixed_data / "videos/c4.mkv", (1, 1))
    with pytest.raises(InputError, match="begun with other files"):
        embed(mixed_run, [mixed_data], out, CONFIG)


def test_rows_that_are_damaged_are_refused(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.safetensors"
    begun(mixed_run, mixed_data, out, monkeypatch)
    vectors, done = partial_path(out) / "embeddings.float32", partial_path(out) / "done.jsonl"
    kept = vectors.read_bytes()
    vectors.write_bytes(kept[:100])
    with pytest.raises(InputError, match=r"embeddings.float32 is damaged: it is shorter than \d+ bytes. Fix: delete"):
        embed(mixed_run, [mixed_data], out, CONFIG)
    vectors.write_bytes(kept)
    done.write_text("{}\n" + done.read_text())
    with pytest.raises(InputError, match=r"done.jsonl is damaged .*Fix: delete"):
        embed(mixed_run, [mixed_data], out, CONFIG)


def test_a_full_disk_keeps_the_rows(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.safetensors"

    class Full(Partial):
        def _write(self, name: str, data: bytes) -> None:
            if self.n_batches == 3:
                raise OSError(28, "No space left on device")
            super()._write(name, data)

    with monkeypatch.context() as patch:
        patch.setattr("oskar.embedding.embed.Partial", Full)
        with pytest.raises(StoppedRunError, match=r"e.safetensors.partial could not be written: .*No space left"):
            embed(mixed_run, [mixed_data], out, CONFIG)
    embed(mixed_run, [mixed_data], out, CONFIG)
    assert written(out) == whole(mixed_run, mixed_data, tmp_path)


def test_bad_clips_of_before_the_interruption_stay_listed(
    mixed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed_data, out = mixed_folder(tmp_path / "set"), tmp_path / "e.safetensors"
    (mixed_data / "videos/c0.mkv").write_bytes(b"")
    config = replace(CONFIG, windows=WindowConfig())
    with monkeypatch.context() as patch:
        patch.setattr("oskar.embedding.embed.Partial", Killed)
        patch.setattr(Killed, "at", 1)
        os.waitpid(forked(lambda: embed(mixed_run, [mixed_data], out, config), tmp_path / "log"), 0)
    done = embed(mixed_run, [mixed_data], out, config)
    assert (done.n_rows, done.n_bad) == (4, 1)
    assert "set/c0,videos/c0.mkv" in Path(f"{out}.bad.csv").read_text()
