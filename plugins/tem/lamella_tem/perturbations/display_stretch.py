"""Display stretch: the operator's choice of black, white and gamma."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, log_uniform

SAMPLES = 4096
"""Pixels per image, about, that the percentiles are taken from."""


class DisplayStretch(Perturbation):
    """Stretches the grey values between two percentiles over the whole display, with a gamma.

        lo' = a·lo,  hi' = 1 − a·(1 − hi),    y = clip((x − lo')/(hi' − lo'))^γ

    with lo and hi the values below and above which a share q of the pixels lies, and a from 0 (black and
    white stay) to 1 (percentile to percentile). The order of the pixels is kept. An image that is all but
    constant is not stretched.

    Source: percentile stretch and gamma are what every viewer does; the ranges are plausible defaults without
    a firm source.

    >>> image = torch.linspace(0.3, 0.6, 64).view(1, 1, 8, 8)
    >>> stretched = DisplayStretch(amount=(1.0, 1.0))(image)
    >>> bool(stretched.amax() - stretched.amin() > 0.9)
    True
    """

    family = "post"
    identity: ClassVar = {"amount": (0.0, 0.0), "gamma": (1.0, 1.0)}

    def __init__(
        self,
        *,
        percentile: Annotated[
            Range, within(0.0, 20.0), Field(description="pixels cut off at either end, q (percent)")
        ] = (0.1, 2.0),
        amount: Annotated[
            Range, within(0.0, 1.0), Field(description="how far black and white move to the percentiles, a")
        ] = (0.3, 1.0),
        gamma: Annotated[
            Range, within(0.1, 10.0), Field(description="exponent of the display, γ")
        ] = (0.7, 1.4),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.percentile = percentile
        self.amount = amount
        self.gamma = gamma

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``percentile``, ``amount`` and ``gamma``, (B,) each."""
        return {
            "percentile": streams.uniform(*self.percentile),
            "amount": streams.uniform(*self.amount),
            "gamma": log_uniform(streams, *self.gamma),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image as displayed."""
        low, high = _ends(image, drawn["percentile"])
        wide = high - low > 1.0 / 255.0
        amount = torch.where(wide, drawn["amount"], torch.zeros_like(low))
        black = per_image(amount * low, image)
        white = per_image(1.0 - amount * (1.0 - high), image)
        return ((image - black) / (white - black)).clamp(0.0, 1.0) ** per_image(drawn["gamma"], image)


def _ends(image: Tensor, percentile: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) each: the grey values with ``percentile`` (B,) percent of the pixels below and above."""
    ordered = _some(image).flatten(1).sort(1).values
    place = (percentile / 100.0 * (ordered.shape[1] - 1)).round().to(torch.int64).unsqueeze(1)
    low, high = ordered.gather(1, place), ordered.gather(1, ordered.shape[1] - 1 - place)
    return low.squeeze(1), high.squeeze(1)


def _some(image: Tensor) -> Tensor:
    """(B, C, h, w): pixels all over the image, all of a small one and every second of up to 128 × 128.

    Of a larger one a pixel somewhere in every cell of a grid, always the same: on the grid itself stripes as wide apart
    as its lines would be met at one phase alone.

    Source: the hash: M. Teschner et al., "Optimized spatial hashing", VMV 2003.
    """
    height, width = image.shape[-2:]
    step = max(1, math.ceil(math.sqrt(height * width / SAMPLES)))
    if step <= 2:
        return image[..., ::step, ::step]
    row = torch.arange(-(-height // step), device=image.device).unsqueeze(1)
    column = torch.arange(-(-width // step), device=image.device)
    word = (row * 73856093) ^ (column * 19349663)
    return image[..., (row * step + (word >> 7) % step) % height, (column * step + (word >> 13) % step) % width]
