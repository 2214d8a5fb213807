"""Metal spots: redeposited metal that lies on the foil."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, aspect, polarity
from lamella_tem.perturbations.poisson import poisson

MOST = 32
"""Spots per image at most."""
_REACH = 1.5  # a spot is 0 from 1.5 radii on


class MetalSpots(Perturbation):
    """Scatters small round deposits of metal: dark in bright field, bright in HAADF.

        bright field  y = x·Π(1 − αᵢ·Gᵢ)          HAADF  y = 1 − (1 − x)·Π(1 − αᵢ·Gᵢ)

    G falls smoothly from 1 within half a radius to exactly 0 at 1.5 radii; the number of spots is Poisson's,
    at most 32. The product makes the order of the spots irrelevant. Spots are round in nm, also where pixels
    are not square.

    Source: metal contamination that reads as material is the paper's Figure 10; number, radius and opacity
    are plausible defaults without a firm source.

    >>> image = torch.full((1, 1, 64, 64), 0.4)
    >>> bool((MetalSpots()(image) >= image).all())
    True
    """

    family = "sample"
    identity: ClassVar = {"opacity": (0.0, 0.0)}

    def __init__(
        self,
        *,
        spots: Annotated[
            Range, within(0.0, 32.0), Field(description="expected number of spots per image, at most 32")
        ] = (8.0, 8.0),
        radius: Annotated[
            Range, within(0.5, 64.0), Field(description="radius at half height (px)")
        ] = (1.0, 8.0),
        opacity: Annotated[
            Range, within(0.0, 1.0), Field(description="contrast of a spot at its centre, α")
        ] = (0.1, 0.7),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.spots = spots
        self.radius = radius
        self.opacity = opacity

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``centre`` (B, 32, 2), shares of the image; ``radius`` (px), ``opacity`` (B, 32), 0 if absent."""
        count = poisson(streams.uniform(*self.spots), streams.uniform(0.0, 1.0)).clamp(max=MOST)
        present = torch.arange(MOST, device=count.device) < count.unsqueeze(1)
        low, high = math.log(self.radius[0]), math.log(self.radius[1])
        return {
            "centre": streams.uniform(0.0, 1.0, MOST, 2),
            "radius": streams.uniform(low, high, MOST).exp(),
            "opacity": streams.uniform(*self.opacity, MOST) * present,
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image with its spots, unclipped."""
        clear = transmission(drawn, about, math.ceil(_REACH * self.radius[1])).unsqueeze(1)
        bright = per_image(polarity(about), image) > 0.0
        return torch.where(bright, image + (1.0 - image) * (1.0 - clear), image * clear)


def transmission(drawn: dict[str, Tensor], about: About, reach: int) -> Tensor:
    """Π(1 − αᵢ·Gᵢ) (B, H, W), exactly 1 where no spot lies.

    Only the (2·reach + 1)² pixels around each spot are computed; one spot after the other, so that the result
    does not depend on the order in which a device adds.
    """
    count, device = len(drawn["radius"]), drawn["radius"].device
    side = torch.arange(-reach, reach + 1, device=device)
    centre_y, centre_x = drawn["centre"][..., 0:1] * about.height, drawn["centre"][..., 1:2] * about.width
    rows = centre_y.round().to(torch.int64) + side  # (B, 32, S)
    columns = centre_x.round().to(torch.int64) + side
    lower = aspect(about).view(-1, 1, 1)  # distances are in shorter sides of a pixel, so that ``reach`` holds them
    y = (rows - centre_y) * lower.clamp(min=1.0)
    x = (columns - centre_x) / lower.clamp(max=1.0)
    distance = torch.sqrt(y.square().unsqueeze(3) + x.square().unsqueeze(2))  # (B, 32, S, S)
    height = (_REACH - distance / drawn["radius"][..., None, None]).clamp(0.0, 1.0)
    clear = 1.0 - drawn["opacity"][..., None, None] * height * height * (3.0 - 2.0 * height)
    # Pixels outside go to a spare place behind the image.
    inside_y = ((rows >= 0) & (rows < about.height)).unsqueeze(3)
    inside = inside_y & ((columns >= 0) & (columns < about.width)).unsqueeze(2)
    spare = about.height * about.width
    index = torch.where(inside, rows.unsqueeze(3) * about.width + columns.unsqueeze(2), spare).flatten(2)
    field = torch.ones(count, spare + 1, device=device)
    for place, factor in zip(index.unbind(1), clear.flatten(2).unbind(1)):
        field.scatter_(1, place, field.gather(1, place) * factor)
    return field[:, :spare].view(count, about.height, about.width)
