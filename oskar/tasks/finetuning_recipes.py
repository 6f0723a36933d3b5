"""Published settings of fine-tuning, by name: ``recipe=k400-small`` in place of the defaults.

Recognition of videos after VideoMAE and V-JEPA, of skeletons after MAMP, localization after VideoMAE on AVA. A learning
rate of "per256" is that of a batch of 256 videos, so that another ``batch_size`` keeps it. The names of sizes
are those of OSKAR's; "huge" and the rows of V-JEPA are there for comparison.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from oskar.tasks.finetuning import FinetuneConfig
from oskar.tasks.localization import LocalizationConfig

_WARMUP_EPOCHS = 5
_LOWEST_LR = 1e-6  # of a batch of 256, at the start and at the end


def _videos(
    temporal: Literal["dense", "segments"],
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    layer_decay: float = 0.75,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    lowest_lr: float = _LOWEST_LR,
    start_lr: float = _LOWEST_LR,
) -> FinetuneConfig:
    """A row of VideoMAE's table; Kinetics shows windows and mirrors, Something-Something whole videos and does not."""
    is_dense = temporal == "dense"
    return FinetuneConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_scaling="per256",
        start_lr=start_lr * batch_size / 256,
        final_lr=lowest_lr * batch_size / 256,
        warmup_share=_WARMUP_EPOCHS / epochs,
        weight_decay=0.05,
        clip_norm=None,
        layer_decay=layer_decay,
        drop_path=drop_path,
        dropout=dropout,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        rand_layers=4,
        rand_magnitude=7.0,
        rand_magnitude_std=0.5,
        erasing_probability=0.25,
        n_repeats=2,
        temporal=temporal,
        stride_frames=4,
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        flip_probability=0.5 if is_dense else 0.0,
        n_windows=5 if is_dense else 2,
        n_crops=3,
        split="val",
    )


def _skeletons(lr: float) -> FinetuneConfig:
    """MAMP's recipe of NTU with this library's layer decay; no mixing, one view."""
    return FinetuneConfig(
        epochs=100,
        batch_size=48,
        lr=lr,
        final_lr=1e-5,
        warmup_share=_WARMUP_EPOCHS / 100,
        weight_decay=0.05,
        layer_decay=0.75,
        drop_path=0.3,
        dropout=0.3,
        label_smoothing=0.1,
        mixup=0.0,
        cutmix=0.0,
        temporal="centres",
    )


def _people(*, lr: float, layer_decay: float, epochs: int = 30) -> LocalizationConfig:
    """VideoMAE on AVA from self-supervised weights."""
    return LocalizationConfig(
        epochs=epochs,
        batch_size=128,
        lr=lr,
        lr_scaling="per256",
        final_lr=_LOWEST_LR,
        warmup_share=_WARMUP_EPOCHS / epochs,
        weight_decay=0.05,
        clip_norm=None,
        encoder_lr_share=1.0,
        layer_decay=layer_decay,
        drop_path=0.2,
        flip_probability=0.5,
        hue_degrees=20.0,
        saturation=0.1,
        brightness=0.1,
        split="val",
    )


RECOGNITION_RECIPES: Mapping[str, FinetuneConfig] = MappingProxyType(
    {
        "k400-small": _videos("dense", lr=5e-4, epochs=150, batch_size=384),
        "k400-base": _videos("dense", lr=5e-4, epochs=75, batch_size=384),
        "k400-large": _videos("dense", lr=2e-3, epochs=35, batch_size=128),
        "k400-large-vjepa": _videos("dense", lr=2e-3, epochs=35, batch_size=256),
        "k400-huge": _videos(
            "dense", lr=1e-3, epochs=50, batch_size=512, drop_path=0.2, dropout=0.5, lowest_lr=1e-5, start_lr=1e-8
        ),
        "k400-huge-vjepa": _videos("dense", lr=5e-4, epochs=25, batch_size=1024, drop_path=0.2),
        "ssv2-small": _videos("segments", lr=1e-3, epochs=40, batch_size=384, layer_decay=0.7),
        "ssv2-base": _videos("segments", lr=5e-4, epochs=30, batch_size=384),
        "ssv2-large": _videos("segments", lr=5e-4, epochs=15, batch_size=256, drop_path=0.2, dropout=0.5),
        "ntu60": _skeletons(3e-4),
        "ntu120": _skeletons(5e-4),
    }
)
LOCALIZATION_RECIPES: Mapping[str, LocalizationConfig] = MappingProxyType(
    {
        "ava-small": _people(lr=1e-3, layer_decay=0.6),
        "ava-base": _people(lr=2.5e-4, layer_decay=0.75),
        "ava-large": _people(lr=2.5e-4, layer_decay=0.75),
        "ava-huge": _people(lr=5e-4, layer_decay=0.8, epochs=20),
    }
)
