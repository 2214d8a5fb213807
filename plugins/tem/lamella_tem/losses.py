"""Segmentation losses that leave out what is ignored and weigh what is trusted less."""

from typing import Annotated

import torch
from lamella import IGNORE, Mean
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import softmax


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor,
    /,
    *,
    smoothing: Annotated[float, Field(ge=0, lt=1, description="label smoothing")] = 0.0,
) -> Mean:
    """Weighted cross-entropy, Σ w·H(y, p) over Σ w, ignored pixels left out.

    Args:
        logits: (B, K, H, W).
        label: (B, H, W) classes or ``IGNORE``.
        weight: (B, H, W) trust in [0, 1].

    >>> label = torch.full((1, 2, 2), IGNORE)
    >>> cross_entropy(torch.zeros(1, 3, 2, 2), label, torch.ones(1, 2, 2)).value().item()
    0.0
    """
    trust = torch.where(label == IGNORE, 0.0, weight)
    each = torch_cross_entropy(
        logits.float(), label, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing
    )
    return Mean((each * trust).sum(), trust.sum())


def dice(
    logits: Tensor,
    label: Tensor,
    weight: Tensor,
    /,
    *,
    smooth: Annotated[float, Field(ge=0, description="pixels added above and below")] = 1.0,
) -> Mean:
    """Soft Dice loss of each image and class in its label, 1 − (2Σwpy + s)/(Σwp + Σwy + s), averaged.

    Taken per image, so that it is a mean like any other and does not depend on how a batch is split.

    Args:
        logits: (B, K, H, W).
        label: (B, H, W) classes or ``IGNORE``.
        weight: (B, H, W) trust in [0, 1].

    Source: Milletari et al., V-Net, 3DV 2016, with unsquared denominators.

    >>> label = torch.zeros(1, 2, 2, dtype=torch.int64)
    >>> sure = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    >>> round(dice(sure, label, torch.ones(1, 2, 2)).value().item(), 4)
    0.0
    """
    each, present = dice_by_class(logits, label, weight, smooth=smooth)
    return Mean((each * present).sum(), present.sum())


def dice_by_class(logits: Tensor, label: Tensor, weight: Tensor, *, smooth: float = 1.0) -> tuple[Tensor, Tensor]:
    """Soft Dice loss of every image and class, (B, K), and 1 where the class is in the image's label, else 0.

    Args:
        logits, label, weight, smooth: as of `dice`.
    """
    classes = torch.arange(logits.shape[1], device=label.device).view(1, -1, 1, 1)  # one_hot would wait for a GPU
    trust = torch.where(label == IGNORE, 0.0, weight).unsqueeze(1)  # (B, 1, H, W)
    probability = softmax(logits.float(), 1)
    truth = (label.unsqueeze(1) == classes) * trust  # w·y
    overlap = (probability * truth).sum((2, 3))  # (B, K)
    size = (probability * trust).sum((2, 3)) + truth.sum((2, 3))
    return 1 - (2 * overlap + smooth) / (size + max(smooth, 1e-6)), (truth.sum((2, 3)) > 0).float()
