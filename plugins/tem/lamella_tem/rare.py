"""What the rarity of a class tells about pseudo-labels: where an object may be overlooked, where one is invented."""

import torch
from lamella import IGNORE, Batch
from torch import Tensor


def share_of(label: Tensor, rare: Tensor) -> Tensor:
    """() the share of rare classes in the labelled pixels of maps (B, H, W); 0 where no pixel has a label."""
    rare_pixels, pixels = pixels_of(label, rare)
    return rare_pixels / pixels.clamp(min=1)


def pixels_of(label: Tensor, rare: Tensor) -> Tensor:
    """(2,) the pixels of rare classes and all labelled ones of maps (B, H, W)."""
    return torch.stack([torch.isin(label, rare).sum(), (label != IGNORE).sum()])


def ranked(p: Tensor, rare: Tensor, known: Tensor) -> Tensor:
    """(B, H, W) int64: the place of every pixel of the batch by how likely a rare class is there; no host sync.

    The likeliest has 0, and where no rare class is possible the place is beyond any number.

    Args:
        p: (B, K, H, W) probabilities.
        rare: (R,) numbers of the rare classes.
        known: (B, H, W) bool; elsewhere, in the padding of a crop, nothing is possible.
    """
    suspicion = torch.where(known, p[:, rare].amax(1), 0.0)
    order = suspicion.flatten().argsort(descending=True, stable=True)  # by rank: many are equally sure, at 1
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return torch.where(suspicion > 0, place.view_as(suspicion), torch.iinfo(torch.int64).max)


def suspected(place: Tensor, number: Tensor) -> Tensor:
    """(B, H, W) bool: the ``number`` of pixels of the batch where a rare class is likeliest, by `ranked`.

    Args:
        number: scalar, rounded; 0 suspects nothing, all pixels and more every one where a rare class is possible.
    """
    return place < number.round()


def doubted(target: Batch, rare: Tensor, overlooked: Tensor) -> Batch:
    """Pseudo-labels without trust where a rare class is suspected and another is the label.

    An overlooked object then is not taught as what surrounds it.

    Args:
        overlooked: (B, H, W) bool: where a rare class is `suspected`.
    """
    assert target.label is not None and target.weight is not None
    doubt = overlooked & ~torch.isin(target.label, rare)
    return target._replace(weight=torch.where(doubt, 0.0, target.weight))


def capped(p: Tensor, rare: Tensor, allowed: Tensor) -> Tensor:
    """``p``, (B, K, H, W), where rare classes are impossible outside the pixels that are ``allowed``, (B, H, W) bool.

    On a device whose contrast is new to it a network may take most of an image for a defect.
    """
    return torch.where(allowed.unsqueeze(1), p, without(p, rare))


def without(p: Tensor, rare: Tensor) -> Tensor:
    """``p``, (B, K, H, W), where rare classes are impossible and the others take their place in proportion.

    It is what p would be, were it known that none is there.
    """
    others = p.index_fill(1, rare, 0.0)
    return others / others.sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
