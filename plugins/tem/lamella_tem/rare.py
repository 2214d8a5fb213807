"""What the rarity of a class tells about pseudo-labels: where an object may be overlooked, where one is invented."""

import torch
from lamella import IGNORE, Batch
from torch import Tensor


def share_of(label: Tensor, rare: Tensor) -> Tensor:
    """() the share of rare classes in the labelled pixels of maps (B, H, W); 0 where no pixel has a label."""
    return torch.isin(label, rare).sum() / (label != IGNORE).sum().clamp(min=1)


def suspected(p: Tensor, rare: Tensor, share: Tensor) -> Tensor:
    """(B, H, W) bool: the ``share`` of all pixels of the batch where a rare class is likeliest; no host sync.

    Args:
        p: (B, K, H, W) probabilities.
        rare: (R,) numbers of the rare classes.
        share: scalar; 0 suspects nothing, 1 and more every pixel where a rare class is possible at all.
    """
    suspicion = p[:, rare].amax(1)
    order = suspicion.flatten().argsort(descending=True, stable=True)  # by rank: many are equally sure, at 1
    first = torch.arange(len(order), device=order.device) < (share * len(order)).round()
    return torch.empty_like(first).scatter_(0, order, first).view_as(suspicion) & (suspicion > 0)


def doubted(target: Batch, p: Tensor, rare: Tensor, share: Tensor) -> Batch:
    """Pseudo-labels without trust where a rare class is suspected and another is the label.

    An overlooked object then is not taught as what surrounds it.
    """
    assert target.label is not None and target.weight is not None
    overlooked = suspected(p, rare, share) & ~torch.isin(target.label, rare)
    return target._replace(weight=torch.where(overlooked, 0.0, target.weight))


def capped(p: Tensor, rare: Tensor, share: Tensor) -> Tensor:
    """``p``, (B, K, H, W), where rare classes are impossible outside the ``share`` of pixels most suspected of them.

    There the other classes take their place in proportion: what p would be, were it known that none is there. On a
    device whose contrast is new to it a network may take most of an image for a defect.
    """
    others = p.index_fill(1, rare, 0.0)
    others = others / others.sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    return torch.where(suspected(p, rare, share).unsqueeze(1), p, others)
