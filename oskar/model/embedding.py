"""Embedding: content ``g_m(T_m)`` and, apart from it, position + modality + box (paper section 3.1).

Queries of the predictor use the position part alone, at the predictor's own width.
"""

import torch
from torch import Tensor, nn

from oskar.config import ModelConfig, TokensConfig
from oskar.masking.packing import ModalityTokens, PackedTokens
from oskar.modalities import Modality, ModalitySpec, modality_specs
from oskar.tokens.skeleton import normalise_joints
from oskar.tokens.video import normalise_pixels

BOX_GAIN = 2.0  # spread of the first box weights: pre-activations then differ by about 1 between people


def draw_normal(weight: Tensor, std: float) -> None:
    """Normal weights of spread ``std``, cut at twice that."""
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def sincos_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Fixed table ``[prod(grid), D]``: each axis gets ``2 ceil(D / 2A)`` channels, then cut to D.

    Half of an axis's channels are sines, half cosines, with frequencies ``10000^(-k / (n / 2))``
    (V-JEPA's ``uniform_power`` table for three axes).
    """
    half = -(-width // (2 * len(grid)))
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    parts = []
    for axis in axes:
        angle = axis.flatten()[:, None] * frequencies
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)[:, :width].float()


class PositionEmbedding(nn.Module):
    """``e^pos + e^mod + e^aux`` of one modality at one width; ``e^aux`` embeds a person's box (A11)."""

    def __init__(self, spec: ModalitySpec, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.n_positions = spec.n_positions
        self.table: Tensor
        if config.positions == "learned":
            self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.n_positions, width), std=0.02))
        else:
            self.register_buffer("table", sincos_positions(spec.position_grid, width), persistent=False)
        self.modality = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        has_box = spec.has_box and config.box_embedding
        self.box = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width)) if has_box else None

    def forward(self, tokens: ModalityTokens) -> Tensor:
        """Embeddings ``[n, D]``; people share the rows of the table (A10)."""
        embedded = self.table[tokens.token_idx % self.n_positions] + self.modality
        if self.box is not None and tokens.boxes is not None:
            embedded = embedded + self.box(tokens.boxes)
        return embedded

    @torch.no_grad()
    def scale_to(self, std: float) -> None:
        """Draw position, modality and box anew, each with spread ``std``, so that attention can tell places apart."""
        for vector in (self.table, self.modality):
            if isinstance(vector, nn.Parameter):
                draw_normal(vector, std)
        if self.box is not None:
            widening, narrowing = self.box[0], self.box[2]
            assert isinstance(widening, nn.Linear)
            assert isinstance(narrowing, nn.Linear)
            draw_normal(widening.weight, BOX_GAIN)
            # Boxes are about 1 long, and GELU halves the mean square of what it is given.
            draw_normal(narrowing.weight, std / BOX_GAIN * (2.0 / narrowing.in_features) ** 0.5)


class ContentEmbedding(nn.Module):
    """``g_m``: a linear map of a token's values, or a table where tokens are ids."""

    def __init__(self, spec: ModalitySpec, width: int, bias: bool, patch_size: int | None) -> None:
        super().__init__()
        self.name, self.patch_size = spec.name, patch_size
        self.projection: nn.Linear | nn.Embedding
        if spec.vocabulary_size is None:
            self.projection = nn.Linear(spec.token_width, width, bias=bias)
        else:
            self.projection = nn.Embedding(spec.vocabulary_size, width)

    def forward(self, values: Tensor) -> Tensor:
        """Embed values ``[n, P]`` (pixels arrive as uint8) or ids ``[n, 1]`` to ``[n, D]``."""
        if isinstance(self.projection, nn.Embedding):
            values = values.squeeze(1)
        elif self.name == "video":
            values = values.float() if self.patch_size is None else normalise_pixels(values, self.patch_size)
        else:
            values = normalise_joints(values)
        embedded: Tensor = self.projection(values)
        return embedded

    @torch.no_grad()
    def scale_to(self, std: float) -> None:
        """Draw the weights anew so that inputs of unit variance give outputs of spread ``std``.

        With one weight spread for all modalities a joint's content would start at a tenth of a
        tubelet's, for want of inputs, and drown in its position embedding.
        """
        n_inputs = self.projection.in_features if isinstance(self.projection, nn.Linear) else 1
        draw_normal(self.projection.weight, std / n_inputs**0.5)


class TokenEmbedding(nn.Module):
    """Embed packed tokens of any subset of the modalities into ``[B, V, D]``."""

    def __init__(self, tokens: TokensConfig, config: ModelConfig) -> None:
        super().__init__()
        specs = modality_specs(tokens)
        self.width = config.width
        patch_size = tokens.patch_size if tokens.video_width is None else None  # A8: vectors are not normalised
        self.content = nn.ModuleDict(
            {name: ContentEmbedding(spec, config.width, config.bias, patch_size) for name, spec in specs.items()}
        )
        self.position = PositionEmbeddings(tokens, config.width, config)

    def scale_to(self, std: float) -> None:
        """Let content and position of every modality start equally loud."""
        for content in self.content.values():
            assert isinstance(content, ContentEmbedding)
            content.scale_to(std)
        self.position.scale_to(std)

    def forward(self, packed: PackedTokens) -> Tensor:
        parts = {name: self.content[name](tokens.values) for name, tokens in packed.tokens.items()}
        embedded: Tensor = self.position(packed, content=parts)
        return embedded


class PositionEmbeddings(nn.Module):
    """The position parts of all modalities, placed into slots; optionally on top of content."""

    def __init__(self, tokens: TokensConfig, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.width = width
        self.by_modality = nn.ModuleDict(
            {name: PositionEmbedding(spec, width, config) for name, spec in modality_specs(tokens).items()}
        )

    def scale_to(self, std: float) -> None:
        for position in self.by_modality.values():
            assert isinstance(position, PositionEmbedding)
            position.scale_to(std)

    def forward(self, packed: PackedTokens, content: dict[Modality, Tensor] | None = None) -> Tensor:
        """``[B, V, D]`` in float32; empty slots are zero."""
        n_clips, n_slots = packed.segments.shape
        slots, parts = [], []
        for name, tokens in packed.tokens.items():
            embedded = self.by_modality[name](tokens)
            parts.append(embedded.float() if content is None else embedded.float() + content[name].float())
            slots.append(tokens.slots)
        flat = torch.zeros(n_clips * n_slots, self.width, device=packed.segments.device)
        if parts:
            flat = flat.index_copy(0, torch.cat(slots), torch.cat(parts))
        return flat.view(n_clips, n_slots, self.width)
