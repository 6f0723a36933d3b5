"""Text tokens: WordPiece ids; text has no place, so it is exempt from exclusivity."""

import torch
from torch import Tensor

from oskar.modalities import Modality


class TextTokens:
    """``word_ids`` int64 ``[B, n_words]``, -1 after the caption's end; ``take`` gives ids ``[n, 1]``."""

    modality: Modality = "text"

    def __init__(self, word_ids: Tensor) -> None:
        self._word_ids = word_ids
        self.is_valid = word_ids >= 0
        self.cells = torch.full_like(word_ids, -1)[..., None]

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        return self._word_ids[clip_idx, token_idx, None]

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> None:
        return None
