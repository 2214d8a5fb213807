"""Counts of every test image kept beside a run, so that figures can be taken again over any group of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.data.samples import SampleTable
from lamella.engine.metrics import confusion
from lamella.engine.whole import write_text


class ImageCounts:
    """Collects the confusion of every image of an evaluation: rows are labels, columns predictions."""

    def __init__(self, table: SampleTable, classes: Sequence[str]):
        self.table, self.classes = table, list(classes)
        self._parts: list[Tensor] = []

    def watch(self, batch: Batch | dict[str, Batch], probabilities: Tensor, names: list[str]) -> None:
        """Count one batch; given to ``evaluate`` as ``watch``.

        Args:
            probabilities: (B, K, H, W), or (B, K) for classification.
        """
        one = next(iter(batch.values())) if isinstance(batch, dict) else batch
        if one.label is None or probabilities.shape[1] != len(self.classes):
            return
        label, predicted = one.label, probabilities.argmax(1)
        if label.ndim == 1:
            label, predicted = label.view(-1, 1, 1), predicted.view(-1, 1, 1)
        self._parts.append(confusion(predicted, label.clamp(max=IGNORE), len(self.classes)).cpu())

    def save(self, path: Path) -> None:
        """Write what was counted as JSON; nothing where nothing was."""
        if not self._parts:
            return
        rows = self.table.rows
        columns = dict.fromkeys(name for row in rows for name in row.groups)
        groups = {name: [row.groups.get(name, "") for row in rows] for name in columns}
        counts = torch.cat(self._parts).flatten(1).tolist()
        kept = {"classes": self.classes, "names": [row.name for row in rows], "groups": groups, "confusion": counts}
        write_text(path, json.dumps(kept) + "\n")
