"""Leaving pixels without a class where a network is not sure enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE


@dataclass(frozen=True)
class Abstention:
    """How class probabilities become label maps; as it stands, the most likely class everywhere."""

    threshold: float = 0.0
    """The least probability of the most likely class, of all probabilities, for which a class is given."""
    temperature: float = 1.0
    """T of `calibrated`."""

    def labels(self, likely: Tensor) -> Tensor:
        """Class ids (…) uint8; `IGNORE` where no class is sure enough.

        Args:
            likely: (K, …) probabilities, or multiples of them.

        >>> Abstention(threshold=0.8).labels(torch.tensor([[0.9, 0.5], [0.1, 0.5]]))
        tensor([  0, 255], dtype=torch.uint8)
        """
        label = likely.argmax(0).to(torch.uint8)
        if self.threshold == 0.0:
            return label
        return torch.where(confidence(likely) >= self.threshold, label, torch.full_like(label, IGNORE))

    def calibrated(self, likely: Tensor) -> Tensor:
        """Probabilities (K, …) to the power 1/T, normalised: as if logits had been divided by T.

        >>> Abstention(temperature=2.0).calibrated(torch.tensor([0.9, 0.1]))
        tensor([0.7500, 0.2500])
        """
        return likely if self.temperature == 1.0 else (likely.clamp(min=1e-12).log() / self.temperature).softmax(0)


ALWAYS = Abstention()
"""A class for every pixel."""


def confidence(likely: Tensor) -> Tensor:
    """(…): the largest of (K, …) probabilities, or of multiples of them as a share of their sum."""
    return likely.amax(0) / likely.sum(0).clamp(min=1e-12)
