"""The learning rate as a function of the optimizer step."""

import math

from lamella.engine.experiment import FitConfig


def lr_factor(step: int, config: FitConfig) -> float:
    """What the peak learning rate is multiplied by at ``step`` (from 0): linear warm-up, then the schedule.

    poly: (1 − t)^power; cosine: (1 + cos πt)/2; with t the share of the steps after the warm-up that are done.

    Source: poly as in DeepLab (Chen et al., 2017); cosine: Loshchilov and Hutter, SGDR, 2017.

    >>> [round(lr_factor(step, FitConfig(steps=4, schedule="cosine")), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    if config.schedule == "poly":
        return (1.0 - done) ** config.power
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
