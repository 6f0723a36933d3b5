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
    for latents in (first, second):
        module.record(module.statistics([latents], [packed([1, 1])]))
    found: Tensor = module(second, packed([1, 1]))
    mean = (0.5 * first.sum(0) + second.sum(0)) / 3.0
    torch.testing.assert_close(found, F.layer_norm(second - mean, (4,)))


def test_means_move_only_where_recording_and_by_finite_rows() -> None:
    module = centring()
    module.record(module.statistics([torch.randn(2, 1, 4)], [packed([0, 2])]))
    before = module.sums.clone()
    module(torch.randn(2, 1, 4), packed([0, 2]))
    assert torch.equal(module.sums, before)
    module.record(module.statistics([torch.full((2, 1, 4), torch.nan)], [packed([0, 2])]))
    torch.testing.assert_close(module.sums, 0.5 * before)
    torch.testing.assert_close(module.counts.flatten()[:4], torch.tensor([0.5, 0.0, 0.5, 0.0]))


def test_statistics_of_parts_and_views_add_up() -> None:
    """One decay a step, however many parts and views it has."""
    module = centring()
    parts = torch.randn(3, 2, 1, 4)
    together = module.statistics([parts[0], parts[1]], [packed([0, 2]), packed([0, 1])])
    together = together + module.statistics([parts[2]], [packed([0, 3])])
    module.record(together)
    torch.testing.assert_close(module.sums[0], parts[:, 0, 0].sum(0))
    assert module.counts.flatten().tolist() == [3.0, 1.0, 1.0, 1.0]
