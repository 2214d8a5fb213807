"""What grey level alone would give: the reference that every segmentation must beat."""

from typing import Any

import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.data import Modality
from lamella.data.loaders import evaluation_batches
from lamella.data.samples import SampleTable
from lamella.engine.metrics import SegmentationMetrics

_LEVELS = 64


def grey_likelihood(labelled: SampleTable, modality: Modality, classes: int) -> Tensor:
    """(K, 64): how likely each class makes a pixel of each grey level (mean over channels), from labelled images."""
    counts = torch.zeros(classes, _LEVELS)
    for batch, _ in evaluation_batches(labelled, modality, 1):
        if isinstance(batch, Batch) and batch.label is not None:
            counts += _histogram(batch, classes)
    return (counts + 1e-3) / (counts + 1e-3).sum(1, keepdim=True)


def grey_level_baseline(
    likelihood: Tensor, test: SampleTable, modality: Modality, classes: list[str]
) -> dict[str, Any]:
    """The metrics on ``test`` of the best classifier that sees one pixel's grey value and nothing else.

    Bayes' rule on `grey_likelihood` with classes weighed equally, since IoU weighs them equally.
    """
    metrics = SegmentationMetrics(classes)
    for batch, _ in evaluation_batches(test, modality, 1):
        assert isinstance(batch, Batch)
        metrics.update(likelihood[:, _levels(batch)].movedim(0, 1), batch)
    return metrics.compute()


def _levels(batch: Batch) -> Tensor:
    """(B, H, W) int64 grey level."""
    return (batch.image.mean(1) * _LEVELS).to(torch.int64).clamp(0, _LEVELS - 1)


def _histogram(batch: Batch, classes: int) -> Tensor:
    assert batch.label is not None
    counted = batch.label != IGNORE
    cell = batch.label[counted] * _LEVELS + _levels(batch)[counted]
    return torch.bincount(cell, minlength=classes * _LEVELS)[: classes * _LEVELS].view(classes, _LEVELS).float()
