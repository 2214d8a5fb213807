"""Perturbations one after the other, each drawing from streams of its own name."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from lamella.contracts.batch import Batch
from lamella.contracts.streams import Streams


class Chain(nn.Module):
    """Perturbations one after the other; the streams of each depend on its name and occurrence alone.

    Args:
        perturbations: `Perturbation`, `Warp` or whatever else has ``perturb(batch, streams)``.
    """

    def __init__(self, perturbations: Iterable[Any]):
        super().__init__()
        self.perturbations = nn.ModuleList(perturbations)

    def __len__(self) -> int:
        return len(self.perturbations)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.perturbations)

    def forward(self, batch: Batch, streams: Streams) -> Batch:
        """The batch after every perturbation, in order."""
        seen: dict[str, int] = {}
        for perturbation in self.perturbations:
            name = stream_name(perturbation)
            seen[name] = seen.get(name, 0) + 1
            part = streams.child(name if seen[name] == 1 else f"{name} {seen[name]}")
            batch = perturbation.perturb(batch, part)
        return batch


def stream_name(perturbation: nn.Module) -> str:
    """The name under which a perturbation draws: its class's, in kebab case."""
    return getattr(perturbation, "stream_name", None) or _kebab(type(perturbation).__name__)


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
