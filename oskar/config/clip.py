"""What a clip shows and what it is cut into."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.settings import require, require_positive, require_share

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensConfig:
    """What a clip is cut into (paper section 3; A1, A4, A5, A6, A9)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    modalities: tuple[Literal["video", "skeleton", "text"], ...] = ("video", "skeleton", "text")
    n_frames: int = 16
    resolution: int = 224
    tubelet_frames: int = 2
    patch_size: int = 16
    video_width: int | None = None  # A8: values of a video token that is a model's vector; null: its pixels
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
        width = self.video_width
        require(width is None or width > 0, "tokens.video_width", width, "use a positive number, or null for pixels")


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
