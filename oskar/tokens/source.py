"""What masking, packing and the model may know of a modality's tokens: the contract of a source."""

from typing import Protocol

from torch import Tensor

from oskar.modalities import Modality


class TokenSource(Protocol):
    """The tokens of one modality for a batch of clips, before any of them is built.

    ``is_valid`` bool ``[B, N]``: the token exists. ``cells`` int64 ``[B, N, C]``: the video cells in
    which a token lies, for exclusivity; -1 where it has none. Nothing is patchified or gathered
    until ``take`` names the tokens. No parameters.
    """

    modality: Modality
    is_valid: Tensor
    cells: Tensor

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        """Values ``[n, P]`` of n tokens given by clip ``[n]`` and index inside the modality ``[n]``."""

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor | None:
        """Person boxes ``[n, 4]`` of n tokens, or None for a modality without boxes."""
