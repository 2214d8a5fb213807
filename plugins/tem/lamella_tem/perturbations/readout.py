"""Readout: the amplifier's noise, and the converter's few bits."""

from typing import ClassVar

import torch
from lamella import About, Perturbation, Streams
from lamella.contracts.parameters import per_image
from torch import Tensor

from lamella_tem.perturbations.detector import Bits, FiniteDose, ReadNoise, RowNoise
from lamella_tem.perturbations.parameters import Chance, log_uniform

EXACT_BITS = 24
"""From so many bits on, float32 itself is the coarser grid: nothing is rounded."""


class Readout(Perturbation):
    """Adds the noise of reading each pixel and each row, then rounds to the converter's levels.

        y = round(L·(x + K·(σ_r·n + σ_row·n_row))) / L,    K = 1/D, L = 2^bits − 1

    with σ_r and σ_row in e⁻ and D the dose at white in e⁻/px. Without noise the error is at most half a
    level, and a second rounding changes nothing. 24 bits and more are not rounded.

    Source: read-out variance as the intercept of the photon-transfer line and a variance per row, Sci. Rep.
    2025, s41598-025-85982-4; quantisation as in EMVA 1288. The ranges are plausible defaults without a firm
    source.

    >>> image = torch.full((1, 1, 2, 2), 0.3)
    >>> Readout(read=(0.0, 0.0), row=(0.0, 0.0), bits=(1.0, 1.0))(image).amax()
    tensor(0.)
    """

    family = "machine"
    identity: ClassVar = {"read": (0.0, 0.0), "row": (0.0, 0.0), "bits": (24.0, 24.0)}

    def __init__(
        self,
        *,
        read: ReadNoise = (1.0, 10.0),
        row: RowNoise = (0.0, 1.0),
        bits: Bits = (6.0, 8.0),
        dose: FiniteDose = (50.0, 500.0),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.read = read
        self.row = row
        self.bits = bits
        self.dose = dose

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``read``, ``row`` (e⁻), ``bits`` (whole numbers) and ``dose`` (e⁻/px), (B,) each."""
        return {
            "read": streams.uniform(*self.read),
            "row": streams.uniform(*self.row),
            "bits": whole(streams, *self.bits),
            "dose": log_uniform(streams, *self.dose),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image as read out and rounded, unclipped."""
        pick = {name: per_image(value, image) for name, value in drawn.items()}
        rows = streams.normal(about.height).view(-1, 1, about.height, 1)
        noise = pick["row"] * rows + pick["read"] * streams.normal(about.height, about.width).unsqueeze(1)
        return quantised(image + noise / pick["dose"], pick["bits"])


def whole(streams: Streams, low: float, high: float) -> Tensor:
    """(B,) float32: the whole numbers from ``low`` to ``high``, all equally likely."""
    return streams.uniform(round(low) - 0.5, round(high) + 0.5).round().clamp(round(low), round(high))


def quantised(image: Tensor, bits: Tensor) -> Tensor:
    """``image`` rounded to 2^bits levels between 0 and 1; as it is from 24 bits on."""
    levels = torch.exp2(bits).round() - 1.0
    return torch.where(bits < EXACT_BITS, (image * levels).round() / levels, image)
