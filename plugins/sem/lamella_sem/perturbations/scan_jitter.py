"""Scan jitter: mains hum and vibration move the start of every scan line."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Range, Streams, Warp, within
from pydantic import Field
from torch import Tensor

LINES = 6
"""Frequencies in the sum."""


class SemScanJitter(Warp):
    """Shifts every scan line along itself by a sum of vibrations.

        u_x(row) = σ·√(2/Σ aᵢ²)·Σ aᵢ·sin(2π·fᵢ·row + φᵢ),    u_y = 0

    with 6 frequencies fᵢ of 0.01 to 0.45 cycles per line, drawn with a uniform logarithm, and weights aᵢ in [0, 1]:
    over many lines the shift has the standard deviation σ, in pixels. A shift of whole lines cannot fold. Label,
    trust, instances, boxes and keypoints follow.

    Source: sums of some ten sines are the vibrations of ARTIMAGEN (P. Cizmar et al., Scanning 30, 2008); the ranges
    are plausible defaults without a firm source.

    >>> batch = SemScanJitter()(torch.full((2, 1, 16, 16), 0.25))
    >>> batch.amin(), batch.amax()
    (tensor(0.2500), tensor(0.2500))
    """

    family = "machine"
    identity: ClassVar = {"rms": (0.0, 0.0)}

    def __init__(
        self,
        *,
        rms: Annotated[Range, within(0.0, 20.0), Field(description="standard deviation of the shift, σ (px)")] = (
            0.0,
            0.6,
        ),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.rms = rms

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``rms`` (B,); ``frequency`` (cycles per line), ``phase``, ``weight`` (B, 6)."""
        return {
            "rms": streams.uniform(*self.rms),
            "frequency": streams.uniform(math.log(0.01), math.log(0.45), LINES).exp(),
            "phase": streams.uniform(0.0, 2.0 * math.pi, LINES),
            "weight": streams.uniform(0.1, 1.0, LINES),
        }

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement (B, H, W, 2) in pixels, y then x."""
        row = torch.arange(about.height, device=drawn["rms"].device, dtype=torch.float32)
        angle = 2.0 * math.pi * drawn["frequency"].unsqueeze(2) * row + drawn["phase"].unsqueeze(2)  # (B, 6, H)
        weight = drawn["weight"]
        scale = drawn["rms"] * torch.sqrt(2.0 / weight.square().sum(1))
        shift = scale.unsqueeze(1) * (weight.unsqueeze(2) * angle.sin()).sum(1)  # (B, H)
        across = shift.unsqueeze(2).expand(-1, -1, about.width)
        return torch.stack([torch.zeros_like(across), across], -1)
