"""Stateless random numbers: every draw is a pure function of (seed, step, clip id, stream).

A clip's masks and crops must not depend on the batch it sits in, on the number of workers or on
how many draws came before, so nothing here holds state. A 64-bit key per clip is hashed with a
stream number and a counter by the finaliser of SplitMix64 (Steele, Lea, Flood 2014), vectorised
over the batch and equal on every device.
"""

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit: torch has no full uint64 arithmetic
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of signed 64-bit integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def hash_id(name: str) -> int:
    """The signed 64-bit number that stands for a clip id in every draw."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def clip_keys(seed: int, step: int, clip_ids: Tensor) -> Tensor:
    """One key per clip from (seed, step, clip id); ``clip_ids`` is int64 ``[B]``, so is the result."""
    base = torch.tensor([seed, step], dtype=torch.int64, device=clip_ids.device)
    key = _mix(clip_ids + _GOLDEN)
    key = _mix((key ^ base[0]) + _GOLDEN)
    return _mix((key ^ base[1]) + _GOLDEN)


def bits(keys: Tensor, stream: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform signed 64-bit integers ``[B, *shape]``; different streams of a key are independent."""
    n = math.prod(shape)
    counter = torch.arange(1, n + 1, dtype=torch.int64, device=keys.device) * _GOLDEN
    stream_key = _mix(keys ^ _mix(torch.full_like(keys, stream) + _GOLDEN))
    return _mix(stream_key[:, None] + counter).view(-1, *shape)


def mixed(values: Tensor) -> Tensor:
    """A hash of each int64, in which every bit of the result depends on every bit of the value."""
    return _mix(values + _GOLDEN)


def uniform(keys: Tensor, stream: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform float32 in [0, 1), shape ``[B, *shape]``, on a grid of 2^-24."""
    return _shift_right(bits(keys, stream, shape), 40).to(torch.float32) * 2.0**-24


def uniform64(keys: Tensor, stream: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform float64 in (0, 1), shape ``[B, *shape]``: never exactly 0 or 1, so its log is finite.

    52 bits and a half fit the 53 of a float64, so nothing rounds up to 1.
    """
    return (_shift_right(bits(keys, stream, shape), 12).to(torch.float64) + 0.5) * 2.0**-52


def normal64(keys: Tensor, stream: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float64 ``[B, *shape]`` (Box-Muller)."""
    u = uniform64(keys, stream, (2, *shape))
    return torch.sqrt(-2.0 * torch.log(u[:, 0])) * torch.cos(2.0 * math.pi * u[:, 1])


def normal(keys: Tensor, stream: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float32 ``[B, *shape]``."""
    return normal64(keys, stream, shape).to(torch.float32)


def integers(keys: Tensor, stream: int, high: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform int64 in ``[0, high)``, shape ``[B, *shape]``; bias below ``high * 2^-52``."""
    return (uniform64(keys, stream, shape) * high).to(torch.int64)


def log_gamma_variate(keys: Tensor, stream: int, alpha: float, shape: tuple[int, ...] = ()) -> Tensor:
    """Logarithm of Gamma(alpha, 1) variates, float64 ``[B, *shape]``.

    Marsaglia and Tsang (2000) on alpha + 1, then the boost ``G(a) = G(a + 1) * U^(1/a)`` in log
    space, where small alpha does not underflow. Rejection needs no loop: of 8 proposals (each
    accepted with probability above 0.95) the first accepted one is taken.
    """
    n_proposals = 8
    d = alpha + 1.0 - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    x = normal64(keys, 4 * stream, (n_proposals, *shape))
    log_u = torch.log(uniform64(keys, 4 * stream + 1, (n_proposals, *shape)))
    v = (1.0 + c * x).clamp_min(1e-12) ** 3
    is_accepted = (1.0 + c * x > 0) & (log_u < 0.5 * x * x + d - d * v + d * torch.log(v))
    first = is_accepted.to(torch.int8).argmax(dim=1, keepdim=True)
    log_boosted = torch.log(d * v.gather(1, first).squeeze(1))
    return log_boosted + torch.log(uniform64(keys, 4 * stream + 2, shape)) / alpha


def log_dirichlet(keys: Tensor, stream: int, alpha: float, is_present: Tensor) -> Tensor:
    """Log of a symmetric Dirichlet(alpha) draw over the present entries of each row.

    ``is_present`` is bool ``[B, M]``; absent entries get ``-inf`` and do not take part in the draw.
    """
    log_gamma = log_gamma_variate(keys, stream, alpha, (is_present.shape[1],))
    return torch.log_softmax(log_gamma.masked_fill(~is_present, -torch.inf), dim=1)
