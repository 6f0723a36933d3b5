"""oskar plan: FLOPs and memory against hand calculations, real tensors and real runs; files and errors."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import made_clips
from runs import TINY, CommandLine
from torch.nn import functional as F

from oskar.cli.arguments import configure
from oskar.config import Config, ModelConfig
from oskar.errors import InputError
from oskar.planning.counting import LiveBytes, count_step, flop_counter, tensors_of
from oskar.planning.made import made_batch
from oskar.planning.made import made_clips as full_clips
from oskar.planning.memory import available_bytes, resident_bytes
from oskar.planning.page import advice, as_text, size
from oskar.planning.plan import Memory, Plan, Rate, largest_part, plan, predict_memory, predict_rate
from oskar.planning.probe import Probe
from oskar.planning.step import TrainingStep, made_module
from oskar.recipes import RECIPES, recipe

CPU = torch.device("cpu")
FLOAT = 4


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_live_bytes_follow_tensors_by_hand() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        assert live.now == 1000 * FLOAT
        view = first[10:]  # the same storage
        second = first + 1
        assert (live.now, live.peak) == (2000 * FLOAT, 2000 * FLOAT)
        del first
        assert live.now == 2000 * FLOAT  # the view holds it
        del view, second
        assert live.now == 0
        assert live.peak == 2000 * FLOAT
        assert live.reset() == live.peak == 0


def test_flops_of_attention_and_a_linear_layer_by_hand() -> None:
    query, key = torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(2, 3, 7, 8, requires_grad=True)
    with flop_counter() as counter:
        attended = F.scaled_dot_product_attention(query, key, key)
    product = 2 * 2 * 3 * 5 * 7 * 8
    assert counter.get_total_flops() == 2 * product  # Q K^T, and its softmax times V
    with flop_counter() as counter:
        attended.sum().backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == 5 * product  # the scores again, and two products for each of those two
    x, weight = torch.randn(10, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    with flop_counter() as counter:
        F.linear(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == 3 * 2 * 10 * 6 * 4


def hand_flops(config: Config, n_clips: int) -> int:
    """Forward, backward and targets of OSKAR's step from its layers' sizes, without the embeddings."""
    n_visible, n_target = config.masking.n_visible or 0, config.masking.n_target or 0

    def block(n: int, n_seen: int, width: int) -> tuple[int, int]:
        projections = n * 2 * width**2 + n_seen * 2 * width**2  # query and output; key and value
        mlp = n * 3 * width * (8 * width // 3)
        return 2 * (projections + mlp), 2 * 2 * n * n_seen * width

    model, predictor = config.model, config.predictor
    weights, scores = (model.n_blocks * f for f in block(n_visible, n_visible, model.width))
    targets = sum(model.n_blocks * f for f in block(n_target, n_target, model.width))
    own, cross = block(n_target, n_target, predictor.width), block(n_target, n_visible, predictor.width)
    weights += predictor.n_layers // 2 * (own[0] + cross[0]) + 2 * n_visible * model.width * predictor.width
    weights += 2 * n_target * model.width * predictor.width  # the readout
    scores += predictor.n_layers // 2 * (own[1] + cross[1])
    return int(n_clips * (3 * weights + 3.5 * scores + targets))


def test_flops_of_a_step_by_hand() -> None:
    config = recipe("oskar-small")
    counted = count_step(config, 2, CPU, is_autocast=False, is_accumulating=False)
    by_hand = hand_flops(config, 2)
    assert by_hand < counted.flops < 1.04 * by_hand  # the rest is the embeddings, which depend on the draw
    assert 40e9 < counted.flops / 2 < 42e9  # what a sketch of this step measured: 39 without attention's


def test_counted_bytes_are_those_of_a_real_step(small_config: Config) -> None:
    counted = count_step(small_config, 6, CPU, is_autocast=False, is_accumulating=False)
    module, batch = made_module(small_config, CPU), made_batch(small_config, 6)
    step = TrainingStep(module, small_config, CPU, is_autocast=False)
    step(batch)
    with LiveBytes() as live:
        for tensor in tensors_of(step, batch):
            live.add(tensor)
        before = live.reset()
        step.forward_backward(batch)
        peak = live.peak
    assert before == counted.held_bytes + counted.batch_bytes
    assert peak == counted.peak_bytes
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    averaged = sum(p.numel() for p in module.fusion.parameters())
    assert (counted.n_parameters, counted.n_encoder_parameters) == (trained, averaged)
    assert (counted.gradient_bytes, counted.momentum_bytes) == (FLOAT * trained, FLOAT * averaged)
    n_steps = sum(1 for p in module.parameters() if p.requires_grad)
    assert counted.optimizer_bytes == FLOAT * (2 * trained + n_steps)  # two moments, and a step count for each
    assert counted.held_bytes == counted.weight_bytes + counted.momentum_bytes + counted.optimizer_bytes
    assert counted.update_bytes >= counted.held_bytes + counted.gradient_bytes


def test_accumulation_holds_gradients_and_checkpointing_saves_activations(small_config: Config) -> None:
    def count(config: Config, *, is_accumulating: bool) -> tuple[int, int]:
        counted = count_step(config, 6, CPU, is_autocast=False, is_accumulating=is_accumulating)
        return counted.held_bytes, counted.peak_bytes - counted.held_bytes

    deep = replace(small_config, model=ModelConfig(width=32, n_blocks=12, n_heads=4))
    again = replace(deep, model=replace(deep.model, checkpointing=True))
    plain_held, _ = count(deep, is_accumulating=False)
    held, added = count(deep, is_accumulating=True)
    n_trained = sum(p.numel() for p in made_module(deep, CPU).parameters() if p.requires_grad)
    assert held == plain_held + FLOAT * n_trained
    assert count(again, is_accumulating=True)[1] < 0.6 * added


def test_memory_grows_with_the_clips_alone(small_config: Config) -> None:
    few, many = (count_step(small_config, n, CPU, is_autocast=False, is_accumulating=False) for n in (16, 48))
    predicted = predict_memory(few, 48, 10**9, process=7)
    assert predicted.peak == pytest.approx(7 + many.peak_bytes, rel=0.05)
    assert (predicted.weights, predicted.process, predicted.available) == (few.weight_bytes, 7, 10**9)
    process = 50 * many.peak_bytes
    assert largest_part(few, many.peak_bytes + process, process) == pytest.approx(48, abs=3)
    assert largest_part(few, few.held_bytes, 0) == 0
    assert largest_part(few, None, 0) is None


@pytest.mark.parametrize("name", list(RECIPES))
def test_made_clips_fill_every_budget(name: str) -> None:
    config = recipe(name)
    batch = made_batch(config, 2)
    assert all(view.visible.is_full and view.target.is_full for view in batch.views)
    boxes = full_clips(config, 2).boxes
    assert boxes is None or bool((boxes[..., 2:] >= boxes[..., :2]).all())


def test_made_clips_are_as_those_of_the_tests(small_config: Config) -> None:
    ours, theirs = full_clips(small_config, 3), made_clips(3, small_config.tokens)
    for field in ("frames", "joints", "boxes", "word_ids", "has_video", "has_skeleton", "clip_ids"):
        found, wanted = getattr(ours, field), getattr(theirs, field)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


def planned(**changed: object) -> Plan:
    memory = Memory(
        weights=1, momentum=1, optimizer=2, gradients=1, activations=90, batch=5, process=10, peak=110, available=60
    )
    whole = Plan(
        recipe="r",
        device="cpu",
        precision="float32",
        threads=1,
        n_devices=1,
        clips_per_part=96,
        n_parameters=10,
        n_encoder_parameters=5,
        flops_per_clip=1e9,
        memory=memory,
        rate=Rate(
            flops_per_second=1e9, step_seconds=2.0, clips_per_second=48.0, hours=1.0, mask_seconds_per_clip=0.001
        ),
        largest_part=40,
        steps=1800,
        checkpoint_bytes=10,
        disk_bytes=30,
    )
    return replace(whole, **changed)  # type: ignore[arg-type]


def test_advice_names_a_number_of_parts_that_divides_and_fits() -> None:
    assert "in 3 (train.accumulation)" in advice(planned())  # 96 clips as 3 x 32, at most 40 each
    assert "in 3 (train.accumulation)" in as_text(planned())
    assert "in 4 (train.accumulation)" in advice(planned(largest_part=31))
    assert "not even one clip" in advice(planned(largest_part=0))
    assert "does not fit" not in as_text(planned(largest_part=96))
    assert "not known" in as_text(planned(largest_part=None))
    assert "not measured" in as_text(planned(largest_part=0, rate=None))
    assert [size(n) for n in (0, 999, 1_500, 2_000_000, 3.5e9, 2e13)] == [
        "0 B", "999 B", "2 KB", "2 MB", "3.50 GB", "20,000.00 GB",
    ]  # fmt: skip


def test_this_process_and_machine_have_memory() -> None:
    resident, available = resident_bytes(), available_bytes(CPU)
    assert resident is not None
    assert available is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 50e6 < resident <= 1.05 * peak
    assert available > 50e6


def test_the_command_prints_and_writes_a_plan(tmp_path: Path, oskar: CommandLine) -> None:
    out = tmp_path / "plan.json"
    code, printed = oskar("plan", "oskar-tiny", *TINY, "train.steps=100", "--out", out)
    assert code == 0, printed
    found = json.loads(out.read_text())
    assert (found["format"], found["version"], found["recipe"]) == ("oskar-plan", 1, "oskar-tiny")
    assert found["clips_per_part"] == 4
    rate = found["rate"]
    assert rate["hours"] == pytest.approx(100 * rate["step_seconds"] / 3600)
    assert rate["clips_per_second"] == pytest.approx(4 / rate["step_seconds"])
    assert found["memory"]["process"] > 100e6
    assert f"{found['n_parameters']:,}" in printed
    run = tmp_path / "run"
    code, _ = oskar("pretrain", "oskar-tiny", "--data", "people:8", "--out", run, *TINY)
    assert code == 0
    weights = run / "checkpoints" / "step-00000003" / "tensors.safetensors"
    assert found["checkpoint_bytes"] == pytest.approx(weights.stat().st_size, rel=0.15)  # beside names and shapes
    rest = found["disk_bytes"] - 3 * found["checkpoint_bytes"] - found["memory"]["momentum"]
    assert rest == 100 * 600 + 5_000_000  # records of 100 steps, and the report
    used = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert used <= found["disk_bytes"]


def test_a_rate_by_hand(small_config: Config) -> None:
    """Four parts of 6 clips at 3 times the probe's FLOPs, and one update."""
    counted = replace(count_step(small_config, 2, CPU, is_autocast=False, is_accumulating=True), flops=2_000)
    probed = Probe(
        n_clips=1,
        flops=1_000,
        forward_backward_seconds=0.5,
        update_seconds=0.25,
        packing_seconds=0.125,
        process_bytes=0,
    )
    train = replace(small_config.train, batch_size=24, accumulation=4, steps=7200)
    rate = predict_rate(counted, probed, 6, train)
    assert rate.step_seconds == pytest.approx(4 * 6 * 0.5 + 0.25)
    assert rate.clips_per_second == pytest.approx(24 / 12.25)
    assert rate.hours == pytest.approx(24.5)
    assert (rate.flops_per_second, rate.mask_seconds_per_clip) == (2_000, 0.125)


def test_devices_share_the_batch(small_config: Config) -> None:
    config = replace(small_config, train=replace(small_config.train, batch_size=12, accumulation=2))
    with pytest.raises(InputError, match=r"--devices 4.*train\.batch_size=12.*train\.accumulation=2"):
        plan(config, n_devices=4)
    with pytest.raises(InputError, match="--devices 0"):
        plan(config, n_devices=0)


def test_wrong_words_are_errors_that_name_the_fix(oskar: CommandLine) -> None:
    code, printed = oskar("plan", "oskar-smal")
    assert (code, "did you mean oskar-small" in printed) == (2, True)
    code, printed = oskar("plan", "oskar-small", "train.device=tpu9")
    assert (code, "train.device" in printed) == (2, True)


RUNS = (("oskar-tiny",), ("vjepa-tiny", "train.batch_size=16"), ("oskar-small", "train.batch_size=4"))


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS, ids=lambda words: words[0])
@pytest.mark.xfail(reason="oskar-tiny: 509 MB predicted, 804 MB measured, 2026-11-25; not understood yet", strict=False)
def test_predicted_memory_is_within_15_percent_of_a_run(words: tuple[str, ...], tmp_path: Path) -> None:
    settings = [*words, "train.precision=float32", "train.device=cpu", "train.steps=2", "data.workers=1"]
    expected = plan(configure(settings, None)).memory.peak
    command = [
        sys.executable,
        "-m",
        "oskar",
        "pretrain",
        *settings,
        "--data",
        "people:64",
        "--out",
        str(tmp_path / "r"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert expected == pytest.approx(used.ru_maxrss * 1024, rel=0.15)
