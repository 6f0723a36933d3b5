"""One training step of a recipe apart from its data: what the loop does to a batch, for measuring."""

import torch
from torch import Tensor

from oskar.config import Config
from oskar.masking.packing import Batch
from oskar.pretraining import MaskedPrediction
from oskar.train.optim import build_optimizer, clip_gradients, set_rates
from oskar.train.schedules import peak_lr


class TrainingStep:
    """Forward, backward, clipping, AdamW and momentum of a recipe's module on any batch of its device.

    ``is_autocast``: matrix products in bfloat16.
    """

    def __init__(self, module: MaskedPrediction, config: Config, device: torch.device, *, is_autocast: bool) -> None:
        self.module, self.config, self.device, self.is_autocast = module, config, device, is_autocast
        self.optimizer = build_optimizer(module, config.train)
        # A hundredth of the rate: random clips teach nothing, and must not lead to weights that are not finite.
        set_rates(self.optimizer, 0.01 * peak_lr(config.train), config.train.weight_decay)

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_autocast):
            loss: Tensor = self.module(batch)["loss"]
        return loss

    def forward_backward(self, batch: Batch) -> None:
        """Add a part's gradients to those that are there."""
        self.loss(batch).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Clip, move the weights and the momentum encoders, drop the gradients."""
        clip_gradients(self.module.parameter_groups_for_clipping().values(), self.config.train.clip_norm)
        self.optimizer.step()
        self.module.after_step(0.5)
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, batch: Batch) -> None:
        self.forward_backward(batch)
        self.update()


def made_module(config: Config, device: torch.device) -> MaskedPrediction:
    """A recipe's networks with the weights of seed 0; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedPrediction(config).to(device)
