"""Losses of masks for prompts: focal, Dice, and how well the network knows its own IoU.

Targets are soft: the share of each cell of the mask grid that the object covers.
"""

import torch
from lamella import Mean
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, max_pool2d, normalize


def focal(logits: Tensor, target: Tensor, weight: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss (…) of mask logits (…, h, w): mean over the weighted cells of α_t·(1 − p_t)^γ·H(t, p).

    p_t = p·t + (1 − p)·(1 − t), α_t = α·t + (1 − α)·(1 − t); targets t in [0, 1]. A mask without weight costs 0.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, for soft targets; Kirillov et al.
    take it with weight 20.
    """
    entropy = binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    p = logits.sigmoid()
    right = p * target + (1 - p) * (1 - target)
    balance = alpha * target + (1 - alpha) * (1 - target)
    return _mean(balance * (1 - right) ** gamma * entropy, weight)


def mask_dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Dice loss (…) of mask logits (…, h, w): 1 − (2·Σpt + 1) / (Σp + Σt + 1) over the weighted cells.

    Source: Milletari et al., "V-Net", 3DV 2016, with the 1 that SAM's training adds above and below.
    """
    p = logits.sigmoid()
    both = (weight * p * target).sum((-2, -1))
    sizes = (weight * (p + target)).sum((-2, -1))
    return 1 - (2 * both + 1) / (sizes + 1)


def mask_iou(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """IoU (…) of thresholded masks (…, h, w) with targets ≥ ½ over the weighted cells; 1 where both are empty."""
    found, wanted = logits > 0, target >= 0.5
    both = (weight * (found & wanted)).sum((-2, -1))
    either = (weight * (found | wanted)).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1e-6), 1.0)


def _mean(each: Tensor, weight: Tensor) -> Tensor:
    count = weight.expand_as(each).sum((-2, -1))
    return (each * weight).sum((-2, -1)) / torch.where(count > 0, count, torch.ones_like(count))


def class_dice(logits: Tensor, label: Tensor, weight: Tensor) -> Mean:
    """Dice loss of class logits (B, K, H, W), the mean over images and the classes in each.

    Args:
        label: (B, H, W) classes; where ``weight`` (B, H, W) is 0 any value.
    """
    classes = logits.shape[1]
    p = logits.softmax(1)
    number = torch.arange(classes, device=label.device).view(1, -1, 1, 1)
    target = (label.unsqueeze(1) == number).to(p.dtype)
    trust = weight.unsqueeze(1)
    both = (trust * p * target).sum((2, 3))
    sizes = (trust * (p + target)).sum((2, 3))
    there = ((trust * target).sum((2, 3)) > 0).to(p.dtype)
    each = (1 - (2 * both + 1) / (sizes + 1)) * there
    return Mean(each.sum(), there.sum())


def affinity(embedding: Tensor, identity: Tensor, *, scale: float = 10.0) -> tuple[Mean, Mean]:
    """Whether two cells of an embedding belong to one object, told from their cosine.

    Cross-entropy of scale·(cos − ½) over the pairs of cells that lie in one object each: of those in the same object,
    and of those in different ones; the loss is the mean of the two. It teaches an encoder from every pixel of a
    labelled image, where prompts teach it from a few objects.

    Args:
        embedding: (B, C, g, g).
        identity: (B, S, S) int64 object ids, S a multiple of g; 0 counts as one object, −1 as none.
    """
    same, other = (part.to(embedding.dtype) for part in pairs(identity, identity.shape[-1] // embedding.shape[-1]))
    cells = normalize(embedding.flatten(2), dim=1)
    logits = scale * (cells.transpose(1, 2) @ cells - 0.5)  # (B, N, N)
    each = binary_cross_entropy_with_logits(logits, same, reduction="none")
    return Mean((each * same).sum(), same.sum()), Mean((each * other).sum(), other.sum())


def pairs(identity: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """(B, N, N) bool: which pairs of N cells lie in one object each, the same one; and which in different ones.

    Args:
        identity: as of `affinity`.
        cell: side of a cell.
    """
    ids = identity.unsqueeze(1).to(torch.float32)
    top, low = max_pool2d(ids, cell).flatten(1), -max_pool2d(-ids, cell).flatten(1)
    pure = (top == low) & (top >= 0)
    both, same = pure.unsqueeze(2) & pure.unsqueeze(1), top.unsqueeze(2) == top.unsqueeze(1)
    return both & same, both & ~same
