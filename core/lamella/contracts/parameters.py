"""What a perturbation may know of its images, and the ranges that it draws its parameters from."""

import math
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor

from lamella.contracts.batch import Batch


class About(NamedTuple):
    """What a perturbation may know of the images: size in pixels, pixel size in nm, metadata."""

    height: int
    width: int
    pixel_nm: Tensor
    """(B, 2) float32, nm per pixel in y and x; nan where unknown."""
    meta: dict[str, Tensor]
    """(B, …) each, as in `Batch.meta`."""

    @classmethod
    def of(cls, batch: Batch) -> "About":
        """What a batch tells."""
        return cls(batch.image.shape[-2], batch.image.shape[-1], batch.pixel_nm, batch.meta)

    def value(self, name: str, default: float) -> Tensor:
        """(B,) float32: the metadata ``name``, or ``default`` for every image where there is none."""
        known = self.meta.get(name)
        if known is None:
            return torch.full((len(self.pixel_nm),), default, device=self.pixel_nm.device)
        return known.to(torch.float32)


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the lower end {value[0]:g} is above the upper end {value[1]:g}")
    if value[0] != value[1] and any(map(math.isinf, value)):
        raise ValueError("nothing can be drawn between an end and infinity; both ends may be infinite")
    return value


Range = Annotated[tuple[float, float], BeforeValidator(_pair), AfterValidator(_ordered)]
"""An interval (low, high) to draw from; a single number stands for both ends.

The latter, as all checking, is done where the registry builds (an experiment file, `lamella.build`); a class called
directly takes a pair and gets what it is given.
"""


def within(low: float, high: float) -> AfterValidator:
    """A bound for a `Range` or a number: every end must lie in [low, high]."""

    def check(value: Any) -> Any:
        ends = value if isinstance(value, tuple) else (value,)
        if any(not low <= end <= high for end in ends):
            raise ValueError(f"must lie within {low:g} and {high:g}")
        return value

    return AfterValidator(check)


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """``value`` (B,) shaped so that it broadcasts over ``like`` (B, …)."""
    return value.view(-1, *(1 for _ in range(like.ndim - 1)))
