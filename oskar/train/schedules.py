"""Learning rate and weight decay as pure functions of the step: resuming replays nothing."""

import math

from oskar.config import TrainConfig


def peak_lr(config: TrainConfig) -> float:
    """The rate after warm-up: ``lr x batch / 256``, or ``lr`` itself (A29); the two agree at batch 256."""
    return config.lr * config.batch_size / 256 if config.lr_scaling == "per256" else config.lr


def warmup_steps(config: TrainConfig) -> int:
    return round(config.warmup_share * config.steps)


def lr_at(step: int, config: TrainConfig) -> float:
    """The rate of step ``step`` (counted from 0): linear warm-up, then cosine to ``final_lr``.

    With ``schedule_stretch`` above 1 the cosine is that much longer than the run and ends early.
    """
    peak, warmup = peak_lr(config), warmup_steps(config)
    if step < warmup:
        return config.start_lr + (peak - config.start_lr) * (step + 1) / warmup
    length = max(config.steps * config.schedule_stretch - warmup, 1)
    share = min((step + 1 - warmup) / length, 1.0)
    return config.final_lr + (peak - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))


def weight_decay_at(step: int, config: TrainConfig) -> float:
    """Weight decay of a step: constant, or a cosine ramp from ``weight_decay`` to ``final_weight_decay``."""
    if config.final_weight_decay is None:
        return config.weight_decay
    share = min((step + 1) / (config.steps * config.schedule_stretch), 1.0)
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * 0.5 * (
        1 + math.cos(math.pi * share)
    )
