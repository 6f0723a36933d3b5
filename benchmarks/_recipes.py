"""The configurations compared: OSKAR, and the other methods from the same parts at the same encoder and clip size."""

from dataclasses import replace

from oskar.config import Config, MaskingConfig, ModelConfig, MomentumConfig, PredictorConfig, TargetConfig, TokensConfig
from oskar.recipes import recipe

SIZES = ("small", "base", "large")
# Width, layers and heads of VideoMAE's published decoders.
VIDEOMAE_DECODERS = {"small": (192, 4, 3), "base": (384, 4, 6), "large": (512, 12, 8)}
VIDEOMAE_VISIBLE, VIDEOMAE_TARGET = 160, 1408  # tubes over 20 of 196 patches: a tenth, rounded up
MANY_TOKENS_RESOLUTION = 544  # 8 x 34 x 34 tubelets + 816 joints + 256 words: 10,320 raw tokens


def oskar(size: str) -> Config:
    return recipe(f"oskar-{size}")


def video_alone(size: str) -> Config:
    config = oskar(size)
    return replace(config, tokens=replace(config.tokens, modalities=("video",)))


def many_tokens(size: str) -> Config:
    config = oskar(size)
    return replace(config, tokens=replace(config.tokens, resolution=MANY_TOKENS_RESOLUTION))


def mae(size: str) -> Config:
    """The mae recipe's objective at a published size: OSKAR's budgets, the tokens' own values as targets."""
    momentum = MomentumConfig(video=None, skeleton=None, text=None)
    return replace(oskar(size), target=TargetConfig(space="input"), momentum=momentum)


def vjepa(size: str) -> Config:
    """The V-JEPA recipe with the encoder of a size."""
    large, model = recipe("vjepa-large"), oskar(size).model
    return replace(
        large,
        model=replace(large.model, width=model.width, n_blocks=model.n_blocks, n_heads=model.n_heads),
        predictor=replace(large.predictor, n_heads=model.n_heads),  # the encoder's, as published
    )


def videomae(size: str) -> Config:
    """VideoMAE from these parts: a tenth of the tubes visible, all other tokens predicted by a narrow decoder."""
    model = oskar(size).model
    width, n_layers, n_heads = VIDEOMAE_DECODERS[size]
    return Config(
        recipe=f"videomae-{size}",
        tokens=TokensConfig(modalities=("video",)),
        masking=MaskingConfig(n_visible=VIDEOMAE_VISIBLE, n_target=VIDEOMAE_TARGET, exclusivity="none"),
        model=ModelConfig(
            width=model.width, n_blocks=model.n_blocks, n_heads=model.n_heads, mlp="gelu", bias=True, positions="sincos"
        ),
        predictor=PredictorConfig(
            kind="joint", width=width, n_layers=n_layers, n_heads=n_heads, attention="joint", context_positions=True
        ),
        target=TargetConfig(space="input"),
        momentum=MomentumConfig(video=None, skeleton=None, text=None),
    )
