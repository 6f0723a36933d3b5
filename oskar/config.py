"""Every setting of a run: frozen, keyword-only, typed, and strict about what it does not know.

A recipe is a complete ``Config``. Letters such as A17 are the ids of the assumptions that
``docs/architecture.md`` lists: choices the paper leaves open, each of them a field here.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict

from oskar.errors import InputError
from oskar.settings import apply_overrides, require, require_not_negative, require_positive, require_share, validate

_STRICT = ConfigDict(extra="forbid")
Routing = Literal["joint", "modality"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensConfig:
    """What a clip is cut into (paper section 3; A1, A4, A5, A6, A9)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    modalities: tuple[Literal["video", "skeleton", "text"], ...] = ("video", "skeleton", "text")
    n_frames: int = 16
    resolution: int = 224
    tubelet_frames: int = 2
    patch_size: int = 16
    min_contrast: float = 0.0  # tubelets whose pixel range is below this share of 255 are unavailable
    n_people: int = 3
    segment_frames: int = 1  # A5: frames of a joint that make one token
    min_confidence: float = 0.3  # A6
    joint_frame: Literal["clip", "person"] = "clip"  # person: a joint's values are relative to its person
    n_words: int = 256  # A5
    vocabulary_size: int = 30522  # A9

    def __post_init__(self) -> None:
        n_named, n_different = len(self.modalities), len(set(self.modalities))
        require(n_named == n_different > 0, "tokens.modalities", self.modalities, "name one or more, each once")
        sizes = ("n_frames", "resolution", "tubelet_frames", "patch_size", "n_people", "segment_frames", "n_words")
        require_positive(self, "tokens", *sizes)
        for name, per_token in (("tubelet_frames", self.tubelet_frames), ("segment_frames", self.segment_frames)):
            fix = f"use a multiple of tokens.{name}={per_token}"
            require(self.n_frames % per_token == 0, "tokens.n_frames", self.n_frames, fix)
        require(
            self.resolution % self.patch_size == 0,
            "tokens.resolution",
            self.resolution,
            f"use a multiple of tokens.patch_size={self.patch_size}",
        )
        require_share(self, "tokens", "min_contrast", "min_confidence")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Which frames and which part of them a clip shows (A7, A38), and how 3-D joints are projected."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    temporal: Literal["stride", "span", "dense", "segments", "centres"] = "stride"  # see oskar/data/frame_choice.py
    stride_frames: int = 2  # temporal="stride" and "dense": every n-th frame of a random window
    span_share: tuple[float, float] = (0.5, 1.0)  # temporal="span": a random share, resampled evenly
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.35)
    flip_probability: float = 0.0  # A7: off wherever captions may say left or right
    projection: Literal["orthographic", "pinhole"] = "orthographic"
    focal_lengths: float = 1.2  # pinhole: focal length in units of the frame's longer side
    yaw_degrees: float = 0.0  # 3-D joints turn about the vertical by up to this angle, either way
    box_margin: float = 0.1  # clips without a video get a virtual frame: their people's box plus this

    def __post_init__(self) -> None:
        require_positive(self, "clip", "stride_frames", "focal_lengths")
        require_share(self, "clip", "flip_probability")
        for name in ("span_share", "crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"clip.{name}", (low, high), "give two positive numbers, the smaller first")
        require(self.span_share[1] <= 1, "clip.span_share", self.span_share, "shares end at 1")
        require(self.crop_scale[1] <= 1, "clip.crop_scale", self.crop_scale, "the largest crop is 1")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Reading clips: workers, error budget, which captions count as text."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    workers: int = 1
    max_bad_share: float = 0.01
    captions: Literal["written", "all", "none"] = "written"  # "written" leaves out captions composed from a label
    split: str = "train"  # rows of this split train; rows without a split always do
    tokenizer: str | None = None  # path of a tokenizer.json; None trains WordPiece on the captions
    cache_dir: str | None = None  # decoded, resized frames are kept here; None keeps none

    def __post_init__(self) -> None:
        require(self.workers >= 0, "data.workers", self.workers, "use 0 or more")
        require_share(self, "data", "max_bad_share")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Length, optimisation and bookkeeping of a run (paper section 4.1; A29-A35)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    steps: int = 1000
    batch_size: int = 64
    accumulation: int = 1  # a batch is computed in this many equal parts
    lr: float = 1e-4
    lr_scaling: Literal["per256", "none"] = "per256"  # A29
    start_lr: float = 0.0
    final_lr: float = 0.0
    warmup_share: float = 0.02
    schedule_stretch: float = 1.0  # schedules are computed for this many times the run and stopped early
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    final_weight_decay: float | None = None  # None: constant; otherwise a cosine ramp
    clip_norm: float | None = 10.0  # fusion side and predictor separately (A33)
    clip_after_warmup: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    device: str = "auto"
    checkpoint_every_steps: int = 500
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        require_positive(
            self,
            "train",
            "steps",
            "batch_size",
            "accumulation",
            "lr",
            "schedule_stretch",
            "checkpoint_every_steps",
            "log_every_steps",
        )
        require(
            self.batch_size % self.accumulation == 0,
            "train.accumulation",
            self.accumulation,
            f"train.batch_size={self.batch_size} must be a multiple of it",
        )
        require_share(self, "train", "warmup_share")
        require_not_negative(self, "train", "start_lr", "final_lr", "weight_decay", "final_weight_decay")
        require(all(0 <= beta < 1 for beta in self.betas), "train.betas", self.betas, "use two numbers in [0, 1)")
        require(abs(self.seed) < 2**63, "train.seed", self.seed, "use a number of at most 63 bits")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "train.clip_norm",
            self.clip_norm,
            "use a positive number, or null for no clipping",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A complete pretraining run."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    recipe: str
    tokens: TokensConfig = field(default_factory=TokensConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    momentum: MomentumConfig = field(default_factory=MomentumConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        require(
            self.target.space != "latent" or self.momentum.video is not None,
            "momentum.video",
            None,
            "latent targets come from a momentum encoder: give a momentum",
        )
        require(
            self.masking.style != "blocks" or self.tokens.modalities == ("video",),
            "tokens.modalities",
            self.tokens.modalities,
            'masking.style="blocks" is defined on the video grid: use modalities=["video"]',
        )
        is_context_used = self.target.context == "targets" or self.target.space == "latent"
        require(is_context_used, "target.context", self.target.context, 'only latent targets have one: use "targets"')

    def with_overrides(self, overrides: list[str]) -> "Config":
        """A copy with ``key=value`` pairs applied, for example ``train.lr=1e-3``.

        Raises:
            InputError: naming the key, the value and the fix.
        """
        return apply_overrides(self, overrides)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """Parse and check; ``source`` names the file in errors."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{source}: not JSON ({error})", fix="write it with `oskar pretrain`, or repair it"
            ) from error
        if not isinstance(values, dict):
            raise InputError(f"{source}: holds {type(values).__name__}, not an object", fix="see oskar/config.py")
        return validate(cls, values, source)

    @classmethod
    def load(cls, path: Path) -> Self:
        if not path.is_file():
            raise InputError(f"config file {path} does not exist", fix="name a config.json, such as RUN/config.json")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"config file {path} cannot be read ({error})", fix="name a config.json") from error
        return cls.from_json(text, str(path))
