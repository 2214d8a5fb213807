"""Running means of losses and the first step that was not finite, on the device until they are read."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.processes import averaged


class Meters:
    """Counts on the device; nothing but reading them waits for it."""

    def __init__(self, device: torch.device):
        self._sums: dict[str, Tensor] = {}
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._bad = torch.zeros((), dtype=torch.int64, device=device)
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._row = torch.zeros((), dtype=torch.int64, device=device)
        self._bad_keys: dict[str, Tensor] = {}

    def add(self, step: int, losses: Mapping[str, Tensor], finite: Tensor, batches: Mapping[str, Any]) -> None:
        """Count a step's losses if it was finite; else remember the first such step and its samples.

        Args:
            finite: () bool on the device: whether losses and gradients were finite.
        """
        self._count += finite
        self._bad += ~finite
        self._row.add_(1).mul_(~finite)
        for name, value in losses.items():
            kept = torch.where(finite, value, torch.zeros_like(value))
            self._sums[name] = self._sums[name] + kept if name in self._sums else kept
        new = ~finite & (self._bad_step < 0)
        self._bad_step = torch.where(new, step, self._bad_step)
        for role, batch in batches.items():
            keys = _keys(batch)
            self._bad_keys[role] = torch.where(new, keys, self._bad_keys.get(role, keys))

    def bad_in_a_row(self) -> int:
        """How many steps in a row were not finite up to now, over readings too; waits for the device as `read` does."""
        return int(self._row)

    def read(self, *, together: bool = True) -> tuple[dict[str, float], str | None]:
        """(means since the last reading, what was not finite); starts over.

        The means are empty where no step was finite.

        Args:
            together: whether every process reads now; the means then are those of all, as a loss divided by the count
                over all processes (`Step.mean`) has to be read. Else they are this process's.
        """
        count, bad, step = (int(value) for value in (self._count, self._bad, self._bad_step))
        sums = _over_processes(self._sums) if together and self._sums else self._sums
        means = {name: float(total) / count for name, total in sums.items()} if count else {}
        trouble = None
        if bad:
            keys = "; ".join(f"{role} {keys.tolist()}" for role, keys in self._bad_keys.items())
            trouble = f"{bad} step{'s' if bad > 1 else ''} not finite, the first was step {step} (sample keys: {keys})"
        self._sums, self._bad_keys = {}, {}
        self._count.zero_()
        self._bad.zero_()
        self._bad_step.fill_(-1)
        return means, trouble


def _over_processes(sums: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The mean of each over all processes."""
    names = sorted(sums)
    return dict(zip(names, averaged(torch.stack([sums[name].float() for name in names])).unbind()))


def _keys(batch: Batch | dict[str, Batch]) -> Tensor:
    return (next(iter(batch.values())) if isinstance(batch, dict) else batch).key
