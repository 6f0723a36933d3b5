"""Video tokens that lie in a token store: read when they are chosen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oskar.clip import Tubelets
from oskar.config import TokensConfig
from oskar.modalities import Modality, modality_specs
from oskar.tokens.video import VideoTokens


@dataclass(frozen=True, slots=True)
class BlankTubelets:
    """Tokens of a model that are all zeros: a made clip where a recipe knows no frames."""

    is_valid: Tensor
    is_stored: Tensor
    width: int

    @classmethod
    def of_one_clip(cls, tokens: TokensConfig) -> "BlankTubelets":
        spec = modality_specs(tokens)["video"]
        return cls(torch.ones(1, spec.n_tokens, dtype=torch.bool), torch.ones(1, dtype=torch.bool), spec.token_width)

    def __getitem__(self, idx: Tensor) -> "BlankTubelets":
        return BlankTubelets(self.is_valid[idx], self.is_stored[idx], self.width)

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        return torch.zeros(len(token_idx), self.width)


class StoredVideo:
    """Tokens in the order time, row, column, as ``VideoTokens``; ``take`` gives pixels or a model's vectors."""

    modality: Modality = "video"

    def __init__(self, tubelets: Tubelets, has_video: Tensor) -> None:
        self.tubelets = tubelets
        self.is_valid = tubelets.is_valid & has_video[:, None]
        n_clips, n_tokens = self.is_valid.shape
        self.cells = torch.arange(n_tokens, device=has_video.device)[:, None].expand(n_clips, n_tokens, 1)

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        return self.tubelets.take(clip_idx, token_idx)

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> None:
        return None


class MixedVideo:
    """A pooled batch in which some clips were decoded and others are stored."""

    modality: Modality = "video"

    def __init__(self, decoded: VideoTokens, stored: StoredVideo) -> None:
        self._decoded, self._stored = decoded, stored
        self._is_stored = stored.tubelets.is_stored
        self.is_valid = torch.where(self._is_stored[:, None], stored.is_valid, decoded.is_valid)
        self.cells = stored.cells

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        is_stored = self._is_stored[clip_idx]
        values = self._decoded.take(clip_idx, token_idx)
        if bool(is_stored.any()):
            values[is_stored] = self._stored.take(clip_idx[is_stored], token_idx[is_stored])
        return values

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> None:
        return None
