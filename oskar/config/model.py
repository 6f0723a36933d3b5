"""The networks, the targets and their momentum."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.settings import require, require_positive, require_share

_STRICT = ConfigDict(extra="forbid")
Routing = Literal["joint", "modality"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The transformer that is fusion encoder and target encoder (paper section 3; A10, A11, A19, A20)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    width: int = 384
    n_blocks: int = 12
    n_heads: int = 6
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    bias: bool = False  # A20
    positions: Literal["learned", "sincos"] = "learned"  # A10
    box_embedding: bool = True  # A11
    fusion_attention: Routing = "joint"
    target_attention: Routing = "modality"
    init_std: float = 0.02
    embedding_std: float | None = (
        None  # spread at the start of content, position, modality and box alike; None: init_std
    )
    checkpointing: bool = False  # compute activations again in the backward pass: less memory, a third more time

    def __post_init__(self) -> None:
        require_positive(self, "model", "width", "n_blocks", "n_heads", "init_std")
        std = self.embedding_std
        require(std is None or std > 0, "model.embedding_std", std, "use a positive number, or null")
        require(
            self.width % self.n_heads == 0,
            "model.width",
            self.width,
            f"use a multiple of model.n_heads={self.n_heads}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorConfig:
    """The predictor (A21-A23): "cross" is OSKAR's, "joint" runs self-attention over visible and queries."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: Literal["cross", "joint"] = "cross"
    width: int = 384
    n_layers: int = 12  # cross: half of them self-attention, half cross-attention
    n_heads: int = 6
    attention: Routing = "modality"
    context_positions: bool = False  # A23

    def __post_init__(self) -> None:
        require_positive(self, "predictor", "width", "n_layers", "n_heads")
        require(
            self.width % self.n_heads == 0,
            "predictor.width",
            self.width,
            f"use a multiple of predictor.n_heads={self.n_heads}",
        )
        require(
            self.kind != "cross" or self.n_layers % 2 == 0,
            "predictor.n_layers",
            self.n_layers,
            "cross-attention predictors alternate two kinds of layers: use an even number",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetConfig:
    """What is predicted and how it is compared (A24, A25)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    space: Literal["latent", "input"] = "latent"
    context: Literal["targets", "all"] = "targets"  # what the target encoder sees
    normalise: bool = True  # latents: layer norm without affine (A24); pixels: per tubelet
    centre: bool = False  # latents: less their running mean at each position
    centre_decay: float = 0.9
    loss: Literal["mse", "l1"] = "mse"

    def __post_init__(self) -> None:
        require_share(self, "target", "centre_decay")
        require(
            self.space == "latent" or not self.centre, "target.centre", self.centre, "only latent targets are centred"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumConfig:
    """lambda_m of the momentum encoders: equal values share one copy; None keeps no average at all.

    ``final`` is the value reached linearly at the end of the run (A26); None keeps lambda constant.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    video: float | None = 0.998
    skeleton: float | None = 0.998
    text: float | None = 0.998
    final: float | None = None

    def __post_init__(self) -> None:
        for name in ("video", "skeleton", "text", "final"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"momentum.{name}", value, "use a number in [0, 1] or null")
        values = (self.video, self.skeleton, self.text)
        require(
            all(v is None for v in values) or all(v is not None for v in values),
            "momentum",
            values,
            "give every modality a momentum, or none",
        )
