"""Video tokens: tubelets of ``tubelet_frames`` x ``patch_size`` x ``patch_size`` pixels."""

import torch
from torch import Tensor

from oskar.config import TokensConfig
from oskar.modalities import Modality

# Image normalisation of the field, on [0, 1] RGB.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class VideoTokens:
    """Tokens in the order time, row, column; a token's cell is its own index.

    ``frames`` uint8 ``[B, T, 3, H, W]`` stays as it is: ``take`` copies the chosen tubelets only,
    as uint8 ``[n, P]`` with P in the order frame, channel, row, column. With ``min_contrast`` a
    tubelet whose pixel range is below that share of 255 is unavailable (blank background).
    """

    modality: Modality = "video"

    def __init__(self, frames: Tensor, has_video: Tensor, tokens: TokensConfig) -> None:
        n_clips, n_frames, channels, height, width = frames.shape
        patch, depth = tokens.patch_size, tokens.tubelet_frames
        self._steps, self._rows, self._columns = n_frames // depth, height // patch, width // patch
        self._grid = frames.view(n_clips, self._steps, depth, channels, self._rows, patch, self._columns, patch)
        n_tokens = self._steps * self._rows * self._columns
        self.is_valid = has_video[:, None].expand(n_clips, n_tokens)
        if tokens.min_contrast > 0:
            flat = self._grid.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(n_clips, n_tokens, -1)
            contrast = (flat.amax(-1).float() - flat.amin(-1).float()) / 255.0
            self.is_valid = self.is_valid & (contrast >= tokens.min_contrast)
        self.cells = torch.arange(n_tokens, device=frames.device).expand(n_clips, n_tokens)

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        place = token_idx % (self._rows * self._columns)
        step = token_idx // (self._rows * self._columns)
        chosen = self._grid[clip_idx, step, :, :, place // self._columns, :, place % self._columns, :]
        return chosen.flatten(1)

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> None:
        return None


def normalise_pixels(values: Tensor, patch_size: int) -> Tensor:
    """Float values of uint8 tubelets ``[n, P]``: (x / 255 - mean) / std per colour channel."""
    planes = values.view(len(values), -1, 3, patch_size * patch_size).float()
    mean = torch.tensor(PIXEL_MEAN, device=values.device)[:, None]
    std = torch.tensor(PIXEL_STD, device=values.device)[:, None]
    return ((planes / 255.0 - mean) / std).flatten(1)
