"""Budgets, allocation and shapes of what is visible and what is predicted."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.settings import require, require_positive, require_share

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """One generator of V-JEPA's 3-D multi-block masks: shares of the grid's height x width and time."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    n_blocks: int
    spatial_scale: float
    temporal_scale: float = 1.0
    aspect_ratio: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self) -> None:
        require_positive(self, "masking.blocks", "n_blocks", "spatial_scale", "temporal_scale")
        require_share(self, "masking.blocks", "spatial_scale", "temporal_scale")
        low, high = self.aspect_ratio
        require(0 < low <= high, "masking.blocks.aspect_ratio", (low, high), "give two positive numbers, smaller first")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """Budgets, allocation, shapes and exclusivity (paper section 3; A12-A18).

    ``style="blocks"`` is V-JEPA's: one (visible, target) pair per entry of ``blocks``; the budgets
    then cut every clip to at most that many tokens, None cuts to the shortest clip of the batch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    style: Literal["tube", "random", "blocks"] = "tube"
    n_visible: int | None = 128
    n_target: int | None = 128
    allocation: Literal["dirichlet", "uniform"] = "dirichlet"
    alpha: float = 0.5
    min_tokens: int = 0  # A14
    tube_len: int | None = None  # time steps per tube, None = all (A18)
    tube_hw: int = 1  # patches per side of a tube's spatial block
    span_mean: float = 3.0
    span_max: int = 10
    exclusivity: Literal["both", "video_to_joints", "joints_to_video", "none"] = "both"  # A16
    exclusivity_radius: int = 0  # A17
    blocks: tuple[BlockConfig, ...] = ()
    keep_first: bool = True  # blocks: cut ragged sets to the first in token order, as the original

    def __post_init__(self) -> None:
        require_positive(self, "masking", "alpha", "tube_hw", "span_max")
        for name in ("n_visible", "n_target", "tube_len"):
            value = getattr(self, name)
            require(value is None or value > 0, f"masking.{name}", value, "use a positive number")
        require(self.span_mean >= 1, "masking.span_mean", self.span_mean, "a span has at least one word")
        require(self.min_tokens >= 0, "masking.min_tokens", self.min_tokens, "use 0 or more")
        require(self.exclusivity_radius >= 0, "masking.exclusivity_radius", self.exclusivity_radius, "use 0 or more")
        is_blocks = self.style == "blocks"
        require(
            is_blocks == bool(self.blocks),
            "masking.blocks",
            self.blocks,
            'blocks belong to style="blocks", which needs at least one',
        )
        require(
            is_blocks or (self.n_visible is not None and self.n_target is not None),
            "masking.n_visible",
            self.n_visible,
            'only style="blocks" may leave a budget open',
        )
