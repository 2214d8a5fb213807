"""Random masking of patches, and the reconstruction loss on what was masked."""

from typing import NamedTuple

import torch
from lamella import Mean, Streams
from lamella.errors import ContractError
from torch import Tensor


def patchify(image: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) as patches (B, N, side²·C), row by row; within a patch row, column, channel.

    >>> patchify(torch.arange(8.0).view(1, 1, 2, 4), 2).tolist()
    [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]
    """
    count, channels, height, width = image.shape
    grid = image.view(count, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, side * side * channels)


class Masked(NamedTuple):
    """Which patches an encoder sees."""

    visible: Tensor
    """(B, n) int64: the patches that stay, ascending."""
    mask: Tensor
    """(B, N) float32: 1 where a patch is masked."""


def random_mask(streams: Streams, patches: int, ratio: float) -> Masked:
    """Exactly round(ratio·N) of N patches masked in every image, at least one masked and one seen.

    Raises:
        ContractError: fewer than two patches.

    Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022: the order of uniform noise.

    >>> masked = random_mask(Streams(torch.arange(3)), 64, 0.75)
    >>> masked.mask.sum(1).tolist(), masked.visible.shape
    ([48.0, 48.0, 48.0], torch.Size([3, 16]))
    """
    if patches < 2:
        raise ContractError("one patch cannot be both masked and seen; use larger images, or a smaller patch")
    hidden = min(max(round(ratio * patches), 1), patches - 1)
    order = streams.uniform(0.0, 1.0, patches).argsort(1)
    mask = torch.zeros(order.shape, device=order.device).scatter_(1, order[:, :hidden], 1.0)
    return Masked(order[:, hidden:].sort(1).values, mask)


def take(tokens: Tensor, visible: Tensor) -> Tensor:
    """The tokens (B, N, D) at ``visible`` (B, n)."""
    return tokens.gather(1, visible.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def reconstruction(predicted: Tensor, image: Tensor, mask: Tensor, present: Tensor, *, normalise: bool) -> Mean:
    """Equation 8 for the images of one magnification: squared error of masked patches, averaged over each image.

    The total is the sum over images of the mean over masked pixels, the count the number of images; the paper's loss
    is the sum of both magnifications' means.

    Args:
        predicted: (B, N, side²·C) patches.
        image: (B, C, H, W), normalised as the encoder sees it.
        mask: (B, N), 1 where a patch was masked.
        present: (B,) 1 where there is an image.
        normalise: compare with patches of mean 0 and variance 1, as MAE does by default.

    Source: the paper's equation 8; normalised patches as in He et al., CVPR 2022.
    """
    side = round((predicted.shape[2] / image.shape[1]) ** 0.5)
    target = patchify(image, side)
    if normalise:
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    error = (predicted.float() - target).square().mean(2)  # (B, N)
    each = (error * mask).sum(1) / mask.sum(1)
    return Mean((each * present).sum(), present.sum())
