"""Video tokens that lie in a token store: read when they are chosen."""

import torch
from torch import Tensor

from oskar.clip import Tubelets
from oskar.modalities import Modality
from oskar.tokens.video import VideoTokens


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
