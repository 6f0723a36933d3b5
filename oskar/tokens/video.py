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
        self._depth, self._height, self._patch = depth, height, patch
        self._steps, self._rows, self._columns = n_frames // depth, height // patch, width // patch
        grid = frames.view(n_clips, self._steps, depth, channels, self._rows, patch, self._columns, patch)
        n_tokens = self._steps * self._rows * self._columns
        self.is_valid = has_video[:, None].expand(n_clips, n_tokens)
        if tokens.min_contrast > 0:
            low, high = grid.amin((2, 3, 5, 7)).flatten(1), grid.amax((2, 3, 5, 7)).flatten(1)
            self.is_valid = self.is_valid & ((high - low).float() / 255.0 >= tokens.min_contrast)
        self.cells = torch.arange(n_tokens, device=frames.device)[:, None].expand(n_clips, n_tokens, 1)
        # All pixels as runs of one patch's width: a tubelet is copied run by run, several times
        # faster than by indexing the grid.
        self._runs = frames.view(-1, patch)
        lines = torch.arange(depth * channels, device=frames.device)[:, None] * height
        self._runs_of_tubelet = ((lines + torch.arange(patch, device=frames.device)) * self._columns).flatten()

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        place = token_idx % (self._rows * self._columns)
        line = (clip_idx * self._steps + token_idx // (self._rows * self._columns)) * self._depth * 3 * self._height
        line = line + place // self._columns * self._patch
        first = line * self._columns + place % self._columns
        runs = (first[:, None] + self._runs_of_tubelet).flatten()
        return self._runs.index_select(0, runs).view(token_idx.shape[0], -1)

    def boxes(self, clip_idx: Tensor, token_idx: Tensor) -> None:
        return None


def normalise_pixels(values: Tensor, patch_size: int) -> Tensor:
    """Float values of uint8 tubelets ``[n, P]``: (x / 255 - mean) / std per colour channel."""
    planes = values.view(values.shape[0], -1, 3, patch_size * patch_size)
    # Constants as Python numbers: a tensor made here would make a GPU wait for the host.
    channels = [
        planes[:, :, c].float() * (1.0 / (255.0 * std)) - mean / std
        for c, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True))
    ]
    return torch.stack(channels, dim=2).flatten(1)
