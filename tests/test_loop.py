"""The training loop: accumulation, steps that are left out, budgets of bad clips, signals, what is logged."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeClips
from runs import records, shrunk
from torch import Tensor, nn

from oskar.clip import ClipBatch
from oskar.config import Config, TrainConfig
from oskar.data.stream import LoadedStep
from oskar.errors import InterruptedRunError, StoppedRunError
from oskar.masking.packing import Batch, build_batch
from oskar.pretraining import MaskedPrediction
from oskar.train.checkpoint import latest_checkpoint, load_checkpoint
from oskar.train.loop import MAX_SKIPPED_IN_A_ROW, Trainer
from oskar.train.precision import PrecisionChoice
from oskar.train.schedules import lr_at, weight_decay_at

FLOAT32 = PrecisionChoice(dtype=torch.float32, reason="test")
PLAIN = TrainConfig(
    steps=30, batch_size=4, lr=0.1, lr_scaling="none", log_every_steps=1, checkpoint_every_steps=1000, warmup_share=0.0
)


class Numbers:
    """A batch of numbers; NaN among them makes the loss NaN."""

    def __init__(self, values: Sequence[float], weight: float | None = None) -> None:
        self.values = torch.tensor(values)
        self.weight = float(len(values)) if weight is None else weight

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> "Numbers":
        return self


class Line(nn.Module):
    """Least squares with a running average that ``after_step`` moves."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1, 1))
        self.register_buffer("average", torch.zeros(1, 1))
        self.shares: list[float] = []
        self.gradients: list[float] = []

    def forward(self, batch: Numbers) -> dict[str, Tensor]:
        return {"loss": (self.slope * batch.values - 3 * batch.values).square().mean()}

    def after_step(self, share: float) -> None:
        self.shares.append(share)
        self.average.lerp_(self.slope.detach(), 0.5)

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        if self.slope.grad is not None:
            self.gradients.append(self.slope.grad.item())
        return {"line": [self.slope]}


class Steps:
    """A stream made by a function of the step."""

    def __init__(self, make: Callable[[int], LoadedStep], n_steps: int = 30) -> None:
        self.make, self.n_steps = make, n_steps

    def batches(self, first_step: int) -> Iterator[LoadedStep]:
        for step in range(first_step, self.n_steps):
            yield self.make(step)


def good(step: int) -> LoadedStep:
    return LoadedStep([Numbers([1.0, 2.0, float(step)])])


def trainer(
    module: nn.Module, make: Callable[[int], LoadedStep], run: Path, bad_budget: int = 0, **train: Any
) -> Trainer:
    config = replace(PLAIN, **train)
    cpu = torch.device("cpu")
    return Trainer(module, Steps(make, config.steps), config, run, precision=FLOAT32, device=cpu, bad_budget=bad_budget)


def state_of(t: Trainer) -> list[Tensor]:
    optimizer = [s[key].clone() for s in t.optimizer.state.values() for key in sorted(s)]
    return [v.clone() for v in t.module.state_dict().values()] + optimizer


class Watched(MaskedPrediction):
    """Keeps the gradients that are about to be clipped."""

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        self.seen = {n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None}
        return super().parameter_groups_for_clipping()


def part_of(clips: ClipBatch, rows: slice) -> ClipBatch:
    taken: dict[str, Any] = {
        name: value[rows] for name in ClipBatch.__dataclass_fields__ if (value := getattr(clips, name)) is not None
    }
    return replace(clips, **taken)


@pytest.mark.parametrize("name", ["oskar-custom", "mae-tiny"])
@pytest.mark.parametrize("rows", [(slice(0, 2), slice(2, 4)), (slice(0, 1), slice(1, 4))])
def test_accumulation_gives_the_gradient_of_the_whole_batch(
    name: str, rows: tuple[slice, slice], make_clips: MakeClips, tmp_path: Path
) -> None:
    """Also where the parts hold unequal numbers of targets."""
    config = replace(shrunk(name), masking=replace(shrunk(name).masking, n_visible=40, n_target=200))
    absent = {"video": {0}, "skeleton": {0, 3}}  # clip 0 has 16 words, clip 3 video and words alone
    clips = make_clips(4, config.tokens, absent=absent, min_words=16)
    whole = build_batch(clips, config, 0)
    parts = [build_batch(part_of(clips, r), config, 0) for r in rows]
    counts = [part.weight / len(part) for part in parts]
    assert counts[0] < 0.9 * counts[1]
    gradients, logged = [], []
    for i, batches in enumerate(([whole], parts)):
        torch.manual_seed(0)
        module = Watched(config)
        loaded = LoadedStep(batches)
        run = tmp_path / str(i)
        run.mkdir()
        trainer(module, lambda step, loaded=loaded: loaded, run, steps=1).fit()  # type: ignore[misc]
        gradients.append(module.seen)
        logged.append(records(run)[0])
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], rel=1e-5)


def test_parts_weigh_by_their_share_by_hand(tmp_path: Path) -> None:
    """d/ds of the mean of (s x - 3 x)^2 at s = 1 is -4 times the mean of x^2."""
    module = Line()
    step = LoadedStep([Numbers([1.0]), Numbers([2.0, 3.0, 4.0])])
    trainer(module, lambda _: step, tmp_path, steps=1).fit()
    assert module.gradients == [pytest.approx(-4 * (1 + 4 + 9 + 16) / 4)]
    assert records(tmp_path)[0]["loss"] == pytest.approx(4 * 30 / 4)


def test_a_part_without_targets_changes_nothing(tmp_path: Path) -> None:
    module = Line()
    empty = Numbers([math.nan], weight=0.0)  # the mean over no target is not a number
    trainer(module, lambda _: LoadedStep([empty, Numbers([1.0, 2.0])]), tmp_path, steps=2).fit()
    assert module.gradients[0] == pytest.approx(-4 * 2.5)
    assert records(tmp_path)[1]["n_skipped_steps"] == 0


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(tmp_path: Path) -> None:
    states: dict[int, list[Tensor]] = {}
    module = Line()
    bad_steps = {3, 4, 9}

    def make(step: int) -> LoadedStep:
        states[step] = state_of(t)
        return LoadedStep([Numbers([1.0, math.nan if step in bad_steps else 2.0])])

    t = trainer(module, make, tmp_path, steps=12)
    done = t.fit()
    assert done.skipped_steps == 3
    assert done.step == 12
    for step in range(11):
        same = all(torch.equal(a, b) for a, b in zip(states[step], states[step + 1], strict=True)) if step else False
        assert same == (step in bad_steps)
    assert len(module.shares) == 9
    logged = records(tmp_path)
    assert [r["step"] for r in logged if r["loss"] is None] == [4, 5, 10]
    assert [r["n_skipped_steps"] for r in logged] == [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 3]


def test_an_infinite_gradient_of_a_finite_loss_is_left_out(tmp_path: Path) -> None:
    class Cliff(Line):
        def forward(self, batch: Numbers) -> dict[str, Tensor]:
            return {"loss": (self.slope - 1.0).clamp_min(0).sqrt().mean() + batch.values.mean()}

    module = Cliff()
    done = trainer(module, lambda _: LoadedStep([Numbers([1.0])]), tmp_path, steps=2).fit()
    assert done.skipped_steps == 2
    assert module.slope.item() == 1.0
    assert records(tmp_path)[0]["loss"] == 1.0


def test_momentum_encoders_rest_in_a_step_that_is_not_finite(make_clips: MakeClips, tmp_path: Path) -> None:
    config = shrunk("oskar-custom")

    class Broken(MaskedPrediction):
        def forward(self, batch: Batch, latents: list[Tensor] | None = None) -> dict[str, Tensor]:
            return {name: value * math.nan for name, value in super().forward(batch, latents).items()}

    torch.manual_seed(0)
    module = Broken(config)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    batch = build_batch(make_clips(4, config.tokens), config, 0)
    t = trainer(module, lambda _: LoadedStep([batch]), tmp_path, steps=3)
    assert t.fit().skipped_steps == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not t.optimizer.state


def test_ten_in_a_row_stop_the_run_and_nine_do_not(tmp_path: Path) -> None:
    def broken_from(first: int, n: int) -> Callable[[int], LoadedStep]:
        return lambda step: LoadedStep([Numbers([math.nan if first <= step < first + n else 1.0])])

    for name in ("nine", "ten"):
        (tmp_path / name).mkdir()
    nine = trainer(Line(), broken_from(2, MAX_SKIPPED_IN_A_ROW - 1), tmp_path / "nine").fit()
    assert (nine.skipped_steps, nine.step) == (9, 30)
    with pytest.raises(StoppedRunError, match=r"step 11.*10 times in a row.*train\.lr"):
        trainer(Line(), broken_from(2, 99), tmp_path / "ten").fit()
    assert records(tmp_path / "ten")[-1] | {"step": 12, "loss": None} == records(tmp_path / "ten")[-1]


def test_a_resumed_run_stops_at_the_same_step(tmp_path: Path) -> None:
    """How many steps in a row were left out is part of what a kill must not lose."""
    first = trainer(Line(), lambda _: LoadedStep([Numbers([math.nan])]), tmp_path, checkpoint_every_steps=6)
    with pytest.raises(StoppedRunError, match="step 9:"):
        first.fit()
    again = trainer(Line(), lambda _: LoadedStep([Numbers([math.nan])]), tmp_path, checkpoint_every_steps=6)
    again.resume()
    assert (again.done.step, again.done.skipped_steps) == (6, 6)
    assert records(tmp_path)[-1]["step"] == 6
    with pytest.raises(StoppedRunError, match="step 9:"):
        again.fit()


def test_batches_without_anything_to_learn_from_are_left_out(tmp_path: Path) -> None:
    def make(step: int) -> LoadedStep:
        return LoadedStep([], (("lost", "gone"),)) if step == 1 else good(step)

    (tmp_path / "some").mkdir()
    done = trainer(Line(), make, tmp_path / "some", bad_budget=1, steps=4).fit()
    assert (done.step, done.skipped_steps, done.samples_seen, done.bad) == (4, 1, 9, {"lost": "gone"})
    assert records(tmp_path / "some")[1]["loss"] is None
    (tmp_path / "all").mkdir()
    with pytest.raises(StoppedRunError, match="10 batches in a row had no clip"):
        trainer(Line(), lambda _: LoadedStep([Numbers([1.0], weight=0.0)]), tmp_path / "all").fit()


def test_bad_clips_are_counted_once_and_stop_the_run_above_the_budget(tmp_path: Path) -> None:
    def make(step: int) -> LoadedStep:
        return LoadedStep(good(step).parts, ((f"c{step % 5 // 2}", f"/x/{step % 5 // 2}.mp4 is empty"),))

    (tmp_path / "allowed").mkdir()
    done = trainer(Line(), make, tmp_path / "allowed", bad_budget=3, steps=20).fit()
    assert sorted(done.bad) == ["c0", "c1", "c2"]
    (tmp_path / "over").mkdir()
    over = trainer(Line(), make, tmp_path / "over", bad_budget=2, steps=20)
    with pytest.raises(StoppedRunError) as error:
        over.fit()
    assert error.value.exit_code == 3
    for part in ("3 clips", "2 are allowed", "c2: /x/2.mp4 is empty", "data.max_bad_share"):
        assert part in str(error.value)
    assert over.done.step == 4


def test_the_share_of_the_run_and_the_rates_of_every_step(tmp_path: Path) -> None:
    module = Line()
    rates: dict[str, Any] = {"warmup_share": 0.25, "schedule_stretch": 1.25, "final_weight_decay": 0.4}
    t = trainer(module, good, tmp_path, steps=8, log_every_steps=3, **rates)
    t.fit()
    assert module.shares == pytest.approx([(step + 1) / 10 for step in range(8)])
    logged = records(tmp_path)
    assert [r["step"] for r in logged] == [1, 3, 6, 8]  # the first, every third step, and the last
    assert [r["lr"] for r in logged] == [lr_at(step, t.config) for step in (0, 2, 5, 7)]
    assert t.optimizer.param_groups[0]["weight_decay"] == weight_decay_at(7, t.config)
    assert {"step", "split", "loss", "grad_norm_line", "lr", "n_skipped_steps"} == set(logged[0])


def test_clipping_waits_for_the_end_of_warmup_where_told(tmp_path: Path) -> None:
    norms: dict[bool, list[float]] = {}
    for waits in (False, True):
        run = tmp_path / str(waits)
        run.mkdir()
        steps: list[float] = []

        class Kept(Line):
            def after_step(self, share: float, steps: list[float] = steps) -> None:
                assert self.slope.grad is not None
                steps.append(abs(self.slope.grad.item()))

        trainer(Kept(), good, run, steps=4, warmup_share=0.5, clip_norm=1e-3, clip_after_warmup=waits).fit()
        norms[waits] = steps
    assert norms[False] == pytest.approx([1e-3] * 4, rel=1e-3)
    assert norms[True][2:] == pytest.approx([1e-3] * 2, rel=1e-3)
    assert min(norms[True][:2]) > 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves(number: signal.Signals, tmp_path: Path) -> None:
    def make(step: int) -> LoadedStep:
        if step == 3:
            os.kill(os.getpid(), number)
        return good(step)

    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(InterruptedRunError, match=rf"{number.name} after step 4.*--resume") as error:
        trainer(Line(), make, tmp_path, steps=6).fit()
    assert error.value.exit_code == 4
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert load_checkpoint(path)[1]["progress"]["step"] == 4
    again = trainer(Line(), good, tmp_path, steps=6)
    again.resume()
    again.fit()
    (tmp_path / "whole").mkdir()
    whole = trainer(Line(), good, tmp_path / "whole", steps=6)
    whole.fit()
    assert all(torch.equal(a, b) for a, b in zip(state_of(again), state_of(whole), strict=True))
    assert (tmp_path / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    def make(step: int) -> LoadedStep:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return good(step)

    assert trainer(Line(), make, tmp_path, steps=6).fit().step == 6


def test_observations_are_added_to_logged_steps_alone(make_clips: MakeClips, tmp_path: Path) -> None:
    config: Config = shrunk("oskar-tiny")
    batch = build_batch(make_clips(4, config.tokens), config, 0)
    seen: list[bool] = []

    def observe(part: Batch) -> dict[str, float]:
        seen.append(torch.is_grad_enabled())
        return {"spread": 0.25}

    t = trainer(MaskedPrediction(config), lambda _: LoadedStep([batch, batch]), tmp_path, steps=4, log_every_steps=2)
    t.observe = observe
    done = t.fit()
    assert seen == [False] * 3
    assert [(r["step"], r["spread"]) for r in records(tmp_path)] == [(1, 0.25), (2, 0.25), (4, 0.25)]
    assert {"loss_video", "loss_skeleton", "loss_text"} <= set(records(tmp_path)[0])
    assert done.samples_seen == 4 * 8
    assert done.tokens_seen == 4 * 2 * batch.n_tokens == 4 * 8 * 48
    json.dumps(records(tmp_path), allow_nan=False)
