"""The settings of ``oskar prepare``."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.settings import require, require_not_negative, require_positive, require_share

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True)
class PeopleConfig:
    """Which people of a video are kept (A2), and how detections are joined into tracks."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    n_people: int = 3
    first_frame: int | None = None  # number of the first frame in sidecar files; null: 1 where frame n is named, else 0
    min_iou: float = 0.3  # overlap of a person's boxes in two frames
    gap_frames: int = 15  # unseen for longer, a person who returns is a new track

    def __post_init__(self) -> None:
        require_positive(self, "people", "n_people")
        require_not_negative(self, "people", "gap_frames", "first_frame")
        require_share(self, "people", "min_iou")


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """What an ONNX model finds."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    min_score: float = 0.25  # least confidence of a box
    nms_iou: float = 0.7  # of two boxes that overlap more, the less sure one goes
    input_pixels: int = 640  # side of the input where the model leaves it open
    box_scale: float = 1.25  # rtmpose: the crop around a person's box

    def __post_init__(self) -> None:
        require_share(self, "detector", "min_score", "nms_iou")
        require_positive(self, "detector", "input_pixels", "box_scale")
        require(self.input_pixels % 32 == 0, "detector.input_pixels", self.input_pixels, "use a multiple of 32")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionsConfig:
    """What an image-text-to-text model is asked."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    n_frames: int = 4  # pictures of one video, evenly spaced
    prompt: str = "Describe in one sentence what the people do."
    n_tokens: int = 64  # the longest answer
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        require_positive(self, "captions", "n_frames", "n_tokens")
        require(bool(self.prompt.strip()), "captions.prompt", self.prompt, "write what the model shall do")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """All settings of ``oskar prepare``."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    people: PeopleConfig = field(default_factory=PeopleConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
