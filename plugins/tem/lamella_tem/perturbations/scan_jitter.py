"""Scan jitter: a beam that misses the start of its lines."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from lamella import About, Range, Streams, Warp, within
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, log_uniform

SINES = 10
"""Vibrations in the sum."""


class ScanJitter(Warp):
    """Shifts every scanned row on its own: a random walk that forgets, and vibrations.

        u_x(row) = σ·(a(row) + Σ_f U_f·sin(2π·f·row + φ_f)/√f) / √(var),    u_y = 0

    a is a first-order autoregressive sequence with correlation ρ from row to row, f a frequency in cycles per
    row, U_f uniform; the sum of both has the standard deviation σ, in px. Every value stays within what its
    row holds. A shift of whole rows cannot fold, however much neighbouring rows differ. Label, trust,
    instances, boxes and keypoints follow.

    Source: scan distortion in STEM and SEM, I. Lobato et al., npj Comput. Mater. 2024, s41524-023-01188-0;
    sums of 8–10 sines of 0.2 px are ARTIMAGEN's; the ranges are plausible defaults without a firm source.

    >>> batch = ScanJitter()(torch.full((2, 1, 16, 16), 0.25))
    >>> batch.amin(), batch.amax()
    (tensor(0.2500), tensor(0.2500))
    """

    family = "machine"
    identity: ClassVar = {"rms": (0.0, 0.0)}

    def __init__(
        self,
        *,
        rms: Annotated[
            Range, within(0.0, 20.0), Field(description="standard deviation of the row shifts, σ (px)")
        ] = (0.1, 1.0),
        correlation: Annotated[
            Range, within(0.0, 0.999), Field(description="correlation from row to row, ρ")
        ] = (0.3, 0.95),
        vibration: Annotated[
            Range, within(0.0, 1.0), Field(description="share of the variance that vibrations have")
        ] = (0.0, 0.6),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.rms = rms
        self.correlation = correlation
        self.vibration = vibration

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``rms``, ``correlation``, ``vibration`` (B,); ``frequency``, ``phase``, ``swing`` (B, 10)."""
        return {
            "rms": streams.uniform(*self.rms),
            "correlation": streams.uniform(*self.correlation),
            "vibration": streams.uniform(*self.vibration),
            "frequency": log_uniform(streams.child("frequency"), 0.004, 0.4).unsqueeze(1)
            * streams.uniform(0.3, 1.0, SINES),
            "phase": streams.uniform(0.0, 2.0 * math.pi, SINES),
            "swing": streams.uniform(0.0, 1.0, SINES),
        }

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement (B, H, W, 2) in pixels, y then x."""
        row = torch.arange(about.height, device=drawn["rms"].device, dtype=torch.float32)
        walk = autoregressive(streams.normal(about.height), drawn["correlation"])
        angle = 2.0 * math.pi * drawn["frequency"].unsqueeze(-1) * row + drawn["phase"].unsqueeze(-1)
        swing = drawn["swing"] / drawn["frequency"].sqrt()
        swing = swing / (0.5 * swing.square().sum(1, keepdim=True)).sqrt().clamp(min=1e-6)
        hum = (swing.unsqueeze(-1) * angle.sin()).sum(1)  # (B, H)
        share = drawn["vibration"].unsqueeze(1)
        shift = drawn["rms"].unsqueeze(1) * ((1.0 - share).sqrt() * walk + share.sqrt() * hum)
        shift = shift.unsqueeze(-1).expand(-1, -1, about.width)
        return torch.stack([torch.zeros_like(shift), shift], -1)


def autoregressive(noise: Tensor, correlation: Tensor) -> Tensor:
    """a (B, N) with a(0) = n(0), a(i) = ρ·a(i−1) + √(1−ρ²)·n(i), n white; by doubling, log₂ N steps."""
    rho = correlation.unsqueeze(1)
    fresh = (1.0 - rho * rho).sqrt()
    walk = torch.cat([noise[:, :1], fresh * noise[:, 1:]], 1)
    reach = 1
    while reach < noise.shape[1]:
        walk = walk + F.pad(rho**reach * walk[:, :-reach], (reach, 0))
        reach *= 2
    return walk
