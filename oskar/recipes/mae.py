"""Masked autoencoding: OSKAR's encoder, budgets and masks, with the tokens' own values as targets."""

from dataclasses import replace

from oskar.config import Config, MomentumConfig, TargetConfig
from oskar.recipes.oskar import oskar_tiny


def mae_tiny() -> Config:
    """``oskar-tiny`` that predicts normalised pixels, joint coordinates and word ids; transfers its own encoder."""
    return replace(
        oskar_tiny(),
        recipe="mae-tiny",
        target=TargetConfig(space="input"),
        momentum=MomentumConfig(video=None, skeleton=None, text=None),
    )
