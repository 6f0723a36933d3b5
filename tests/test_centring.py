"""Position centring of latent targets, by hand."""

import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.config import Config, ModelConfig, TargetConfig, TokensConfig
from oskar.masking.packing import ModalityTokens, PackedTokens
from oskar.targets.latent import PositionCentring


def centring() -> PositionCentring:
    return PositionCentring(
        Config(
            recipe="made",
            tokens=TokensConfig(modalities=("text",), n_words=4),
            model=ModelConfig(width=4, n_heads=2),
            target=TargetConfig(centre=True, centre_decay=0.5),
        )
    )


def packed(places: list[int]) -> PackedTokens:
    """One text token per clip, at these places of its caption."""
    n = len(places)
    tokens = ModalityTokens(torch.zeros(n, 1, dtype=torch.int64), torch.arange(n), torch.tensor(places), None, 1)
    return PackedTokens(torch.zeros(n, 1, dtype=torch.int64), {"text": tokens}, True)


def test_the_running_mean_of_a_position_is_taken_away() -> None:
    """Decay 0.5: after a batch of mean a at a place and one of mean b, its mean is (a / 2 + b) / 1.5."""
    module = centring()
    first, second = torch.randn(2, 2, 1, 4)
    module(first, packed([1, 1]), is_recording=True)
    found: Tensor = module(second, packed([1, 1]), is_recording=True)
    mean = (0.5 * first.sum(0) + second.sum(0)) / 3.0
    torch.testing.assert_close(found, F.layer_norm(second - mean, (4,)))


def test_means_move_only_where_recording_and_by_finite_rows() -> None:
    module = centring()
    module(torch.randn(2, 1, 4), packed([0, 2]), is_recording=True)
    before = module.sums.clone()
    module(torch.randn(2, 1, 4), packed([0, 2]), is_recording=False)
    assert torch.equal(module.sums, before)
    module(torch.full((2, 1, 4), torch.nan), packed([0, 2]), is_recording=True)
    torch.testing.assert_close(module.sums, 0.5 * before)
