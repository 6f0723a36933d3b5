"""Checkpoints: exact round trips, kills at every moment, full disks, damaged and foreign files."""

import contextlib
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from oskar.errors import InputError, StoppedRunError
from oskar.train.checkpoint import (
    encoder_sha256,
    generator_tensors,
    latest_checkpoint,
    load_checkpoint,
    load_encoder,
    load_generator_tensors,
    load_module_strict,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
    save_encoder,
    under,
)
from oskar.train.record import MetricsFile, read_metrics
from oskar.train.sealed import refuse_pickle

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and limits are POSIX")


def tensors_of(step: int) -> dict[str, Tensor]:
    """A different, known content per step."""
    generator = torch.Generator().manual_seed(step)
    return {"model/a": torch.randn(64, 64, generator=generator), "optimizer/a/step": torch.tensor(float(step))}


def is_whole(path: Path) -> int:
    """The step of a checkpoint that loads and holds what its step should."""
    tensors, state = load_checkpoint(path)
    step = int(state["step"])
    assert tensors.keys() == tensors_of(step).keys()
    assert all(torch.equal(tensors[name], value) for name, value in tensors_of(step).items())
    assert state["note"] == f"step {step}"
    return step


def save(run: Path, step: int) -> Path:
    return save_checkpoint(run, step, tensors_of(step), {"note": f"step {step}"})


def run_here(function: Callable[[Path], None], run: Path) -> None:
    """Call a function of this module in a fresh, single-threaded process, which may fork and be limited."""
    name = function.__name__
    code = f"import sys, pathlib, test_checkpoint; test_checkpoint.{name}(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """A child process that does ``work`` and exits 0; gone when the block ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    yield pid
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


# What is on the disk


def test_the_files_are_safetensors_and_json_with_their_sums(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12, {"w": torch.arange(6.0).view(2, 3)}, {"clips": [1, 2], "seed": 0})
    assert path == tmp_path / "checkpoints" / "step-00000012"
    assert {p.name for p in path.iterdir()} == {"tensors.safetensors", "state.json", "manifest.json"}
    assert [p.name for p in path.parent.iterdir()] == ["step-00000012"]
    assert json.loads((path / "state.json").read_text()) == {"clips": [1, 2], "seed": 0, "step": 12}
    with safe_open(path / "tensors.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("w"), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    data = (path / "tensors.safetensors").read_bytes()
    entry = json.loads((path / "manifest.json").read_text())["files"]["tensors.safetensors"]
    assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert len({p.stat().st_mode for p in path.iterdir()}) == 1


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "strided": base.t(),
        "row": base[1],
        "tied": base,
        "tied_again": base,
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
        "bfloat16": torch.randn(5).bfloat16(),
        "not_finite": torch.tensor([torch.nan, torch.inf, -0.0]),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "bool": torch.tensor([True, False]),
        "gradient": torch.ones(2, requires_grad=True),
    }
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path, 0, tensors, {}))
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        bits = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (loaded[name], value) if t.dim()]
        assert torch.equal(*bits) if bits else loaded[name] == value


def test_everything_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("what is flushed cannot be seen here")
    events: list[tuple[str, str]] = []
    rename = Path.rename

    def seen_fsync(descriptor: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    def seen_rename(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    save(tmp_path, 1)
    files = {("fsync", name) for name in ("state.json", "tensors.safetensors", "manifest.json")}
    assert set(events[:3]) == files
    assert events[3:] == [("fsync", ".tmp-step-00000001"), ("rename", "step-00000001"), ("fsync", "checkpoints")]


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 10, 99_999_999, 100_000_000):
        save(tmp_path, step)
        assert is_whole(latest_checkpoint(tmp_path) or tmp_path) == step
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-100000000", "step-99999999"]


def test_state_that_is_not_json_leaves_nothing_behind(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(ValueError):
        save_checkpoint(tmp_path, 2, tensors_of(2), {"loss": float("nan")})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


# Kills


def kill_at_every_system_call(run: Path) -> None:
    """Kill a process before each file operation of saving in turn: what was saved is always there."""
    torch.set_num_threads(1)
    pytest.MonkeyPatch().setattr(os, "fsync", lambda _: None)  # slow, and a killed process's writes outlive it
    start = run.with_name("start")
    save(start, 1)
    save(start, 2)
    save_encoder(start / "encoder", tensors_of(1), "1")

    def save_encoder_again() -> None:
        save_encoder(run / "encoder", tensors_of(2), "2")

    for work in (lambda: save(run, 3), lambda: save(run, 2), save_encoder_again):
        for call in range(1, 200):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(start, run)
            with forked(lambda work=work, call=call: killed_before(call, work)) as pid:  # type: ignore[misc]
                _, status = os.waitpid(pid, 0)
            step = is_whole(latest_checkpoint(run) or run)
            encoder, texts = load_encoder(run / "encoder")
            assert torch.equal(encoder["model/a"], tensors_of(int(texts["config.json"]))["model/a"])
            save(run, 4)  # the run goes on, and what the kill left is cleared
            save_encoder_again()
            names = sorted(p.name for p in run.glob("**/*") if p.is_dir())
            assert names == ["checkpoints", "encoder", f"step-0000000{step}", "step-00000004"]
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                assert call > 10, "hardly any operation was seen"
                break
        else:
            raise AssertionError("saving never ended")


def killed_before(call: int, work: Callable[[], object]) -> None:
    events = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"}
    n_seen = 0

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal n_seen
        if event not in events:
            return
        n_seen += 1
        if n_seen == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def kill_at_random(run: Path) -> None:
    """Kill a training loop at random times, resume it, and kill it again."""
    torch.set_num_threads(1)
    pytest.MonkeyPatch().setattr(os, "fsync", lambda _: None)
    delays = random.Random(0)
    (run / "checkpoints").mkdir(parents=True)
    n_killed_on_the_way = 0
    for _ in range(25):
        reader, writer = os.pipe()
        with forked(lambda writer=writer: train_on(run, writer)) as pid:  # type: ignore[misc]
            os.close(writer)
            told = os.read(reader, 4096)  # waits for the first save, so that every round gets on
            time.sleep(delays.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        with open(reader, "rb") as stream:
            told += stream.read()
        n_killed_on_the_way += len(list((run / "checkpoints").glob(".*")))
        step = is_whole(latest_checkpoint(run) or run)
        assert step >= int(told.split()[-1]), "a checkpoint that was reported saved is gone"
        MetricsFile(run).truncate_after(step)
        assert [record["step"] for record in read_metrics(run)] == list(range(1, step + 1))
        tensors, texts = load_encoder(run / "encoder")
        assert int(texts["config.json"]) in (step, step + 1)
        assert torch.equal(tensors["model/a"], tensors_of(int(texts["config.json"]))["model/a"])
    assert n_killed_on_the_way > 5, "the kills missed the saves"


def train_on(run: Path, writer: int) -> None:
    latest = latest_checkpoint(run)
    step = load_checkpoint(latest)[1]["step"] if latest else 0
    metrics = MetricsFile(run)
    metrics.truncate_after(step)
    while True:
        step += 1
        metrics.append(step, "train", {"loss": 1.0 / step})
        save_encoder(run / "encoder", tensors_of(step), str(step))
        save(run, step)
        os.write(writer, b"%d\n" % step)


def test_a_kill_before_any_file_operation_loses_nothing(tmp_path: Path) -> None:
    run_here(kill_at_every_system_call, tmp_path / "run")


def test_kills_at_random_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    run_here(kill_at_random, tmp_path / "run")


# Full disks


def check_failed_save(run: Path) -> None:
    with pytest.raises(StoppedRunError) as error:
        save_checkpoint(run, 3, {"w": torch.zeros(500_000)}, {})
    assert "step-00000003" in str(error.value)
    assert "needs 2,0" in str(error.value)
    assert "free" in str(error.value)
    assert "--resume" in str(error.value)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
    assert is_whole(latest_checkpoint(run) or run) == 2
    with pytest.raises(StoppedRunError, match="encoder could not be written"):
        save_encoder(run / "encoder", {"w": torch.zeros(500_000)}, "{}")
    assert load_encoder(run / "encoder")[1] == {"config.json": "{}"}


def save_under_a_size_limit(run: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save(run, 1)
    save(run, 2)
    save_encoder(run / "encoder", tensors_of(0), "{}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    check_failed_save(run)
    save(run, 3)
    assert is_whole(latest_checkpoint(run) or run) == 3


def test_a_write_that_the_system_refuses_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    run_here(save_under_a_size_limit, tmp_path)


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        save(disk, 1)
        save(disk, 2)
        save_encoder(disk / "encoder", tensors_of(0), "{}")
        check_failed_save(disk)
    finally:
        subprocess.run(["umount", disk], check=True)


# Damaged and foreign files


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_truncated_file_is_named_with_the_fix(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    whole = (path / name).read_bytes()
    for n in (0, 1, 8, len(whole) // 2, len(whole) - 2):
        (path / name).write_bytes(whole[:n])
        with pytest.raises(InputError) as error:
            load_checkpoint(path)
        assert str(path / name) in str(error.value)
        assert "delete this folder, and --resume goes on from step-00000001" in str(error.value)
    (path / name).unlink()
    with pytest.raises(InputError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_any_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 2)
    whole = (path / name).read_bytes()
    draws = random.Random(0)
    for _ in range(100):
        position, bit = draws.randrange(len(whole)), draws.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        (path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name} is (damaged|a pickle)"):
            load_checkpoint(path)
    (path / name).write_bytes(whole)
    assert is_whole(path) == 2


def test_a_flipped_bit_in_the_manifest_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    file = path / "manifest.json"
    whole = file.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7
        file.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert is_whole(path) == 2


class RunsCode:
    """Fails the test if anything unpickles it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_in_place_of_the_tensors_is_never_loaded(tmp_path: Path, protocol: int) -> None:
    path = save(tmp_path, 1)
    (path / "tensors.safetensors").write_bytes(pickle.dumps(RunsCode(), protocol=protocol))
    with pytest.raises(InputError, match=r"tensors\.safetensors is a pickle.*safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights", "last.ckpt"])
def test_a_torch_file_is_named_and_never_loaded(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    torch.save({"w": torch.zeros(2)}, path / name)
    for asked in (path, path / name):
        with pytest.raises(InputError, match=f"{name} is a pickle"):
            load_checkpoint(asked)
    (path / name).unlink()
    assert is_whole(path) == 1


def test_a_safetensors_header_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    # headers of 0x0280 to 0x0580 bytes: a file then starts with the two bytes of a pickle
    starts = set()
    for n in range(560, 1400, 4):
        save_file({"x" * n: torch.zeros(1)}, tmp_path / "tensors.safetensors")
        starts.add((tmp_path / "tensors.safetensors").read_bytes()[:2])
        refuse_pickle(tmp_path)
    assert {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"} <= starts


def test_foreign_folders_and_versions_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is no checkpoint folder"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is no whole checkpoint folder"):
        load_checkpoint(tmp_path / "empty")
    save_encoder(tmp_path / "encoder", {}, "{}")
    with pytest.raises(InputError, match="format = 'oskar-encoder', wanted 'oskar-checkpoint'"):
        load_checkpoint(tmp_path / "encoder")
    path = save(tmp_path, 1)
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"version": 1', '"version": 7'))
    with pytest.raises(InputError, match="version = 7"):
        load_checkpoint(path)


# Modules, optimisers, generators


def test_weights_of_another_size_are_refused_with_a_table_and_nothing_changes() -> None:
    torch.manual_seed(0)
    small, large = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), *(nn.Linear(4, 4) for _ in range(20)))
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_module_strict(
            small, {"weight": torch.zeros(4, 3), "extra": torch.zeros(1)}, "run/checkpoints/step-00000001"
        )
    message = str(error.value)
    for part in (
        "run/checkpoints/step-00000001 does not fit Linear",
        "1 missing:\n  bias: found nothing, wanted float32 [2]",
        "1 unexpected:\n  extra: found float32 [1], wanted nothing",
        "1 of another shape or type:\n  weight: found float32 [4, 3], wanted float32 [2, 3]",
        "made by another recipe or size",
    ):
        assert part in message
    assert all(torch.equal(small.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(InputError) as error:
        load_module_strict(large, {}, "x")
    assert "42 missing" in str(error.value)
    assert str(error.value).count("found nothing") == 10
    assert "and 32 more" in str(error.value)


def test_weights_load_where_no_value_can_be_lost() -> None:
    module = nn.Linear(2, 2, bias=False)
    load_module_strict(module, {"weight": torch.full((2, 2), 1.5, dtype=torch.bfloat16)}, "x")
    assert torch.equal(module.weight, torch.full((2, 2), 1.5))
    with pytest.raises(InputError, match=r"found float64 \[2, 2\], wanted float32 \[2, 2\]"):
        load_module_strict(module, {"weight": torch.zeros(2, 2, dtype=torch.float64)}, "x")


def test_an_encoder_is_replaced_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    for value in (1.0, 2.0):
        save_encoder(folder, {"w": torch.tensor([value])}, '{"recipe": "x"}', {"preprocessing.json": "{}"})
    tensors, texts = load_encoder(folder)
    assert tensors["w"].tolist() == [2.0]
    assert texts == {"config.json": '{"recipe": "x"}', "preprocessing.json": "{}"}
    assert encoder_sha256(folder) == hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]
    (folder / "config.json").write_text('{"recipe": "y"}')
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        load_encoder(folder)


class Job:
    """A small training run whose every state matters: dropout, momentum copy, late first gradients."""

    def __init__(self, *, fused: bool, seed: int) -> None:
        torch.manual_seed(seed)
        self.first, self.late, self.last = nn.Linear(5, 7), nn.Linear(5, 7), nn.Linear(7, 3)
        self.model = nn.ModuleDict({"first": self.first, "late": self.late, "last": self.last})
        self.momentum = nn.Linear(7, 3)
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        decayed = [p for p in self.names if p.dim() > 1]
        others = [p for p in self.names if p.dim() == 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
        self.generators = {"cpu": torch.default_generator}
        self.step = 0

    def train(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step += 1
            self.optimizer.param_groups[0]["lr"] = 1e-2 / self.step
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(self.step))
            hidden = self.first(x) + (self.late(x) if self.step > 6 else 0.0)
            loss = self.last(nn.functional.dropout(hidden.tanh(), 0.5)).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for average, now in zip(self.momentum.parameters(), self.last.parameters(), strict=True):
                    average.lerp_(now, 0.01)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **{f"model/{name}": value for name, value in self.model.state_dict().items()},
            **{f"momentum/{name}": value for name, value in self.momentum.state_dict().items()},
            **optimizer_tensors(self.optimizer, self.names),
            **generator_tensors(self.generators),
        }

    def load(self, path: Path) -> None:
        tensors, state = load_checkpoint(path)
        self.step = state["step"]
        load_module_strict(self.model, under("model/", tensors), str(path))
        load_module_strict(self.momentum, under("momentum/", tensors), str(path))
        load_optimizer_tensors(self.optimizer, self.names, tensors, str(path))
        load_generator_tensors(self.generators, tensors, str(path))


@pytest.mark.parametrize("fused", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, fused: bool) -> None:
    whole = Job(fused=fused, seed=0)
    whole.train(12)
    wanted = {name: value.clone() for name, value in whole.tensors().items()}
    first = Job(fused=fused, seed=0)
    for seed, n_steps in enumerate((1, 4, 3)):  # resumed three times, once before a parameter's first gradient
        first.train(n_steps)
        path = save_checkpoint(tmp_path, first.step, first.tensors(), {})
        first = Job(fused=fused, seed=100 + seed)
        first.load(path)
    first.train(4)
    found = first.tensors()
    assert found.keys() == wanted.keys()
    assert [name for name, value in wanted.items() if not torch.equal(found[name], value)] == []
    assert found["optimizer/late.weight/step"] == 6  # of 12 steps
    assert found["optimizer/first.weight/step"] == 12


def test_the_names_and_values_of_the_optimiser_state_are_adams() -> None:
    job = Job(fused=True, seed=0)
    job.train(1)
    tensors = optimizer_tensors(job.optimizer, job.names)
    weight = job.first.weight
    assert weight.grad is not None
    torch.testing.assert_close(tensors["optimizer/first.weight/exp_avg"], 0.1 * weight.grad)
    torch.testing.assert_close(tensors["optimizer/first.weight/exp_avg_sq"], 0.05 * weight.grad**2)
    assert not any(name.startswith("optimizer/late") for name in tensors)


def test_optimiser_state_of_another_model_is_refused() -> None:
    job = Job(fused=True, seed=0)
    job.train(1)
    tensors = optimizer_tensors(job.optimizer, job.names)
    other = nn.Linear(5, 8)
    names = dict(zip(other.parameters(), ("first.weight", "other.bias"), strict=True))
    optimizer = torch.optim.AdamW(other.parameters(), fused=True)
    with pytest.raises(InputError) as error:
        load_optimizer_tensors(optimizer, names, tensors, "run/step")
    assert "optimizer/first.weight/exp_avg: found float32 [7, 5], wanted float32 [8, 5]" in str(error.value)
    assert "optimizer/last.bias/exp_avg: found float32 [3], wanted nothing" in str(error.value)
    assert len(optimizer.state) == 0
    with pytest.raises(ValueError, match="one name"):
        optimizer_tensors(optimizer, dict.fromkeys(names, "same"))


def test_a_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.randn(11, generator=generator)
    path = save_checkpoint(tmp_path, 1, generator_tensors({"data": generator}), {})
    wanted = torch.randn(5, generator=generator)
    other = torch.Generator()
    load_generator_tensors({"data": other}, load_checkpoint(path)[0], "x")
    assert torch.equal(torch.randn(5, generator=other), wanted)
    with pytest.raises(InputError, match="generator/masks: found nothing, wanted uint8"):
        load_generator_tensors({"masks": other}, load_checkpoint(path)[0], "x")
