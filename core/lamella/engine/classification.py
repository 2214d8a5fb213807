"""How good a classification is: accuracy, recall, calibration. Counters stay on the device."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.errors import ContractError

_BINS = 15


class ClassificationMetrics:
    """Counts predicted classes against labels over an evaluation.

    ``compute`` gives ``accuracy``, ``macro_recall`` (mean over the classes that occur), ``ece`` (expected calibration
    error: |confidence − accuracy| over 15 equal bins of confidence, weighed by their share), ``nll`` (mean −ln p of the
    label), per class ``recall`` and ``precision``, ``confusion`` (row = label) and ``samples``. Samples labelled
    ``IGNORE`` are left out.

    Source: calibration error as in Guo et al., "On calibration of modern neural networks", ICML 2017.

    >>> metrics = ClassificationMetrics(["a", "b"])
    >>> batch = Batch.of(torch.zeros(2, 1, 4, 4), label=torch.tensor([0, 1]))
    >>> metrics.update(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), batch)
    >>> metrics.compute()["accuracy"], metrics.compute()["recall"]
    (0.5, {'a': 1.0, 'b': 0.0})
    """

    less_is_better: ClassVar = ("ece", "nll")

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        self._counts: Tensor | None = None
        self._bins: Tensor | None = None
        self._nll: Tensor | None = None

    def update(self, prediction: Tensor, batch: Batch | Mapping[str, Batch]) -> None:
        """Count one batch.

        Args:
            prediction: (B, K) probabilities.
            batch: with labels (B,); of several views the first one's count.

        Raises:
            ContractError: no labels, or shapes that do not fit.
        """
        label, classes = label_of(batch), len(self.classes)
        if label is None or prediction.shape != (len(label), classes) or label.ndim != 1:
            found = None if label is None else tuple(label.shape)
            raise ContractError(
                f"predictions of shape {tuple(prediction.shape)} do not fit labels of shape {found} "
                f"and {classes} classes"
            )
        counted = (label != IGNORE) & (label < classes) & (label >= 0)  # the Hub's −1 is no label
        truth, prediction = torch.where(counted, label, 0), prediction.to(torch.float64)
        confidence, predicted = prediction.max(1)
        counts = _sums(truth * classes + predicted, counted.to(torch.float64), classes**2).view(classes, classes)
        bins = (confidence * _BINS).to(torch.int64).clamp(0, _BINS - 1)
        right = (predicted == truth).to(torch.float64)
        sums = torch.stack([_sums(bins, counted * value, _BINS) for value in (right, confidence)])
        likely = prediction.gather(1, truth.unsqueeze(1)).squeeze(1).clamp(min=1e-12)
        nll = -(likely.log() * counted).sum()
        self._counts = counts if self._counts is None else self._counts + counts
        self._bins = sums if self._bins is None else self._bins + sums
        self._nll = nll if self._nll is None else self._nll + nll

    def compute(self) -> dict[str, Any]:
        """The figures, nan where nothing was there to count; raises `ContractError` before the first batch."""
        if self._counts is None or self._bins is None or self._nll is None:
            raise ContractError("no sample was evaluated")
        counts, (right, confidence) = self._counts.cpu(), self._bins.cpu()
        hit, total = counts.diagonal(), counts.sum()
        recall, precision = (hit / torch.where(n > 0, n, torch.nan) for n in (counts.sum(1), counts.sum(0)))
        everything = torch.where(total > 0, total, torch.nan)
        return {
            "accuracy": (hit.sum() / everything).item(),
            "macro_recall": recall.nanmean().item(),
            "ece": ((right - confidence).abs().sum() / everything).item(),
            "nll": (self._nll.cpu() / everything).item(),
            "recall": dict(zip(self.classes, recall.tolist())),
            "precision": dict(zip(self.classes, precision.tolist())),
            "confusion": counts.to(torch.int64).tolist(),
            "samples": int(total),
        }


def label_of(batch: Batch | Mapping[str, Batch]) -> Tensor | None:
    """The label of a sample: of its first view where it has several."""
    return batch.label if isinstance(batch, Batch) else next(iter(batch.values())).label


def _sums(index: Tensor, value: Tensor, size: int) -> Tensor:
    """(size,) float64: the sum of ``value`` (B,) at each ``index`` (B,)."""
    out = torch.zeros(size, dtype=torch.float64, device=index.device)
    return out.scatter_add_(0, index, value.to(torch.float64).expand_as(index))
