"""Made clips and batches of the size a recipe asks for: what speed and memory are measured on before there is data."""

import torch

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.masking.packing import Batch, build_batch
from oskar.modalities import N_JOINTS


def made_clips(config: Config, n_clips: int, seed: int = 0) -> ClipBatch:
    """Random clips that have every modality of the recipe, all joints and full captions: the most a clip can hold."""
    tokens = config.tokens
    generator = torch.Generator().manual_seed(seed)
    people = (n_clips, tokens.n_people, tokens.n_frames)
    frames = (n_clips, tokens.n_frames, 3, tokens.resolution, tokens.resolution)
    joints = torch.rand(*people, N_JOINTS, 3, generator=generator)
    joints[..., 2] = 1.0
    corners = torch.rand(*people, 2, 2, generator=generator).sort(dim=-2).values  # x1 <= x2, y1 <= y2
    words = torch.randint(0, tokens.vocabulary_size, (n_clips, tokens.n_words), generator=generator)
    is_there = torch.ones(n_clips, dtype=torch.bool)
    has_video, has_skeleton = "video" in tokens.modalities, "skeleton" in tokens.modalities
    return ClipBatch(
        clip_ids=torch.arange(n_clips),
        labels=torch.full((n_clips,), -1),
        frames=torch.randint(0, 256, frames, dtype=torch.uint8, generator=generator) if has_video else None,
        has_video=is_there if has_video else None,
        joints=joints if has_skeleton else None,
        boxes=corners.flatten(-2) if has_skeleton else None,
        has_skeleton=is_there if has_skeleton else None,
        word_ids=words if "text" in tokens.modalities else None,
    )


def made_batch(config: Config, n_clips: int, seed: int = 0) -> Batch:
    """What the model sees of ``made_clips``, with the recipe's own masks."""
    return build_batch(made_clips(config, n_clips, seed), config, 0)
