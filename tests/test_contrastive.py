"""The contrastive loss by hand, in loops and over two real processes."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from oskar.errors import InputError
from oskar.tasks.contrastive import (
    START_LOG_SCALE,
    contrastive_scale,
    gather_with_gradient,
    symmetric_info_nce,
)

N_PAIRS = 8  # of which the two processes hold four each
VIDEO_IDX = torch.tensor([3, 7, 3, 1, 5, 7, 0, 3])  # false negatives inside a process and between the two


def draw_pairs(n: int, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    video, text = (torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return F.normalize(video, dim=1), F.normalize(text, dim=1)


def in_loops(video: Tensor, text: Tensor, video_idx: list[int], scale: float) -> float:
    """The definition, one exponential at a time."""
    total = 0.0
    n = len(video)
    for i in range(n):
        negatives = [j for j in range(n) if j == i or video_idx[j] != video_idx[i]]
        own = math.exp(scale * float(video[i] @ text[i]))
        of_video = sum(math.exp(scale * float(video[i] @ text[j])) for j in negatives)
        of_text = sum(math.exp(scale * float(video[j] @ text[i])) for j in negatives)
        total -= math.log(own / of_video) + math.log(own / of_text)
    return total / (2 * n)


def test_two_pairs_by_hand() -> None:
    """Cosines [[1, 0], [0.6, 0.8]] and scale 2: rows and columns of exp([[2, 0], [1.2, 1.6]])."""
    video, text = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
    rows = math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.4))
    columns = math.log1p(math.exp(-0.8)) + math.log1p(math.exp(-1.6))
    loss = symmetric_info_nce(video, text, torch.tensor([0, 1]), torch.tensor(math.log(2)))
    assert float(loss) == pytest.approx((rows + columns) / 4, rel=1e-6)


def test_three_pairs_of_which_two_show_one_video() -> None:
    """Only the third pair is a negative of the first two, and they of it."""
    video, text = torch.eye(3), torch.eye(3)
    loss = symmetric_info_nce(video, text, torch.tensor([4, 4, 9]), torch.tensor(0.0))
    of_first, of_third = math.log(1 + math.exp(-1)), math.log(1 + 2 * math.exp(-1))
    assert float(loss) == pytest.approx((2 * of_first + of_third) / 3, rel=1e-6)
    apart = symmetric_info_nce(video, text, torch.tensor([4, 5, 9]), torch.tensor(0.0))
    assert float(apart) == pytest.approx(of_third, rel=1e-6)


def test_it_is_the_definition_in_loops() -> None:
    video, text = draw_pairs(N_PAIRS)
    loss = symmetric_info_nce(video, text, VIDEO_IDX, torch.tensor(math.log(11.0), dtype=torch.float64))
    assert float(loss) == pytest.approx(in_loops(video, text, VIDEO_IDX.tolist(), 11.0), rel=1e-12)
    alone = symmetric_info_nce(video, text, torch.zeros(N_PAIRS, dtype=torch.int64), torch.tensor(1.0))
    assert float(alone) == 0.0  # one video: nothing to tell apart


def test_video_and_text_change_places() -> None:
    video, text = draw_pairs(N_PAIRS)
    scale = torch.tensor(START_LOG_SCALE, dtype=torch.float64)
    forward, back = symmetric_info_nce(video, text, VIDEO_IDX, scale), symmetric_info_nce(text, video, VIDEO_IDX, scale)
    torch.testing.assert_close(forward, back, rtol=1e-12, atol=0)


def test_its_gradient_is_that_of_differences() -> None:
    video, text = (tensor.requires_grad_() for tensor in draw_pairs(N_PAIRS, width=3))
    log_scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t, s: symmetric_info_nce(v, t, VIDEO_IDX, s), (video, text, log_scale))


def test_false_negatives_get_no_gradient() -> None:
    """The only other pair shows the same video, so nothing pushes the two apart."""
    video, text = (tensor.requires_grad_() for tensor in draw_pairs(2))
    symmetric_info_nce(video, text, torch.tensor([6, 6]), torch.tensor(2.0)).backward()  # type: ignore[no-untyped-call]
    assert video.grad is not None
    assert not video.grad.any()


def test_the_scale_starts_at_its_value_and_is_cut_at_100() -> None:
    assert float(contrastive_scale(torch.tensor(START_LOG_SCALE))) == pytest.approx(1 / 0.07)
    assert float(contrastive_scale(torch.tensor(math.log(99.0)))) == pytest.approx(99.0)
    for log_scale in (math.log(100.0), 5.0, 20.0):
        assert float(contrastive_scale(torch.tensor(log_scale))) == pytest.approx(100.0, rel=1e-5)


def test_a_scale_beyond_the_limit_comes_down_again() -> None:
    """Two pairs the wrong way round want a small scale."""
    log_scale = torch.tensor(5.0, requires_grad=True)
    symmetric_info_nce(torch.eye(2), torch.eye(2).flip(0), torch.tensor([0, 1]), log_scale).backward()  # type: ignore[no-untyped-call]
    assert log_scale.grad is not None
    assert float(log_scale.grad) == pytest.approx(100.0, rel=1e-4)  # d/d ln s of ln(1 + exp(s)) where s = 100


def test_autocast_does_not_round_the_logits() -> None:
    video, text = (tensor.float() for tensor in draw_pairs(64, width=32))
    idx, log_scale = torch.arange(64), torch.tensor(4.6)
    plain = symmetric_info_nce(video, text, idx, log_scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(symmetric_info_nce(video, text, idx, log_scale), plain)
    half = symmetric_info_nce(video.bfloat16(), text.bfloat16(), idx, log_scale)
    assert half.dtype == torch.float32


def test_without_a_process_group_gathering_is_nothing() -> None:
    local = torch.randn(3, 2)
    assert gather_with_gradient(local) is local


@pytest.mark.parametrize(
    ("video", "text", "idx", "message"),
    [
        ((2, 3), (3, 3), (2,), r"are of shapes \[2, 3\], \[3, 3\], \[2\].*Fix: give \[B, D\]"),
        ((2, 3), (2, 3), (3,), r"are of shapes \[2, 3\], \[2, 3\], \[3\]"),
        ((3,), (3,), (3,), r"are of shapes \[3\], \[3\], \[3\]"),
        ((0, 3), (0, 3), (0,), r"are of shapes \[0, 3\]"),
    ],
)
def test_shapes_that_do_not_fit(video: tuple[int], text: tuple[int], idx: tuple[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        symmetric_info_nce(
            torch.zeros(video), torch.zeros(text), torch.zeros(idx, dtype=torch.int64), torch.tensor(0.0)
        )


def loss_and_gradients(rows: slice) -> list[Tensor]:
    """The loss of all pairs from a model that sees ``rows`` of them; gradients of its parameters."""
    video, text = draw_pairs(N_PAIRS)
    to_video, to_text = (torch.nn.Linear(5, 4, bias=False, dtype=torch.float64) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    parameters = [to_video.weight, to_text.weight]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, generator=generator)
    log_scale = torch.tensor(START_LOG_SCALE, dtype=torch.float64, requires_grad=True)
    loss = symmetric_info_nce(
        gather_with_gradient(F.normalize(to_video(video[rows]), dim=1)),
        gather_with_gradient(F.normalize(to_text(text[rows]), dim=1)),
        gather_with_gradient(VIDEO_IDX[rows]),
        log_scale,
    )
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in (*parameters, log_scale)]
    return [loss.detach(), *(gradient for gradient in gradients if gradient is not None)]


def run_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss, *gradients = loss_and_gradients(slice(4 * rank, 4 * rank + 4))
    for gradient in gradients:  # as DistributedDataParallel does
        dist.all_reduce(gradient)
        gradient /= 2
    torch.save([loss, *gradients], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_all_pairs(tmp_path: Path) -> None:
    spawn(run_process, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    alone = loss_and_gradients(slice(0, N_PAIRS))
    assert len(alone) == 4
    assert all(gradient.any() for gradient in alone)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for ours, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
