"""How good a segmentation is: IoU pooled and per image, Dice, boundary IoU. Counters stay on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from lamella.contracts.batch import IGNORE, Batch
from lamella.errors import ContractError


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """(B, K, K) counts of pixels: row = label, column = prediction; ignored pixels are left out.

    Args:
        prediction: (B, H, W) int64 classes.
        label: (B, H, W) int64 classes or ``IGNORE``.
    """
    counted = (label != IGNORE) & (label < classes)
    batch = torch.arange(len(label), device=label.device).view(-1, 1, 1)
    cell = (batch * classes + torch.where(counted, label, 0)) * classes + prediction
    counts = torch.zeros(len(label) * classes * classes, dtype=torch.int64, device=label.device)
    counts.scatter_add_(0, cell.flatten(), counted.to(torch.int64).flatten())
    return counts.view(len(label), classes, classes)


def iou_of(counts: Tensor) -> Tensor:
    """IoU of each class from confusion counts (…, K, K); nan where a class is in neither label nor prediction."""
    hit = counts.diagonal(dim1=-2, dim2=-1).to(torch.float64)
    union = counts.sum(-1) + counts.sum(-2) - hit
    return hit / torch.where(union > 0, union, torch.nan)


def boundary(mask: Tensor, width: int) -> Tensor:
    """The inner rim of a mask (B, 1, H, W) bool: its pixels within ``width`` of its outside.

    Source: Cheng et al., "Boundary IoU", CVPR 2021, with their square structuring element; the image's border
    counts as outside.
    """
    outside = torch.nn.functional.pad((~mask).to(torch.float32), [width] * 4, value=1.0)
    side = 2 * width + 1
    eroded = max_pool2d(max_pool2d(outside, (side, 1), stride=1), (1, side), stride=1) < 0.5
    return mask & ~eroded


class SegmentationMetrics:
    """Counts predictions against labels over an evaluation.

    ``compute`` gives ``miou_pooled`` (one confusion matrix for all images, mean over classes that occur),
    ``miou_per_image`` (mean over images of the mean over the classes in each), ``accuracy``, and per class
    ``iou``, ``dice`` and ``boundary_iou`` (rim of 2 % of the diagonal).

    Source: pooled IoU as in Pascal VOC; boundary IoU: Cheng et al., CVPR 2021.

    >>> metrics = SegmentationMetrics(["a", "b"])
    >>> label = torch.tensor([[[0, 0], [1, 1]]])
    >>> probabilities = torch.nn.functional.one_hot(label, 2).movedim(-1, 1).float()
    >>> metrics.update(probabilities, Batch.of(torch.zeros(1, 1, 2, 2), label=label))
    >>> metrics.compute()["miou_pooled"]
    1.0
    """

    def __init__(self, classes: Sequence[str], *, boundary_share: float = 0.02):
        self.classes, self.boundary_share = list(classes), boundary_share
        self._counts: Tensor | None = None
        self._rims: Tensor | None = None
        self._images: list[Tensor] = []

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Count one batch.

        Args:
            prediction: (B, K, H, W) probabilities or logits.
            batch: with labels.

        Raises:
            ContractError: no labels, or shapes that do not fit.
        """
        label, classes = batch.label, len(self.classes)
        if label is None or prediction.shape != (label.shape[0], classes, *label.shape[1:]):
            found = None if label is None else tuple(label.shape)
            raise ContractError(
                f"predictions of shape {tuple(prediction.shape)} do not fit labels of shape {found} "
                f"and {classes} classes"
            )
        predicted = prediction.argmax(1)
        counts = confusion(predicted, label, classes)
        rims = self._rim_counts(predicted, label)
        self._counts = counts.sum(0) if self._counts is None else self._counts + counts.sum(0)
        self._rims = rims if self._rims is None else self._rims + rims
        self._images.append(iou_of(counts).nanmean(1))

    def _rim_counts(self, predicted: Tensor, label: Tensor) -> Tensor:
        """(2, K) pixels in the intersection and the union of the rims."""
        height, width = label.shape[1:]
        rim = max(1, round(self.boundary_share * (height**2 + width**2) ** 0.5))
        counted = (label != IGNORE).unsqueeze(1)
        sums = []
        for number in range(len(self.classes)):
            ours = boundary((predicted == number).unsqueeze(1), rim) & counted
            theirs = boundary((label == number).unsqueeze(1), rim) & counted
            sums.append(torch.stack([(ours & theirs).sum(), (ours | theirs).sum()]))
        return torch.stack(sums, 1)

    def compute(self) -> dict[str, Any]:
        """The figures, nan where nothing was there to count; raises `ContractError` before the first batch."""
        if self._counts is None or self._rims is None:
            raise ContractError("no image was evaluated")
        counts, rims = self._counts.cpu(), self._rims.cpu().to(torch.float64)
        iou = iou_of(counts)
        dice = 2 * iou / (1 + iou)
        rim = rims[0] / torch.where(rims[1] > 0, rims[1], torch.nan)
        hit = counts.diagonal().sum() / counts.sum()
        return {
            "miou_pooled": iou.nanmean().item(),
            "miou_per_image": torch.cat(self._images).nanmean().item(),
            "accuracy": hit.item(),
            "boundary_miou": rim.nanmean().item(),
            "iou": dict(zip(self.classes, iou.tolist())),
            "dice": dict(zip(self.classes, dice.tolist())),
            "boundary_iou": dict(zip(self.classes, rim.tolist())),
            "pixels": dict(zip(self.classes, counts.sum(1).tolist())),
            "confusion": counts.tolist(),
            "images": int(sum(len(part) for part in self._images)),
        }
