"""Deformation: a foil that bends and shears, a stage that drifts."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Range, Streams, Warp, within
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance

WAVES = 8
"""Plane waves in the elastic part of each component."""
STEEPEST = 0.7
"""The largest ‖∇u‖ that is let through: below 1, the image cannot fold."""


class Deformation(Warp):
    """Moves pixels as a bent, sheared and drifting foil does: shear, drift along the slow scan, waves.

    The output at r = (y, x) is the input at r + u(r), with

        u = (s_y·(x − x̄), s_x·(y − ȳ))                  shear
          + W·(d_y, d_x)·(t + a·t·(1 − t)), t = y/H     drift, growing from row to row and curved by a
          + A·Σᵢ aᵢ·cos(kᵢ·r + φᵢ), Σ|aᵢ| = 1            elastic: 8 waves of wavelength ℓ in random directions

    so that the elastic part never exceeds A. Where a bound of ‖∇u‖ exceeds 0.7, all of u is scaled down: the
    map is one-to-one for any parameters. Label, trust, instances, boxes and keypoints follow.

    Source: deformation in FIB preparation is named by the paper (section 2.2); we know no measurement: the
    ranges are plausible defaults without a firm source.

    >>> batch = Deformation()(torch.full((2, 1, 32, 32), 0.25))
    >>> batch.amin(), batch.amax()
    (tensor(0.2500), tensor(0.2500))
    """

    family = "sample"
    identity: ClassVar = {"shear": (0.0, 0.0), "drift": (0.0, 0.0), "elastic": (0.0, 0.0)}

    def __init__(
        self,
        *,
        shear: Annotated[
            Range, within(-0.3, 0.3), Field(description="shear of rows and of columns (px per px)")
        ] = (-0.02, 0.02),
        drift: Annotated[
            Range, within(0.0, 0.2), Field(description="drift from first to last row (share of the width)")
        ] = (0.0, 0.01),
        elastic: Annotated[
            Range, within(0.0, 50.0), Field(description="largest elastic displacement, A (px)")
        ] = (0.0, 6.0),
        wavelength: Annotated[
            Range, within(8.0, 4096.0), Field(description="wavelength of the elastic part, ℓ (px)")
        ] = (32.0, 128.0),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.shear = shear
        self.drift = drift
        self.elastic = elastic
        self.wavelength = wavelength

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``shear``, ``drift`` (B, 2), ``bend`` (B,), ``amplitude``, ``phase`` (B, 2, 8), ``wave`` (…, 2)."""
        direction = streams.uniform(0.0, 2.0 * math.pi)
        drift = streams.uniform(*self.drift).unsqueeze(1) * torch.stack([direction.sin(), direction.cos()], 1)
        share = streams.uniform(0.2, 1.0, 2, WAVES)
        share = share / share.sum(-1, keepdim=True)
        length = streams.uniform(*self.wavelength).view(-1, 1, 1) * streams.uniform(1.0, 1.5, 2, WAVES)
        heading = streams.uniform(0.0, 2.0 * math.pi, 2, WAVES)
        wave = (2.0 * math.pi / length).unsqueeze(-1) * torch.stack([heading.sin(), heading.cos()], -1)
        return {
            "shear": streams.uniform(*self.shear, 2),
            "drift": drift * about.width,
            "bend": streams.uniform(-1.0, 1.0),
            "amplitude": streams.uniform(*self.elastic).view(-1, 1, 1) * share,
            "phase": streams.uniform(0.0, 2.0 * math.pi, 2, WAVES),
            "wave": wave,
        }

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement (B, H, W, 2) in pixels, y then x."""
        device = drawn["shear"].device
        y = torch.arange(about.height, device=device, dtype=torch.float32)
        x = torch.arange(about.width, device=device, dtype=torch.float32)
        t = y / about.height
        path = t + drawn["bend"].unsqueeze(1) * t * (1.0 - t)  # (B, H)
        flow = drawn["drift"].view(-1, 1, 1, 2) * path.view(-1, about.height, 1, 1)
        shear_y, shear_x = drawn["shear"].unbind(1)
        sheared_y = (shear_y.unsqueeze(1) * (x - x.mean())).unsqueeze(1).expand(-1, about.height, -1)
        sheared_x = (shear_x.unsqueeze(1) * (y - y.mean())).unsqueeze(2).expand(-1, -1, about.width)
        flow = flow + torch.stack([sheared_y, sheared_x], -1) + _elastic(drawn, y, x)
        slope = _steepness(drawn, about.height)
        return flow * (STEEPEST / slope.clamp(min=STEEPEST)).view(-1, 1, 1, 1)


def _elastic(drawn: dict[str, Tensor], y: Tensor, x: Tensor) -> Tensor:
    """(B, H, W, 2): Σᵢ aᵢ·cos(kᵢ·r + φᵢ), as products of matrices, not a cosine per pixel and wave."""
    along_y = drawn["wave"][..., 0:1] * y + drawn["phase"].unsqueeze(-1)  # (B, 2, 8, H)
    along_x = drawn["wave"][..., 1:2] * x  # (B, 2, 8, W)
    amplitude = drawn["amplitude"].unsqueeze(-1)
    waves = torch.einsum("bcmh,bcmw->bchw", amplitude * along_y.cos(), along_x.cos())
    waves = waves - torch.einsum("bcmh,bcmw->bchw", amplitude * along_y.sin(), along_x.sin())
    return waves.movedim(1, -1)


def _steepness(drawn: dict[str, Tensor], height: int) -> Tensor:
    """(B,): an upper bound of ‖∇u‖ anywhere in the image."""
    shear = drawn["shear"].norm(dim=1)
    drift = drawn["drift"].norm(dim=1) * (1.0 + drawn["bend"].abs()) / height
    elastic = (drawn["amplitude"] * drawn["wave"].norm(dim=-1)).sum(-1).norm(dim=1)
    return shear + drift + elastic
