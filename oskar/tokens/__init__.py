"""Tokens as sources: which exist, where they lie, and the values of those that were chosen."""

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import TokensConfig
from oskar.errors import InputError
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.tokens.skeleton import SkeletonTokens
from oskar.tokens.source import TokenSource
from oskar.tokens.stored import MixedVideo, StoredVideo
from oskar.tokens.text import TextTokens
from oskar.tokens.video import VideoTokens


def token_sources(clips: ClipBatch, tokens: TokensConfig) -> dict[Modality, TokenSource]:
    """The sources of the recipe's modalities that at least one clip of the batch has.

    Raises:
        InputError: when clips do not have the size that ``tokens`` describes, or none of its modalities.
    """
    present = torch.ones_like(clips.clip_ids, dtype=torch.bool)
    sources: dict[Modality, TokenSource] = {}
    for name in modality_specs(tokens):
        if name == "video" and (clips.frames is not None or clips.tubelets is not None):
            sources[name] = _video(clips, tokens, present if clips.has_video is None else clips.has_video)
        elif name == "skeleton" and clips.joints is not None and clips.boxes is not None:
            _check_shape("joints", clips.joints, (tokens.n_people, tokens.n_frames, N_JOINTS, 3))
            _check_shape("boxes", clips.boxes, (tokens.n_people, tokens.n_frames, 4))
            has_skeleton = present if clips.has_skeleton is None else clips.has_skeleton
            sources[name] = SkeletonTokens(clips.joints, clips.boxes, has_skeleton, tokens)
        elif name == "text" and clips.word_ids is not None:
            _check_shape("word_ids", clips.word_ids, (tokens.n_words,))
            sources[name] = TextTokens(clips.word_ids)
    if not sources:
        raise InputError(
            f"no clip of the batch has any of tokens.modalities={list(tokens.modalities)}",
            fix="name a modality that the data has",
        )
    return sources


def _video(clips: ClipBatch, tokens: TokensConfig, has_video: Tensor) -> TokenSource:
    side = tokens.resolution
    stored = None if clips.tubelets is None else StoredVideo(clips.tubelets, has_video)
    if stored is not None:
        _check_shape(
            "tubelets",
            stored.is_valid,
            ((tokens.n_frames // tokens.tubelet_frames) * (side // tokens.patch_size) ** 2,),
        )
    if clips.frames is None:
        assert stored is not None
        return stored
    if tokens.video_width is not None:
        raise InputError(
            f"tokens.video_width = {tokens.video_width}: video tokens are vectors of a model, but clips came as frames",
            fix="use a token store made by that model, another modality, or set tokens.video_width=null",
        )
    _check_shape("frames", clips.frames, (tokens.n_frames, 3, side, side))
    decoded = VideoTokens(clips.frames, has_video, tokens)
    return decoded if stored is None else MixedVideo(decoded, stored)


def _check_shape(name: str, values: Tensor, expected: tuple[int, ...]) -> None:
    if values.shape[1:] != expected:
        raise InputError(
            f"clips' {name} are {list(values.shape[1:])}, the recipe's tokens need {list(expected)}",
            fix="build the clips with the same tokens.* settings as the model",
        )


__all__ = ["SkeletonTokens", "TextTokens", "TokenSource", "VideoTokens", "token_sources"]
