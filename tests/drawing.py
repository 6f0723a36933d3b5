"""Draw a plan for made clips and read it as plain Python sets."""

import torch
from oracles.masks import Drawn

from oskar.clip import ClipBatch
from oskar.config import MaskingConfig, TokensConfig
from oskar.masking.plan import IndexSet, View, draw_views
from oskar.modalities import modality_specs
from oskar.tokens import token_sources


def draw(clips: ClipBatch, tokens: TokensConfig, masking: MaskingConfig, seed: int = 0, step: int = 0) -> View:
    sources = token_sources(clips, tokens)
    specs = modality_specs(tokens)
    (view,) = draw_views(sources, specs, masking, seed=seed, step=step, clip_ids=clips.clip_ids)
    return view


def full_clips(n_clips: int) -> ClipBatch:
    """Clips of the paper's geometry in which all 2640 tokens are available."""
    return ClipBatch(
        clip_ids=torch.arange(n_clips),
        labels=torch.zeros(n_clips),
        frames=torch.zeros(n_clips, 16, 3, 28, 28, dtype=torch.uint8),
        joints=torch.full((n_clips, 3, 16, 17, 3), 0.5),
        boxes=torch.zeros(n_clips, 3, 16, 4),
        word_ids=torch.zeros(n_clips, 256, dtype=torch.int64),
    )


def sets_of(index: IndexSet, i: int, names: tuple[str, ...]) -> dict[str, set[int]]:
    """One clip's set by modality; duplicates fail."""
    found: dict[str, set[int]] = {name: set() for name in names}
    for modality, token in zip(index.modality_idx[i].tolist(), index.token_idx[i].tolist(), strict=True):
        if modality >= 0:
            assert token not in found[names[modality]]
            found[names[modality]].add(token)
    return found


def drawn_clips(view: View, tokens: TokensConfig) -> list[Drawn]:
    names = tuple(modality_specs(tokens))
    n_clips = len(view.visible_idx.modality_idx)
    return [Drawn(sets_of(view.visible_idx, i, names), sets_of(view.target_idx, i, names)) for i in range(n_clips)]


def size(sets: dict[str, set[int]]) -> int:
    return sum(len(tokens) for tokens in sets.values())
