"""How good a segmentation is: IoU pooled and per image, Dice, boundary IoU. Counters stay on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

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


def boundary(classes: Tensor, width: int) -> Tensor:
    """The inner rims of all classes in (B, H, W): the pixels within ``width`` of one of another class, bool.

    Source: Cheng et al., "Boundary IoU", CVPR 2021, with their square structuring element; the image's border
    counts as another class.
    """
    values = pad(classes.to(torch.float32).unsqueeze(1), [width] * 4, value=-1.0)
    return (_highest(values, width) != -_highest(-values, width)).squeeze(1)


def _highest(values: Tensor, width: int) -> Tensor:
    """The greatest value within ``width`` of each pixel, along rows and columns."""
    side = 2 * width + 1
    return max_pool2d(max_pool2d(values, (side, 1), stride=1), (1, side), stride=1)


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
        predicted = torch.where(label == IGNORE, label, predicted)  # nothing is wrong with a rim at what is ignored
        ours, theirs = boundary(predicted, rim), boundary(label, rim)
        both = self._of_each(label, ours & theirs & (predicted == label))
        either = self._of_each(predicted, ours) + self._of_each(label, theirs) - both
        return torch.stack([both, either])

    def _of_each(self, label: Tensor, mask: Tensor) -> Tensor:
        """(K,) how many pixels of a mask are of each class."""
        inside = mask & (label < len(self.classes))
        counts = torch.zeros(len(self.classes), dtype=torch.int64, device=label.device)
        return counts.scatter_add_(0, torch.where(inside, label, 0).flatten(), inside.to(torch.int64).flatten())

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
