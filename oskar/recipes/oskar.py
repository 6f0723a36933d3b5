"""The paper's method: section 6 of the paper with every assumption a field, and small versions for CPUs."""

from dataclasses import replace

from oskar.config import (
    ClipConfig,
    Config,
    MaskingConfig,
    ModelConfig,
    MomentumConfig,
    PredictorConfig,
    TargetConfig,
    TokensConfig,
    TrainConfig,
)


def oskar_small() -> Config:
    """OSKAR-S as published: 16 x 224^2, 128 + 128 of 2640 tokens, batch 8192 for 238,419 steps (A31)."""
    return Config(
        recipe="oskar-small",
        train=TrainConfig(steps=238_419, batch_size=8192, checkpoint_every_steps=1000),
    )


def oskar_base() -> Config:
    """OSKAR-B: width 768, 12 blocks."""
    small = oskar_small()
    return replace(small, recipe="oskar-base", model=ModelConfig(width=768, n_blocks=12, n_heads=12))


def oskar_large() -> Config:
    """OSKAR-L: width 1024, 24 blocks."""
    small = oskar_small()
    return replace(small, recipe="oskar-large", model=ModelConfig(width=1024, n_blocks=24, n_heads=16))


def oskar_custom() -> Config:
    """OSKAR-S with one momentum per modality, the paper's best: 0.998 / 0.9998 / 0.99998."""
    momentum = MomentumConfig(video=0.998, skeleton=0.9998, text=0.99998)
    return replace(oskar_small(), recipe="oskar-custom", momentum=momentum)


def oskar_tiny() -> Config:
    """A 1.2 M-parameter encoder on 16 x 64^2 for real clips on two CPU cores; about ten minutes."""
    return Config(
        recipe="oskar-tiny",
        tokens=TokensConfig(
            resolution=64,
            patch_size=8,
            n_people=2,
            segment_frames=4,
            joint_frame="person",
            n_words=32,
            vocabulary_size=2048,
        ),
        clip=ClipConfig(temporal="span", span_share=(0.5, 1.0), crop_scale=(0.5, 1.0), yaw_degrees=45.0),
        masking=MaskingConfig(n_visible=64, n_target=32),
        model=ModelConfig(width=128, n_blocks=4, n_heads=4, embedding_std=0.5),
        predictor=PredictorConfig(width=96, n_layers=2, n_heads=4, context_positions=True),
        target=TargetConfig(centre=True, centre_decay=0.98),
        # Targets that start fixed cannot give up their content while the predictor still knows positions only.
        momentum=MomentumConfig(video=1.0, skeleton=1.0, text=1.0, final=0.99),
        train=TrainConfig(
            steps=3000, batch_size=32, lr=1e-3, lr_scaling="none", warmup_share=0.05, checkpoint_every_steps=500
        ),
    )


def oskar_demo() -> Config:
    """``oskar-tiny`` with coarser patches, at the length of a demonstration on the built-in people."""
    tiny = oskar_tiny()
    return replace(
        tiny,
        recipe="oskar-demo",
        tokens=replace(tiny.tokens, patch_size=16),
        train=replace(tiny.train, steps=420, checkpoint_every_steps=140),
    )
