"""Every setting of a run: frozen, keyword-only, typed, and strict about what it does not know.

A recipe is a complete ``Config``. Letters such as A17 are the ids of the assumptions that
``docs/architecture.md`` lists: choices the paper leaves open, each of them a field here.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from pydantic import ConfigDict

from oskar.config.clip import ClipConfig, TokensConfig
from oskar.config.masking import BlockConfig, MaskingConfig
from oskar.config.model import ModelConfig, MomentumConfig, PredictorConfig, Routing, TargetConfig
from oskar.config.train import DataConfig, TrainConfig
from oskar.errors import InputError
from oskar.settings import apply_overrides, require, validate

_STRICT = ConfigDict(extra="forbid")

__all__ = [
    "BlockConfig",
    "ClipConfig",
    "Config",
    "DataConfig",
    "MaskingConfig",
    "ModelConfig",
    "MomentumConfig",
    "PredictorConfig",
    "Routing",
    "TargetConfig",
    "TokensConfig",
    "TrainConfig",
]


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
            raise InputError(f"{source}: holds {type(values).__name__}, not an object", fix="see oskar/config/")
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
