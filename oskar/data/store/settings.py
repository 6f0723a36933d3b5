"""What a token store is made of: every setting of ``oskar tokenize``."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from oskar.config import ClipConfig, TokensConfig
from oskar.settings import require, require_positive, require_share

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """How clips are cut, by what, and how the shards are written."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    views: int = 1  # windows and crops of every clip, drawn by seed; a run shows one of them at a time
    seed: int = 0
    split: str | None = "train"  # rows of this split, and those without one; null: all rows
    layer: Literal["embedding", "features"] = "embedding"  # of a tokenizer that is a model
    vector_type: Literal["bfloat16", "float16", "float32"] = "bfloat16"  # of a tokenizer that is a model
    shard_mib: float = 256.0
    workers: int = 1
    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        require_positive(self, "store", "views", "shard_mib")
        require(self.workers >= 0, "store.workers", self.workers, "use 0 or more")
        require_share(self, "store", "max_bad_share")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeConfig:
    """The tokens and clips of a recipe, and the store that holds them."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    tokens: TokensConfig = field(default_factory=TokensConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
