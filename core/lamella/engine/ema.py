"""Weights averaged over training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The exponential moving average of a module's state: w̄ ← d·w̄ + (1 − d)·w after every step.

    The decay warms up as min(d, (1 + n)/(10 + n)), so that the start does not linger. Integer buffers are
    copied as they are.

    Source: Polyak and Juditsky, 1992; the warm-up as in TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self._module = decay, module
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the module's weights after optimizer step ``step`` (from 0) into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = self._module.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        averaged = [self.weights[name] for name in floating]
        torch._foreach_lerp_(averaged, [state[name] for name in floating], 1.0 - decay)
        for name, value in state.items():
            if not value.is_floating_point():
                self.weights[name].copy_(value)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take over averaged weights from a checkpoint."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The module with the averaged weights in it, for as long as the context lasts."""
        kept = {name: value.detach().clone() for name, value in self._module.state_dict().items()}
        self._write(self.weights)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights into the module. What is frozen is not written to, so what was computed with it stays known."""
        for name, value in self._module.state_dict().items():
            if not torch.equal(value, weights[name]):
                value.copy_(weights[name])
