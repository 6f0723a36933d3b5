"""Shapes: which tokens of one modality fill its share of the budget (A18).

Every function maps ``is_available`` bool ``[B, N]`` and ``counts`` int64 ``[B]`` to a choice, bool
``[B, N]``, that holds exactly ``min(counts, available)`` tokens per clip.
"""

import torch
from torch import Tensor

from oskar.config import MaskingConfig
from oskar.modalities import N_JOINTS, ModalitySpec
from oskar.randomness import uniform


def choose(
    spec: ModalitySpec, is_available: Tensor, counts: Tensor, keys: Tensor, stream: int, config: MaskingConfig
) -> Tensor:
    """Choose tokens in the shape that ``config`` asks for: tubes and spans, or single tokens."""
    if config.style == "random":
        return choose_random(is_available, counts, keys, stream)
    if spec.name == "text":
        tube_ids = span_ids(keys, stream + 2, is_available.shape[1], config.span_mean, config.span_max)
        return choose_tubes(is_available, tube_ids, is_available.shape[1], counts, keys, stream)
    ids, n_tubes = grid_tube_ids(spec, config, is_available.device)
    order = ids.argsort(stable=True)  # tube by tube; inside a tube, time runs forward
    chosen = choose_tubes(is_available[:, order], ids[order].expand_as(is_available), n_tubes, counts, keys, stream)
    return torch.empty_like(chosen).index_copy_(1, order, chosen)


def choose_random(is_available: Tensor, counts: Tensor, keys: Tensor, stream: int) -> Tensor:
    """Uniformly random available tokens."""
    score = uniform(keys, stream, (is_available.shape[1],)).masked_fill(~is_available, 2.0)
    order = score.argsort(dim=1, stable=True)  # stable: the same plan on every device
    is_early = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    return torch.empty_like(is_available).scatter_(1, order, is_early) & is_available


def choose_tubes(
    is_available: Tensor, tube_ids: Tensor, n_tubes: int, counts: Tensor, keys: Tensor, stream: int
) -> Tensor:
    """Whole tubes in random order until the budget is full; the last is cut to a run with random start.

    ``tube_ids`` int64 ``[B, N]`` below ``n_tubes`` must not decrease along N. Tokens that are not
    available do not count, so a run is contiguous among a tube's available tokens.
    """
    available = is_available.long()
    sizes = available.new_zeros(len(available), n_tubes).scatter_add_(1, tube_ids, available)
    order = uniform(keys, stream, (n_tubes,)).argsort(dim=1, stable=True)
    sorted_sizes = sizes.gather(1, order)
    before = sorted_sizes.cumsum(1) - sorted_sizes
    sorted_takes = torch.minimum((counts[:, None] - before).clamp_min(0), sorted_sizes)
    takes = torch.empty_like(sizes).scatter_(1, order, sorted_takes)
    starts = (uniform(keys, stream + 1, (n_tubes,)) * (sizes - takes + 1)).long()
    first = sizes.cumsum(1) - sizes  # available tokens before each tube
    place = available.cumsum(1) - available - first.gather(1, tube_ids)
    start = starts.gather(1, tube_ids)
    return is_available & (place >= start) & (place < start + takes.gather(1, tube_ids))


def span_ids(keys: Tensor, stream: int, n_tokens: int, span_mean: float, span_max: int) -> Tensor:
    """A partition of the caption into random spans, int64 ``[B, N]`` of non-decreasing ids.

    Lengths are geometric with mean ``span_mean``, cut at ``span_max``; choosing random spans of
    this partition gives random spans of the text.
    """
    is_break = uniform(keys, stream, (n_tokens,)) < 1.0 / span_mean
    is_break[:, 0] = True
    position = torch.arange(n_tokens, device=keys.device)
    last_break = torch.where(is_break, position, 0).cummax(dim=1).values
    starts_span = (position - last_break) % span_max == 0
    return starts_span.long().cumsum(1) - 1


def grid_tube_ids(spec: ModalitySpec, config: MaskingConfig, device: torch.device) -> tuple[Tensor, int]:
    """Tube of each token, int64 ``[N]``, and how many tubes there are.

    A tube is a spatial block, or a (person, joint), over ``tube_len`` steps.
    """
    token = torch.arange(spec.n_tokens, device=device)
    if spec.name == "skeleton":
        n_steps, n_places = spec.position_grid[0], spec.n_tokens // spec.position_grid[0]
        joint, rest = token % N_JOINTS, token // N_JOINTS
        step, place = rest % n_steps, (rest // n_steps) * N_JOINTS + joint
    else:
        n_steps, rows, columns = spec.position_grid
        step, cell = token // (rows * columns), token % (rows * columns)
        side = config.tube_hw
        blocks_per_row = -(-columns // side)
        n_places = -(-rows // side) * blocks_per_row
        place = (cell // columns // side) * blocks_per_row + cell % columns // side
    length = config.tube_len or n_steps
    n_parts = -(-n_steps // length)
    return place * n_parts + step // length, n_places * n_parts
