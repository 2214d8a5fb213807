"""How many objects of a class are found: a few pixels each, they hardly move an IoU."""

from collections.abc import Sequence
from typing import Any

import torch
from lamella import Batch
from torch import Tensor


class ObjectRecall:
    """The share of annotated objects of one class of which at least a share of the pixels is predicted as it.

    Objects are the ids above 0 of `Batch.instance` within that class; images without instance maps do not count.
    ``compute`` gives ``CLASS_recall`` (nan where there was no object) and ``CLASS_objects``.

    >>> label = torch.tensor([[[0, 1, 1, 0, 1]]])
    >>> batch = Batch.of(torch.zeros(1, 1, 1, 5), label=label, instance=torch.tensor([[[0, 7, 7, 0, 9]]]))
    >>> recall = ObjectRecall(["ground", "defect"], "defect")
    >>> recall.update(torch.nn.functional.one_hot(torch.tensor([[[0, 1, 0, 0, 0]]])).movedim(-1, 1), batch)
    >>> recall.compute()
    {'defect_recall': 0.5, 'defect_objects': 2}
    """

    def __init__(self, classes: Sequence[str], name: str, *, share: float = 0.5):
        self.name, self.number, self.share = name, list(classes).index(name), share
        self._found: list[Tensor] = []
        self._there: list[Tensor] = []

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Count one batch.

        Args:
            prediction: (B, K, H, W) probabilities or logits.
        """
        if batch.instance is None or batch.label is None:
            return
        shown = (batch.label == self.number) & (batch.instance > 0)
        ids, place = torch.unique(batch.instance[shown], return_inverse=True)  # a set's own ids may be of any size
        place = place + len(ids) * shown.nonzero()[:, 0]
        size = torch.zeros(len(ids) * len(shown), dtype=torch.int64, device=place.device)
        pixels = size.scatter_add(0, place, torch.ones_like(place))
        found = size.scatter_add(0, place, (prediction.argmax(1) == self.number)[shown].to(torch.int64))
        there = pixels > 0
        self._there.append(there.sum())
        self._found.append((there & (found >= self.share * pixels)).sum())

    def compute(self) -> dict[str, Any]:
        """The share of objects found, and how many there were."""
        there = int(sum(int(count) for count in self._there))
        found = int(sum(int(count) for count in self._found))
        return {f"{self.name}_recall": found / there if there else float("nan"), f"{self.name}_objects": there}
