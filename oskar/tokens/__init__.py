"""Tokens as sources: which exist, where they lie, and the values of those that were chosen."""

import torch

from oskar.clip import ClipBatch
from oskar.config import TokensConfig
from oskar.modalities import Modality, modality_specs
from oskar.tokens.skeleton import SkeletonTokens
from oskar.tokens.source import TokenSource
from oskar.tokens.text import TextTokens
from oskar.tokens.video import VideoTokens


def token_sources(clips: ClipBatch, tokens: TokensConfig) -> dict[Modality, TokenSource]:
    """The sources of the recipe's modalities that at least one clip of the batch has."""
    sources: dict[Modality, TokenSource] = {}
    for name in modality_specs(tokens):
        if name == "video" and clips.frames is not None and clips.has_video is not None:
            sources[name] = VideoTokens(clips.frames, clips.has_video, tokens)
        elif name == "skeleton" and clips.joints is not None and clips.boxes is not None:
            has_skeleton = torch.ones(len(clips), dtype=torch.bool) if clips.has_skeleton is None else clips.has_skeleton
            sources[name] = SkeletonTokens(clips.joints, clips.boxes, has_skeleton, tokens)
        elif name == "text" and clips.word_ids is not None:
            sources[name] = TextTokens(clips.word_ids)
    return sources


__all__ = ["SkeletonTokens", "TextTokens", "TokenSource", "VideoTokens", "token_sources"]
