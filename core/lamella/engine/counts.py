"""Counts of every test image kept beside a run, so that figures can be taken again over any group of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.data.samples import SampleTable
from lamella.engine.checkpoint import write_text
from lamella.engine.metrics import confusion
from lamella.errors import RunError


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
        groups = {name: [row.groups.get(name, "") for row in rows] for name in (rows[0].groups if rows else {})}
        counts = torch.cat(self._parts).flatten(1).tolist()
        kept = {"classes": self.classes, "names": [row.name for row in rows], "groups": groups, "confusion": counts}
        write_text(path, json.dumps(kept) + "\n")


def read_counts(path: Path, group: str | None) -> tuple[list[str], dict[str, np.ndarray]]:
    """(classes, counts (K, K) by group) of what `ImageCounts` saved; one group where ``group`` is no column.

    Args:
        group: a group column, or ``"name"`` for every image by itself.

    Raises:
        RunError: the file is not there or cut short.
    """
    try:
        kept: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: the counts of the test images cannot be read ({error})") from error
    size = len(kept["classes"])
    names = kept["names"] if group == "name" else kept["groups"].get(group) or [""] * len(kept["confusion"])
    totals: dict[str, np.ndarray] = {}
    for name, counts in zip(names, kept["confusion"]):
        totals[name] = totals.get(name, np.zeros((size, size), np.int64)) + np.array(counts).reshape(size, size)
    return kept["classes"], totals
