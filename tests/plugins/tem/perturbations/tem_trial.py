"""How the invariants of the TEM perturbations are written down and tried."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from hypothesis import strategies
from lamella import About, Batch, Streams
from torch import Tensor

Check = Callable[[Any, "Case"], None]
INVARIANTS: dict[str, list[Check]] = {}
"""The checks of every perturbation by its registered name; each takes the class and a case."""
FAULTS: list[tuple[Check, type]] = []
"""A check, and a class with one deliberate fault that it must catch."""


@dataclass(frozen=True)
class Case:
    """A size and a seed."""

    height: int
    width: int
    seed: int

    def image(self, low: float = 0.1, high: float = 0.9, *, count: int = 2) -> Tensor:
        """(B, 1, H, W) random greys in [low, high]."""
        generator = torch.Generator().manual_seed(self.seed)
        return low + (high - low) * torch.rand(count, 1, self.height, self.width, generator=generator)

    def flat(self, grey: float, *, count: int = 2) -> Tensor:
        """(B, 1, H, W) of one grey."""
        return torch.full((count, 1, self.height, self.width), grey)

    def at_least(self, height: int, width: int) -> "Case":
        """The same seed, large enough for statistics."""
        return Case(max(self.height, height), max(self.width, width), self.seed)


CASES = strategies.builds(
    Case,
    height=strategies.integers(8, 97),
    width=strategies.integers(8, 130),
    seed=strategies.integers(0, 9999),
)


def invariant(name: str) -> Callable[[Check], Check]:
    """Enters a check for the perturbation ``name``."""

    def enter(check: Check) -> Check:
        INVARIANTS.setdefault(name, []).append(check)
        return check

    return enter


def caught_by(check: Check) -> Callable[[type], type]:
    """Enters a faulty class that ``check`` must catch."""

    def enter(faulty: type) -> type:
        FAULTS.append((check, faulty))
        return faulty

    return enter


def component(name: str) -> type:
    """The class registered as ``name``."""
    module = import_module(f"lamella_tem.perturbations.{name.replace('-', '_')}")
    return getattr(module, "".join(part.title() for part in name.split("-")))


def about(image: Tensor, polarity: float = 1.0, pixel_nm: tuple[float, float] = (torch.nan,) * 2) -> About:
    """What a perturbation may know of these images."""
    count, _, height, width = image.shape
    return About(height, width, torch.tensor([pixel_nm] * count), {"polarity": torch.full((count,), polarity)})


def rendered(
    perturbation: Any,
    image: Tensor,
    seed: int,
    *,
    polarity: float = 1.0,
    pixel_nm: tuple[float, float] = (torch.nan,) * 2,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The unclipped image and what was drawn for it."""
    known = about(image, polarity, pixel_nm)
    streams = Streams(torch.arange(len(image)) + 1000 * seed)
    drawn = perturbation.draw(streams.child("draw"), known)
    return perturbation.render(image, drawn, streams.child("render"), known), drawn


def flow(warp: Any, case: Case, *, count: int = 2) -> Tensor:
    """The displacement (B, H, W, 2) of a warp."""
    streams = Streams(torch.arange(count) + 1000 * case.seed)
    known = about(case.flat(0.0, count=count))
    return warp.flow(warp.draw(streams.child("draw"), known), streams.child("render"), known)


def warped(warp: Any, batch: Batch, seed: int) -> Batch:
    """A batch moved by a warp."""
    return warp.perturb(batch, Streams(torch.arange(len(batch.key)) + 1000 * seed))


def close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Fails where two tensors are farther apart than ``tolerance``."""
    gap = (found - wanted).abs().max().item()
    assert gap <= tolerance, f"{what}: off by {gap:.3g}, {tolerance:.3g} allowed"
