"""The contract of a downstream task.

A task is a module whose forward returns ``{"loss", ...}`` and that runs in the one training loop, and an
evaluation that yields named values beside their controls. Frozen or fine-tuned, pretrained or from
random weights, is a property of its ``Backbone``, not of the task.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from oskar.config import TrainConfig
from oskar.masking.packing import PackedTokens
from oskar.modalities import Modality
from oskar.model.encoder import TokenEncoder
from oskar.settings import require
from oskar.tasks.transfer import Transfer, random_encoder
from oskar.train.loop import BatchStream, Progressed, Trainer
from oskar.train.precision import PrecisionChoice

Protocol = Literal["frozen", "finetune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """How a head learns, on frozen features or on top of an encoder that learns along."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    steps: int = 600
    batch_size: int = 32
    lr: float = 1e-3
    lr_scaling: Literal["per256", "none"] = "none"  # per256: lr is that of a batch of 256
    start_lr: float = 0.0
    final_lr: float = 0.0
    weight_decay: float = 0.05
    warmup_share: float = 0.05
    clip_norm: float | None = 1.0
    seed: int = 0
    split: str = "test"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")

    def train_config(self) -> TrainConfig:
        """The loop's settings: linear warm-up from ``start_lr``, then cosine to ``final_lr``."""
        return TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            lr_scaling=self.lr_scaling,
            start_lr=self.start_lr,
            final_lr=self.final_lr,
            warmup_share=self.warmup_share,
            betas=(0.9, 0.999),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            seed=self.seed,
            checkpoint_every_steps=self.steps,
            log_every_steps=max(self.steps // 20, 1),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig(HeadConfig):
    """What every task's training has; a task's own settings derive from it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epochs: float | None = None  # passes over the training items, in place of steps
    encoder_lr_share: float = 1.0  # fine-tuning: the last block's rate as a share of the head's
    layer_decay: float = 0.75  # fine-tuning: each block below has this share of the rate of the one above
    workers: int = 0

    def __post_init__(self) -> None:
        HeadConfig.__post_init__(self)
        for name in ("encoder_lr_share", "layer_decay"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")
        require(self.layer_decay <= 1, "layer_decay", self.layer_decay, "use a share of at most 1")
        require(self.epochs is None or self.epochs > 0, "epochs", self.epochs, "use a positive number, or null")

    def n_steps(self, n_items: int) -> int:
        """Steps of a training on ``n_items``: ``steps``, or those of ``epochs`` passes over them, at least one."""
        return self.steps if self.epochs is None else max(1, round(self.epochs * n_items / self.batch_size))


class Backbone(nn.Module):
    """The encoders of some modalities: frozen features, or trained along with a head.

    Modalities that share one momentum encoder share it here too, unless ``is_trained``: then each
    modality fine-tunes a copy of its own. Frozen encoders are no part of the module's state, so that a head's
    checkpoint is the head's alone; they move between devices with it.
    """

    def __init__(
        self, transfer: Transfer, modalities: tuple[Modality, ...], *, is_trained: bool, random_seed: int | None = None
    ) -> None:
        super().__init__()
        self.config, self.is_trained = transfer.config, is_trained
        if random_seed is None:
            encoders = {name: transfer.encoder(name) for name in modalities}
        else:
            encoders = {name: random_encoder(transfer.config, name, random_seed) for name in modalities}
        self.encoders: nn.ModuleDict | dict[str, nn.Module] = {str(name): encoder for name, encoder in encoders.items()}
        if is_trained:
            copies = {name: copy.deepcopy(encoder) for name, encoder in encoders.items()}
            self.encoders = nn.ModuleDict(
                {name: encoder.train().requires_grad_(True) for name, encoder in copies.items()}
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        """What ``to`` calls."""
        if isinstance(self.encoders, dict):
            for encoder in self.encoders.values():
                encoder._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, modality: Modality, packed: PackedTokens) -> Tensor:
        """Latents ``[B, V, D]`` of one modality's packed tokens."""
        encoder = self.encoders[modality]
        if not self.is_trained:
            encoder.eval()
        with torch.set_grad_enabled(self.is_trained and torch.is_grad_enabled()):
            latents: Tensor = encoder(packed, self.config.model.target_attention)
        return latents

    def encoder(self, modality: Modality) -> TokenEncoder:
        """The encoder of one modality."""
        encoder = self.encoders[modality]
        assert isinstance(encoder, TokenEncoder)
        return encoder

    def lr_scale(self, name: str, config: FitConfig) -> float:
        """Share of the learning rate of an encoder's parameter ``name``, below ``backbone.``; decays with depth."""
        n_blocks = self.config.model.n_blocks
        _, _, rest = name.split(".", 2)  # encoders.<modality>.<rest>
        if rest.startswith("blocks."):
            depth = int(rest.split(".")[1]) + 1
        else:
            depth = n_blocks + 1 if rest.startswith("norm") else 0
        return config.encoder_lr_share * config.layer_decay ** (n_blocks + 1 - depth)


class TaskModule(nn.Module):
    """A backbone with a head: what the loop trains. Subclasses implement ``forward`` -> ``{"loss", ...}``."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def after_step(self, share: float) -> None:
        """Tasks have no momentum."""

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        return {"all": [p for p in self.parameters() if p.requires_grad]}


def fit(
    module: TaskModule,
    stream: BatchStream,
    config: FitConfig,
    folder: Path,
    *,
    precision: PrecisionChoice,
    device: torch.device,
    bad_budget: int = 0,
) -> Progressed:
    """Train a task's module in the one loop, with layer-wise decay of the encoder's rates."""

    def lr_scale(name: str) -> float:
        prefix, _, rest = name.partition(".")
        return module.backbone.lr_scale(rest, config) if prefix == "backbone" else 1.0

    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        module, stream, config.train_config(), folder,
        precision=precision, device=device, bad_budget=bad_budget, lr_scale=lr_scale,
    )  # fmt: skip
    return trainer.fit()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What ``summary.json`` of an evaluation says: the result with its protocol, counts and controls.

    ``metrics`` and every entry of ``controls`` are named values; ``protocol_facts`` are whatever else
    makes the numbers comparable: class list, views, answer list, preprocessing.
    """

    task: str
    modality: str
    protocol: Protocol
    data: tuple[str, ...]
    split: str
    n_expected: int
    n_found: int
    n_evaluated: int
    metrics: Mapping[str, Any]
    controls: Mapping[str, Any]
    recipe: str
    seed: int
    checkpoint_sha256: str
    data_sha256: str
    bad_clips: Mapping[str, str] = field(default_factory=dict)
    protocol_facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat object: the contract's fields first, the protocol's facts beside them."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "protocol_facts"}
        return {**fields, "data": list(self.data), **self.protocol_facts}
