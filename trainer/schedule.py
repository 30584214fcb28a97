"""The learning rate of every step."""

import math

from trainer.stage import Schedule


def learning_rate_factor(schedule: Schedule, *, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What the base rate is multiplied by at `step`, from 0.

    A warm-up rises by step from `warmup_start` to 1. After it, `exponential` falls by `gamma` with each whole
    epoch since the warm-up's end, and `cosine` by step to 0 at the end of the last epoch.
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup
    if schedule.law == "exponential":
        factor: float = schedule.gamma ** int((step - warmup) / steps_per_epoch)
        return factor
    if schedule.law == "cosine":
        share = (step - warmup) / max(epochs * steps_per_epoch - warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return 1.0
