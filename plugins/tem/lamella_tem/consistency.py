"""The parts of weak-to-strong consistency: pseudo-labels, their loss, and which perturbation set is engaged.

Symbols as in the paper (section 2.2): p^w and p^s are the probabilities of the weak and the strong view, τ the
threshold, H the cross-entropy, s_i the i-th perturbation set.
"""

from collections.abc import Sequence

import torch
from lamella import IGNORE, Batch, Mean
from torch import Tensor
from torch.nn.functional import cross_entropy

from lamella_tem.losses import dice_by_class


def pseudo_label(batch: Batch, p_w: Tensor, tau: Tensor | float) -> Batch:
    """The weak view with its pseudo-label as label and 𝟙(max p^w ≥ τ) as trust.

    Args:
        batch: the weak view; where its label is ``IGNORE`` (outside of the moved image) it stays so.
        p_w: (B, K, H, W) probabilities, without gradient.
        tau: threshold, one number or (K,) for each class.
    """
    confidence, label = p_w.max(1)
    threshold = tau[label] if isinstance(tau, Tensor) else tau
    outside = torch.zeros_like(label, dtype=torch.bool) if batch.label is None else batch.label == IGNORE
    trusted = (confidence >= threshold) & ~outside
    return batch._replace(label=torch.where(outside, IGNORE, label), weight=trusted.to(torch.float32))


def consistency(logits_s: Tensor, batch: Batch) -> Tensor:
    """𝟙(max p^w ≥ τ)·H(p^w, p^s) of every pixel, (B, H, W): equation 4 before its mean."""
    assert batch.label is not None and batch.weight is not None
    trust = torch.where(batch.label == IGNORE, 0.0, batch.weight)
    each = cross_entropy(logits_s.float(), batch.label, ignore_index=IGNORE, reduction="none")
    return each * trust


def counted(batch: Batch) -> Tensor:
    """How many pixels the mean of equation 4 is over: all that are not ignored, confident or not.

    Source: the paper's 𝓑_u counts images; UniMatch's code divides by these pixels, which we follow. Dividing by
    the confident pixels instead would give a few of them the weight of all.
    """
    assert batch.label is not None
    return (batch.label != IGNORE).sum().to(torch.float32)


def mean_consistency(logits_s: Tensor, batch: Batch) -> Mean:
    """Equation 4 for one strong view."""
    return Mean(consistency(logits_s, batch).sum(), counted(batch))


def mean_overlap(logits_s: Tensor, batch: Batch) -> Mean:
    """Dice loss of one strong view: mean over images of the mean over the classes that are trusted in each.

    Its count is that of the images, which no pseudo-label changes.
    """
    assert batch.label is not None and batch.weight is not None
    each, present = dice_by_class(logits_s, batch.label, batch.weight)
    by_image = (each * present).sum(1) / present.sum(1).clamp(min=1)
    return Mean(by_image.sum(), batch.image.new_full((), len(by_image)))


def hardest(losses: Tensor, k: int) -> Tensor:
    """(k, …) int64: the sets of highest loss, hardest first, from losses (K, …).

    A loss that is not finite counts as the lowest, so such a set is engaged last.
    """
    known = torch.where(torch.isfinite(losses), losses, -torch.inf)
    return known.argsort(dim=0, descending=True, stable=True)[:k]


def gather_views(views: Sequence[Batch], chosen: Tensor) -> Batch:
    """For every image the view that is chosen for it, picked on the device.

    Args:
        views: K views of one batch.
        chosen: (B,) int64 in [0, K).
    """

    def pick(name: str) -> Tensor | None:
        values = [getattr(view, name) for view in views]
        if values[0] is None:
            return None
        stacked = torch.stack(values)  # (K, B, …)
        index = chosen.view(1, -1, *(1 for _ in range(stacked.ndim - 2))).expand(1, *stacked.shape[1:])
        return stacked.gather(0, index).squeeze(0)

    image = pick("image")
    assert image is not None
    return views[0]._replace(image=image, label=pick("label"), weight=pick("weight"), instance=pick("instance"))
