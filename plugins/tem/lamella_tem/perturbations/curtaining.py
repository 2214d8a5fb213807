"""Curtaining: the stripes an ion beam leaves along the milling direction."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, aspect, grid, log_uniform, polarity

SECOND_ANGLE = 8.0
"""Degrees between the two directions of a rocked mill."""


class Curtaining(Perturbation):
    """Lays stripes of varying thickness along the milling direction (down the image), fading with depth.

        y = x·exp(m·κ·s(u)·g(v)),   g(v) = exp(−v / (ℓ·H))

    u runs across the stripes and v along them, turned by a small angle from the image's columns; s is a sum
    of random Gaussians (stripes from single features) and 1/f noise, scaled to unit standard deviation; m =
    +1 for HAADF, −1 for bright field. With some chance a second, weaker set of stripes lies ±8° beside the
    first, as a rocked mill leaves it. Black stays black; at 0° and without decay the ratio y/x is constant
    down a column.

    Source: forward model of stripes in D. Fitschen et al., arXiv 1507.00112; energy in a narrow Fourier
    wedge: Schwartz et al. 2019; two directions after rocking: Schankula et al. 2018 (−1° and 7°). The
    ranges are plausible defaults without a firm source.

    >>> flat = torch.full((1, 1, 16, 16), 0.5)
    >>> striped = Curtaining(angle=(0.0, 0.0), second=0.0)(flat)
    >>> bool(striped[0, 0, 0].std() > striped[0, 0, :, 0].std())
    True
    """

    family = "sample"
    identity: ClassVar = {"strength": (0.0, 0.0)}

    def __init__(
        self,
        *,
        strength: Annotated[
            Range, within(0.0, 1.0), Field(description="standard deviation of the log-ratio, κ")
        ] = (0.02, 0.15),
        width: Annotated[
            Range, within(0.5, 200.0), Field(description="half width (σ) of the single stripes (px)")
        ] = (1.0, 12.0),
        angle: Annotated[
            Range, within(-45.0, 45.0), Field(description="milling direction against the columns (degrees)")
        ] = (-3.0, 3.0),
        decay: Annotated[
            Range, within(0.01, float("inf")), Field(description="depth of decay, ℓ (image heights)")
        ] = (0.3, 2.0),
        second: Annotated[
            float, within(0.0, 1.0), Field(description="chance of a second direction, 8° beside the first")
        ] = 0.2,
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.strength = strength
        self.width = width
        self.angle = angle
        self.decay = decay
        self.second = second

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``strength``, ``angle`` (radians), ``decay``, ``second`` (a share), ``second_angle``, (B,) each."""
        angle = torch.deg2rad(streams.uniform(*self.angle))
        side = 2.0 * streams.integers(0, 2).to(torch.float32) - 1.0
        twice = streams.uniform(0.0, 1.0) < self.second
        return {
            "strength": streams.uniform(*self.strength),
            "angle": angle,
            "decay": log_uniform(streams, *self.decay),
            "second": torch.where(twice, streams.uniform(0.3, 0.8), torch.zeros_like(angle)),
            "second_angle": angle + side * math.radians(SECOND_ANGLE),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image behind its curtain, unclipped."""
        ratio = self._stripes(drawn["angle"], streams.child("first"), about)
        other = self._stripes(drawn["second_angle"], streams.child("second"), about)
        share = per_image(drawn["second"], ratio)
        ratio = (ratio + share * other) / torch.sqrt(1.0 + share * share)
        rows, _ = grid(about, image.device)
        ratio = ratio * torch.exp(-rows / (per_image(drawn["decay"], ratio) * about.height))
        slope = per_image(polarity(about) * drawn["strength"], image)
        return image * torch.exp(slope * ratio.unsqueeze(1))

    def _stripes(self, angle: Tensor, streams: Streams, about: About) -> Tensor:
        """s(u) (B, H, W) for stripes at ``angle`` (B,)."""
        rows, columns = grid(about, angle.device)
        lean = per_image(angle.tan() * aspect(about), rows.expand(len(angle), -1, -1))
        steepest = math.tan(math.radians(max(abs(end) for end in self.angle) + SECOND_ANGLE))
        reach = math.ceil(min(steepest * about.height * 4.0, 4.0 * (about.height + about.width)))
        profile = self._profile(about.width + 2 * reach, streams)  # (B, N)
        position = (columns + lean * (rows - 0.5 * (about.height - 1)) + reach).clamp(0, profile.shape[1] - 1)
        left = position.floor().clamp(max=profile.shape[1] - 2)
        index = left.to(torch.int64).flatten(1)
        low = profile.gather(1, index).view_as(position)
        high = profile.gather(1, index + 1).view_as(position)
        return torch.lerp(low, high, position - left)

    def _profile(self, length: int, streams: Streams) -> Tensor:
        """(B, length): random Gaussians and 1/f noise, scaled to mean 0 and standard deviation 1."""
        count = max(4, length // 16)
        place = streams.uniform(0.0, float(length), count).unsqueeze(-1)
        low, high = math.log(self.width[0]), math.log(self.width[1])
        width = streams.uniform(low, high, count).exp().unsqueeze(-1)
        height = streams.uniform(-1.0, 1.0, count).unsqueeze(-1)
        u = torch.arange(length, device=place.device, dtype=torch.float32)
        single = (height * torch.exp(-0.5 * ((u - place) / width) ** 2)).sum(1)
        spectrum = torch.fft.rfft(streams.normal(length))
        frequency = torch.arange(spectrum.shape[1], device=place.device).clamp(min=1)
        pink = torch.fft.irfft(spectrum / frequency.sqrt(), n=length)
        return _unit(_unit(single) + 0.7 * _unit(pink))


def _unit(profile: Tensor) -> Tensor:
    """``profile`` (B, N) with mean 0 and standard deviation 1."""
    centred = profile - profile.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
