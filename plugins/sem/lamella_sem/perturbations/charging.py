"""Charging: parts of the field that do not conduct grow brighter or darker, and bright lines leave a band."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, per_image, within
from pydantic import Field
from torch import Tensor


class Charging(Perturbation):
    """A slow wave of brightness over the field, and a shift of each scan line by how bright it is.

        y = x + a·cos(2π·(k·r) + φ) − s·(m(row) − m̄)

    r is the place in shares of the field, k a direction with 0.2 to 1.2 periods per field, m the mean of a scan line
    and m̄ that of the image: with s > 0 a line full of bright edges is shown darker, as the charge that it leaves
    holds secondaries back. What stays of an image is its mean.

    Source: the appearance of charging (bands along the scan, slow contrast; L. Reimer, Scanning Electron Microscopy,
    Springer 1998); its form here and the ranges are plausible defaults without a firm source.

    >>> import torch
    >>> bool(Charging(bands=(0.0, 0.0))(torch.full((1, 1, 16, 16), 0.5)).std() > 0)
    True
    """

    family = "sample"
    identity: ClassVar = {"wave": (0.0, 0.0), "bands": (0.0, 0.0)}

    def __init__(
        self,
        *,
        wave: Annotated[Range, within(0.0, 0.5), Field(description="amplitude, a (share of white)")] = (0.0, 0.1),
        bands: Annotated[
            Range, within(-1.0, 1.0), Field(description="shift of a line by its excess brightness, s")
        ] = (0.0, 0.5),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.wave, self.bands = wave, bands

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``wave``, ``bands``, ``phase`` (B,) and ``k`` (B, 2) in periods per field, y and x."""
        way, periods = streams.uniform(0.0, 2.0 * math.pi), streams.uniform(0.2, 1.2)
        return {
            "wave": streams.uniform(*self.wave),
            "bands": streams.uniform(*self.bands),
            "phase": streams.uniform(0.0, 2.0 * math.pi),
            "k": periods.unsqueeze(1) * torch.stack([way.sin(), way.cos()], 1),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The charged image, unclipped."""
        y = torch.arange(about.height, device=image.device, dtype=torch.float32).view(1, -1, 1) / about.height
        x = torch.arange(about.width, device=image.device, dtype=torch.float32).view(1, 1, -1) / about.width
        ky, kx = drawn["k"].view(-1, 2, 1, 1).unbind(1)
        slow = torch.cos(2.0 * math.pi * (ky * y + kx * x) + drawn["phase"].view(-1, 1, 1))  # (B, H, W)
        slow = drawn["wave"].view(-1, 1, 1) * (slow - slow.mean((1, 2), keepdim=True))
        excess = image.mean(3, keepdim=True) - image.mean((2, 3), keepdim=True)
        return image + slow.unsqueeze(1) - per_image(drawn["bands"], image) * excess
