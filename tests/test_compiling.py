"""train.compile: once per role and never again, with the same results; an error that says what is missing."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from torch._dynamo.testing import CompileCounterWithBackend

from oskar.config import Config, MomentumConfig
from oskar.errors import InputError
from oskar.masking.packing import Batch, build_batch
from oskar.pretraining import MaskedPrediction
from oskar.train.compiling import compile_blocks, uncompiled

# Torch looks at what it then warns of, with a filter of its own that errors override.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
CPU = torch.device("cpu")
ABSENT = {"video": {1}, "skeleton": {1}}  # clip 1 has words alone, fewer than slots


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batches(make_clips: MakeClips, config: Config, n: int) -> list[Batch]:
    """Batches of different draws; every third has clips without a modality, and empty slots."""
    made = [make_clips(3, config.tokens, seed=i, absent=ABSENT if i % 3 == 2 else None, min_words=2) for i in range(n)]
    return [build_batch(clips, config, i) for i, clips in enumerate(made)]


def trained(module: MaskedPrediction, batch: Batch) -> torch.Tensor:
    loss: torch.Tensor = module(batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    module.after_step(0.5)
    return loss


@pytest.mark.parametrize("momentum", [MomentumConfig(), MomentumConfig(video=0.9, skeleton=0.99, text=0.999)])
def test_after_warm_up_nothing_is_compiled_again(
    make_clips: MakeClips, small_config: Config, momentum: MomentumConfig
) -> None:
    config = replace(small_config, momentum=momentum)
    module = MaskedPrediction(config)
    counter = CompileCounterWithBackend("eager")
    compile_blocks(module, CPU, backend=counter)
    made = batches(make_clips, config, 12)
    assert {b.views[0].visible.is_full and b.views[0].target.is_full for b in made} == {True, False}
    counter.frame_count = 0
    for batch in made[:6]:
        trained(module, batch)
    warm = counter.frame_count
    assert warm > 0
    for batch in made[6:]:
        trained(module, batch)
    assert counter.frame_count == warm
    assert warm <= 8  # torch's limit for one function: beyond it a block would run uncompiled
    looked = uncompiled(module.compare)
    with torch.no_grad():
        looked(made[0])
    assert counter.frame_count == warm


def test_compiled_blocks_give_the_same_losses_and_gradients(make_clips: MakeClips, small_config: Config) -> None:
    plain, compiled = MaskedPrediction(small_config), MaskedPrediction(small_config)
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled, CPU, backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for batch in batches(make_clips, small_config, 3):
        torch.testing.assert_close(trained(compiled, batch), trained(plain, batch), rtol=1e-5, atol=1e-6)
    gradients = [(p.grad, q.grad) for p, q in zip(compiled.parameters(), plain.parameters(), strict=True)]
    assert sum(p is not None for p, _ in gradients) > 40
    for found, wanted in gradients:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_missing_compiler_is_said_before_anything_runs(small_config: Config) -> None:
    def broken(graph: object, inputs: object) -> Callable[..., object]:
        raise RuntimeError("no C++ compiler found\nmore lines")

    with pytest.raises(InputError, match=r"train\.compile = True.*no C\+\+ compiler found.*train\.compile=false"):
        compile_blocks(MaskedPrediction(small_config), CPU, backend=broken)
