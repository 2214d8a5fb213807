"""The images on which perturbations are tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import torch
from hypothesis import strategies
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.streams import Streams

CONTENTS = ("random", "all 0", "all 1", "one hot pixel")
CLASSES = 4
TRUST = (0.25, 0.5, 0.75, 1.0)
"""The weight that a labelled pixel of each class has, so that label and weight can be compared."""


@dataclass(frozen=True)
class Case:
    """One batch to try: everything in it follows from these values."""

    height: int
    width: int
    count: int
    channels: int
    content: str
    dtype: str
    seed: int

    def __str__(self) -> str:
        return (
            f"{self.height}×{self.width} pixels, batch {self.count}, channels {self.channels}, {self.dtype}, "
            f"{self.content}, seed {self.seed}"
        )

    def generator(self, purpose: str) -> torch.Generator:
        """A generator for this case and purpose alone."""
        return torch.Generator().manual_seed(crc32(f"{self.seed} {purpose}".encode()))

    def image(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        shape = (self.count, self.channels, self.height, self.width)
        if self.content == "random":
            image = torch.rand(shape, generator=self.generator("image"))
        else:
            image = torch.full(shape, 1.0 if self.content == "all 1" else 0.0)
        if self.content == "one hot pixel":
            image[:, :, self.height // 2, self.width // 3] = 1.0
        return image.to(getattr(torch, self.dtype))

    def blocks(self, high: int, purpose: str, *, side: int = 3) -> Tensor:
        """(B, H, W) int64 in [0, high): squares of one value each, ``side`` pixels wide."""
        coarse = (self.count, -(-self.height // side), -(-self.width // side))
        drawn = torch.randint(high, coarse, generator=self.generator(purpose))
        return drawn.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : self.height, : self.width]

    def batch(self, meta: Mapping[str, float] | None = None) -> Batch:
        """Image, label with ignored pixels, and weight and instance that follow from the label."""
        label = self.blocks(CLASSES + 1, "label")
        label = torch.where(label == CLASSES, IGNORE, label)
        key = torch.arange(self.count) * 7919 + self.seed
        unknown = self.seed % 2 == 0
        pixel_nm = torch.full((self.count, 2), torch.nan) if unknown else torch.tensor([[0.5, 0.75]] * self.count)
        return Batch.of(
            self.image(),
            label=label,
            weight=trust_of(label),
            instance=instance_of(label),
            key=key,
            visit=torch.full((self.count,), self.seed % 5),
            pixel_nm=pixel_nm,
            meta={} if meta is None else {k: torch.full((self.count,), float(v)) for k, v in meta.items()},
        )

    def two_levels(self, *, side: int = 3) -> Batch:
        """A batch whose image shows its label: 0.2 where that is 0, 0.8 where it is 1; nothing ignored."""
        label = self.blocks(2, "levels", side=side)
        image = (0.2 + 0.6 * label).unsqueeze(1).expand(-1, self.channels, -1, -1)
        plain = self.batch()
        return Batch.of(
            image.to(getattr(torch, self.dtype)).contiguous(), label=label, key=plain.key, visit=plain.visit
        )

    def resized(self, height: int, width: int, **changes: Any) -> "Case":
        """The same case at another size."""
        return replace(self, height=height, width=width, **changes)


def streams_of(batch: Batch, *, view: str = "contract") -> Streams:
    """The streams under which a batch is perturbed: fresh ones at every call."""
    return Streams.root(20, batch.key, batch.visit, view)


def trust_of(label: Tensor) -> Tensor:
    """The weight that goes with ``label``: ``TRUST`` of its class, 0 where it is ignored."""
    table = torch.zeros(IGNORE + 1)
    table[:CLASSES] = torch.tensor(TRUST)
    return table[label.clamp(0, IGNORE)]


def instance_of(label: Tensor) -> Tensor:
    """The instance that goes with ``label``: its class plus 1, 0 where it is ignored."""
    return torch.where(label == IGNORE, 0, label + 1)


def first_cases(channels: Sequence[int]) -> list[Case]:
    """Cases that are always tried, first the one that finds most faults."""
    few, many = min(channels), max(channels)
    return [
        Case(24, 31, 3, few, "random", "float32", 1),
        Case(33, 20, 3, many, "random", "bfloat16", 2),
        Case(8, 8, 1, few, "all 0", "float32", 3),
        Case(97, 130, 1, few, "all 1", "float32", 4),
    ]


def cases(channels: Sequence[int]) -> strategies.SearchStrategy[Case]:
    """Any case: 8 × 8 to 97 × 130 pixels, one image or three."""
    return strategies.builds(
        Case,
        height=strategies.integers(8, 97),
        width=strategies.integers(8, 130),
        count=strategies.sampled_from((1, 3)),
        channels=strategies.sampled_from(tuple(channels)),
        content=strategies.sampled_from(CONTENTS),
        dtype=strategies.sampled_from(("float32", "bfloat16")),
        seed=strategies.integers(0, 9999),
    )
