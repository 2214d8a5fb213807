"""What one pass of the mask decoder costs: of each prompt the mask that answers it best."""

from typing import NamedTuple

import torch
from lamella import Mean
from torch import Tensor

from lamella_sam.answers import of_token
from lamella_sam.losses import focal, mask_dice, mask_iou


class MaskLoss(NamedTuple):
    """Focal and Dice loss, by these weights, of the best mask token, and how wrong the predicted IoU is.

    Source: Kirillov et al., "Segment Anything", appendix A.
    """

    focal: float
    dice: float
    gamma: float
    """Focusing of the focal loss."""
    balance: float
    """Its α."""

    def __call__(
        self, logits: Tensor, iou: Tensor, target: Tensor, weight: Tensor, doubt: Tensor, there: Tensor
    ) -> tuple[dict[str, Tensor], Mean, Tensor]:
        """The means ``focal``, ``dice`` and ``iou``, the true IoU of the objects there are, the best mask (B, Q, h, w).

        A prompt in doubt may be answered by token 1, 2 or 3, whichever costs least; any other by token 0.

        Args:
            logits: (B, Q, M, h, w) of every mask token; ``iou``: (B, Q, M) what they predict of themselves.
            target: (B, Q, h, w) share of each cell that the object covers; ``weight``: trust, likewise.
            doubt: (B, Q) bool, single clicks; ``there``: (B, Q) 1 where there is an object at all.
        """
        given = target.unsqueeze(2), weight.unsqueeze(2)
        each_focal = focal(logits, *given, gamma=self.gamma, alpha=self.balance)  # (B, Q, M)
        each_dice = mask_dice(logits, *given)
        real = mask_iou(logits.detach(), *given)
        token = torch.arange(logits.shape[2], device=logits.device)
        allowed = (token > 0) == doubt.unsqueeze(-1)
        cost = self.focal * each_focal + self.dice * each_dice
        best = torch.where(allowed, cost.detach(), torch.inf).argmin(-1)  # (B, Q)
        wrong = ((iou - real).square() * allowed).sum(-1) / allowed.sum(-1)
        picked = [each.gather(2, best.unsqueeze(-1)).squeeze(-1) for each in (each_focal, each_dice, real)]
        means = {"focal": picked[0], "dice": picked[1], "iou": wrong}
        hit = Mean((picked[2] * there).sum(), there.sum())
        return {name: (value * there).mean() for name, value in means.items()}, hit, of_token(logits, best)
