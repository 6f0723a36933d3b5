"""The plan of a batch: which tokens are visible and which are targets, drawn before any is built."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.config import MaskingConfig
from oskar.masking.allocation import allocate, visible_capacities
from oskar.masking.blocks import cut_to_shortest, draw_blocks
from oskar.masking.exclusivity import forbidden_targets
from oskar.masking.shapes import choose, choose_random
from oskar.modalities import Modality, ModalitySpec
from oskar.randomness import clip_keys, log_dirichlet
from oskar.tokens.source import TokenSource

# Streams of a clip's key: every draw has its own. Modality m adds 10 m, view v adds 1000 v.
_VISIBLE_SPLIT, _TARGET_SPLIT, _UNION = 1, 2, 3
_VISIBLE_SHAPE, _TARGET_SHAPE, _BLOCKS, _CUT = 100, 200, 300, 400


@dataclass(frozen=True, slots=True)
class IndexSet:
    """A set of tokens for each clip, over all modalities, in ``V`` slots.

    ``modality_idx`` int64 ``[B, V]``: position in the recipe's modalities, -1 in an unused slot.
    ``token_idx`` int64 ``[B, V]``: index inside the modality. Slots follow the order of modalities
    and, inside one, of tokens.
    """

    modality_idx: Tensor
    token_idx: Tensor

    @property
    def is_valid(self) -> Tensor:
        return self.modality_idx >= 0


@dataclass(frozen=True, slots=True)
class View:
    """One (visible, target) pair: the two sets of a clip are disjoint."""

    visible_idx: IndexSet
    target_idx: IndexSet


Choice = dict[Modality, Tensor]  # bool [B, N] for each modality


def draw_views(
    sources: dict[Modality, TokenSource],
    specs: dict[Modality, ModalitySpec],
    config: MaskingConfig,
    *,
    seed: int,
    step: int,
    clip_ids: Tensor,
) -> tuple[View, ...]:
    """The views of a batch, a pure function of (seed, step, clip id) for every clip.

    OSKAR has one view; ``style="blocks"`` has one per block generator, whose size is drawn from
    (seed, step) alone.
    """
    keys = clip_keys(seed, step, clip_ids)
    if config.style == "blocks":
        return _block_views(sources, specs, config, clip_keys(seed, step, torch.zeros_like(clip_ids[:1])), keys)
    visible = _draw_visible(sources, specs, config, keys)
    target = _draw_target(sources, specs, config, keys, visible)
    assert config.n_visible is not None
    assert config.n_target is not None
    return (View(index_set(visible, specs, config.n_visible), index_set(target, specs, config.n_target)),)


def index_set(chosen: Choice, specs: dict[Modality, ModalitySpec], n_slots: int) -> IndexSet:
    """Turn choices into slots; ``n_slots`` must hold the largest choice of the batch."""
    example = next(iter(chosen.values()))
    names = [name for name in specs if name in chosen]
    is_chosen = torch.cat([chosen[name] for name in names], dim=1)
    modality = torch.cat([torch.full((specs[n].n_tokens,), list(specs).index(n)) for n in names]).to(example.device)
    token = torch.cat([torch.arange(specs[n].n_tokens) for n in names]).to(example.device)
    clip, place = is_chosen.nonzero(as_tuple=True)
    slot = is_chosen.long().cumsum(1)[clip, place] - 1
    modality_idx = torch.full((len(is_chosen), n_slots), -1, device=example.device)
    token_idx = torch.zeros_like(modality_idx)
    modality_idx[clip, slot] = modality[place]
    token_idx[clip, slot] = token[place]
    return IndexSet(modality_idx, token_idx)


def _available(sources: dict[Modality, TokenSource], specs: dict[Modality, ModalitySpec], keys: Tensor) -> Choice:
    """Which tokens exist, for all of the recipe's modalities even where no clip of the batch has one.

    A clip's draws then never depend on what the other clips of its batch have.
    """
    absent = torch.zeros_like(keys, dtype=torch.bool)[:, None]
    return {
        name: sources[name].is_valid if name in sources else absent.expand(-1, spec.n_tokens)
        for name, spec in specs.items()
    }


def _split(available: Choice, n: int, capacities: Tensor, keys: Tensor, stream: int, config: MaskingConfig) -> Tensor:
    """Tokens per modality ``[B, M]`` by the configured allocation."""
    if config.allocation == "dirichlet":
        log_fractions = log_dirichlet(keys, stream, config.alpha, capacities > 0)
        return allocate(log_fractions, n, capacities, config.min_tokens)
    union = torch.cat(list(available.values()), dim=1)
    drawn = choose_random(union, torch.full_like(keys, n), keys, _UNION * 10 + stream)
    sizes = [a.shape[1] for a in available.values()]
    counts = torch.stack([part.sum(1) for part in torch.split(drawn, sizes, dim=1)], dim=1)
    return allocate(torch.log(counts.double().clamp_min(1e-6)), n, capacities, config.min_tokens)


def _choose_all(
    available: Choice,
    counts: Tensor,
    specs: dict[Modality, ModalitySpec],
    keys: Tensor,
    stream: int,
    config: MaskingConfig,
) -> Choice:
    return {
        name: choose(specs[name], available[name], counts[:, m], keys, stream + 10 * m, config)
        for m, name in enumerate(available)
    }


def _draw_visible(
    sources: dict[Modality, TokenSource], specs: dict[Modality, ModalitySpec], config: MaskingConfig, keys: Tensor
) -> Choice:
    assert config.n_visible is not None
    assert config.n_target is not None
    available = _available(sources, specs, keys)
    n_available = torch.stack([a.sum(1) for a in available.values()], dim=1)
    capacities = visible_capacities(n_available, config.n_target)
    counts = _split(available, config.n_visible, capacities, keys, _VISIBLE_SPLIT, config)
    return _choose_all(available, counts, specs, keys, _VISIBLE_SHAPE, config)


def _draw_target(
    sources: dict[Modality, TokenSource],
    specs: dict[Modality, ModalitySpec],
    config: MaskingConfig,
    keys: Tensor,
    visible: Choice,
) -> Choice:
    assert config.n_target is not None
    available = {name: is_valid & ~visible[name] for name, is_valid in _available(sources, specs, keys).items()}
    if "video" in sources and "skeleton" in sources:
        grid = specs["video"].position_grid
        forbidden = forbidden_targets(visible, sources["skeleton"].cells, grid, config)
        available |= {name: available[name] & ~tokens for name, tokens in forbidden.items()}
    capacities = torch.stack([a.sum(1) for a in available.values()], dim=1)
    counts = _split(available, config.n_target, capacities, keys, _TARGET_SPLIT, config)
    return _choose_all(available, counts, specs, keys, _TARGET_SHAPE, config)


def _block_views(
    sources: dict[Modality, TokenSource],
    specs: dict[Modality, ModalitySpec],
    config: MaskingConfig,
    batch_key: Tensor,
    keys: Tensor,
) -> tuple[View, ...]:
    views = []
    is_valid = sources["video"].is_valid
    for v, block in enumerate(config.blocks):
        is_target = draw_blocks(block, specs["video"].position_grid, batch_key, keys, _BLOCKS + 1000 * v)
        stream = _CUT + 1000 * v
        visible = cut_to_shortest(~is_target & is_valid, config.n_visible, keys, stream, config.keep_first)
        target = cut_to_shortest(is_target & is_valid, config.n_target, keys, stream + 1, config.keep_first)
        sets = [index_set({"video": c}, specs, int(c.sum(1).max())) for c in (visible, target)]
        views.append(View(*sets))
    return tuple(views)
