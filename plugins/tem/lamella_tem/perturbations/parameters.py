"""Parameter types and draws that several perturbations share."""

import math
from typing import Annotated

import torch
from lamella import About, Streams, within
from lamella.errors import ContractError
from pydantic import Field
from torch import Tensor

Chance = Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")]


def log_uniform(streams: Streams, low: float, high: float) -> Tensor:
    """(B,) float32 with a uniform logarithm in [low, high], 0 < low; infinite where both ends are.

    >>> log_uniform(Streams(torch.arange(2)), math.inf, math.inf)
    tensor([inf, inf])
    """
    return exponential(streams.uniform(*log_range(low, high)), low, high)


def log_range(low: float, high: float) -> tuple[float, float]:
    """What to draw uniformly between, so that `exponential` of it lies in [low, high]."""
    if not math.isinf(high):
        return math.log(low), math.log(high)
    if low != high:
        raise ContractError(f"a range up to infinity must start there too; this one starts at {low:g}")
    return 0.0, 1.0


def exponential(logarithm: Tensor, low: float, high: float) -> Tensor:
    """e to the power of what was drawn from `log_range`, in [low, high]; infinite where both ends are."""
    return torch.full_like(logarithm, math.inf) if math.isinf(high) else torch.exp(logarithm).clamp(low, high)


def polarity(about: About) -> Tensor:
    """m (B,) float32: −1 for bright field, +1 for HAADF and where nothing is known."""
    return torch.where(about.value("polarity", 1.0) < 0.0, -1.0, 1.0)


def aspect(about: About) -> Tensor:
    """(B,) float32: the height of a pixel over its width; 1 where the pixel size is unknown."""
    ratio = about.pixel_nm[:, 0] / about.pixel_nm[:, 1]
    return torch.where(torch.isfinite(ratio) & (ratio > 0.0), ratio, torch.ones_like(ratio))


def grid(about: About, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers (1, H, 1) and column numbers (1, 1, W), float32."""
    rows = torch.arange(about.height, device=device, dtype=torch.float32).view(1, -1, 1)
    columns = torch.arange(about.width, device=device, dtype=torch.float32).view(1, 1, -1)
    return rows, columns
