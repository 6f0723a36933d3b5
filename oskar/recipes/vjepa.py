"""V-JEPA (arXiv 2404.08471) from the same parts: multi-block masks, self-attention predictor, L1."""

from dataclasses import replace

from oskar.config import (
    BlockConfig,
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
from oskar.recipes.oskar import oskar_tiny

BLOCKS = (BlockConfig(n_blocks=8, spatial_scale=0.15), BlockConfig(n_blocks=2, spatial_scale=0.7))


def vjepa_large() -> Config:
    """V-JEPA ViT-L/16 as published: batch 3072 for 90,000 steps of 16 x 224^2 at stride 4."""
    return Config(
        recipe="vjepa-large",
        tokens=TokensConfig(modalities=("video",)),
        clip=ClipConfig(stride_frames=4, flip_probability=0.5),
        masking=MaskingConfig(style="blocks", blocks=BLOCKS, n_visible=None, n_target=None, exclusivity="none"),
        model=ModelConfig(
            width=1024, n_blocks=24, n_heads=16, mlp="gelu", bias=True, positions="sincos", target_attention="joint"
        ),
        predictor=PredictorConfig(kind="joint", n_layers=12, n_heads=16, attention="joint", context_positions=True),
        target=TargetConfig(context="all", loss="l1"),
        momentum=MomentumConfig(video=0.998, skeleton=0.998, text=0.998, final=1.0),
        train=TrainConfig(
            steps=90_000,
            batch_size=3072,
            lr=6.25e-4,
            lr_scaling="none",
            start_lr=2e-4,
            final_lr=1e-6,
            warmup_share=12_000 / 90_000,
            schedule_stretch=1.25,
            betas=(0.9, 0.999),
            weight_decay=0.04,
            final_weight_decay=0.4,
            clip_after_warmup=True,
            checkpoint_every_steps=1000,
        ),
    )


def vjepa_tiny() -> Config:
    """V-JEPA at the size, clips and schedule of ``oskar-tiny``, to compare the two at equal samples."""
    large, tiny = vjepa_large(), oskar_tiny()
    return replace(
        large,
        recipe="vjepa-tiny",
        tokens=replace(tiny.tokens, modalities=("video",)),
        clip=tiny.clip,
        model=replace(
            large.model,
            width=tiny.model.width,
            n_blocks=tiny.model.n_blocks,
            n_heads=tiny.model.n_heads,
            embedding_std=tiny.model.embedding_std,
        ),
        predictor=replace(
            large.predictor,
            width=tiny.predictor.width,
            n_layers=tiny.predictor.n_layers,
            n_heads=tiny.predictor.n_heads,
        ),
        momentum=MomentumConfig(video=0.99, skeleton=0.99, text=0.99, final=1.0),
        train=tiny.train,
    )
