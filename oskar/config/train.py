"""Reading clips, and the length, optimisation and bookkeeping of a run."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.settings import require, require_not_negative, require_positive, require_share

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Reading clips: workers, error budget, which captions count as text."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    workers: int = 1
    max_bad_share: float = 0.01
    captions: Literal["written", "all", "none"] = "written"  # "written" leaves out captions composed from a label
    split: str = "train"  # rows of this split train; rows without a split always do
    tokenizer: str | None = None  # path of a tokenizer.json; None trains WordPiece on the captions
    quarantine: Literal["honour", "ignore"] = "honour"  # clips that `oskar check` listed do not train
    cache_gib: float = 1.0  # decoded, resized frames that each worker keeps in memory; 0 decodes windows only
    cache_dir: str | None = None  # decoded frames and fetched shards are kept here; None keeps none on disk
    cache_dir_gib: float = 100.0  # what cache_dir may hold; the least recently used go first
    clips_per_decode: int = 1  # windows and crops taken from a video each time it is decoded

    def __post_init__(self) -> None:
        require(self.workers >= 0, "data.workers", self.workers, "use 0 or more")
        require_share(self, "data", "max_bad_share")
        require_not_negative(self, "data", "cache_gib", "cache_dir_gib")
        require_positive(self, "data", "clips_per_decode")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Length, optimisation and bookkeeping of a run (paper section 4.1; A29-A35)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    steps: int = 1000
    batch_size: int = 64
    accumulation: int = 1  # a process computes its share of a batch in this many equal parts
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of several processes: the model in each, or spread over all
    collective_timeout_seconds: float = 600.0  # how long processes wait for the slowest of them
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
    compile: bool = False  # blocks by torch.compile: pays on GPUs, after a minute
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
            "collective_timeout_seconds",
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
