"""Predicting with weights that lie between those of two networks."""

from collections.abc import Mapping

import torch
from lamella import SegmentationBackbone, logits_of
from torch import Tensor, nn
from torch.func import functional_call


def logits_between(one: nn.Module, other: nn.Module, share: float, image: Tensor) -> Tensor:
    """Logits (B, K, H, W) of the network with weights (1 − share)·w_one + share·w_other; neither is changed.

    Both are networks of one shape, the one a fine-tuned form of the other: between networks that have nothing in common
    lies none that knows anything. Running statistics are averaged like weights, counters are those of ``one``.

    Source: WiSE-FT (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022), whose α is 1 − share.
    """
    weights = weights_between(one.state_dict(), other.state_dict(), share)
    named = {f"network.{name}": value for name, value in weights.items()}
    return functional_call(_Whole(one), named, (image,))  # type: ignore[no-any-return]


def teachers_part(ema: float | None, teacher_share: float | None) -> float:
    """The share of a teacher in the weights that predict, where none is given: all of one that moves, else none."""
    return float(ema is not None and ema < 1.0) if teacher_share is None else teacher_share


def weights_between(one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 − share)·w_one + share·w_other of every number; what counts whole numbers is that of ``one``."""
    return {
        name: torch.lerp(value, other[name], share) if value.is_floating_point() else value
        for name, value in one.items()
    }


class _Whole(nn.Module):
    """A segmentation network as one call."""

    network: SegmentationBackbone

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        return logits_of(self.network, image)
