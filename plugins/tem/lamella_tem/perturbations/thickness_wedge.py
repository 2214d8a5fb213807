"""Thickness wedge: a foil that is thicker at one side."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, grid, polarity


class ThicknessWedge(Perturbation):
    """Brightens or darkens along one direction, as a foil of V-shaped thickness does.

        y = x·exp(m·κ·(g_x·X + g_y·Y)),   X, Y ∈ [−1, 1] across the image, (g_x, g_y) a unit vector

    with m = +1 for HAADF (thicker is brighter) and −1 for bright field (exp(−t/λ): thicker is darker). The
    log-ratio is a plane that vanishes at the image's centre.

    Source: V-shaped thickness wedges and bowed membranes are known from FIB preparation; the range of κ is a
    plausible default without a firm source.

    >>> wedged = ThicknessWedge(strength=(0.2, 0.2))(torch.full((1, 1, 9, 9), 0.5))
    >>> wedged[0, 0, 4, 4]
    tensor(0.5000)
    """

    family = "sample"
    identity: ClassVar = {"strength": (0.0, 0.0)}

    def __init__(
        self,
        *,
        strength: Annotated[
            Range, within(0.0, 3.0), Field(description="log-ratio of edge to centre, κ")
        ] = (0.05, 0.4),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.strength = strength

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``strength`` κ and ``direction`` (radians), (B,) each."""
        return {
            "strength": streams.uniform(*self.strength),
            "direction": streams.uniform(0.0, 2.0 * math.pi),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image under its wedge, unclipped."""
        rows, columns = grid(about, image.device)
        y = 2.0 * rows / max(about.height - 1, 1) - 1.0
        x = 2.0 * columns / max(about.width - 1, 1) - 1.0
        direction = per_image(drawn["direction"], image)
        plane = direction.cos() * x + direction.sin() * y  # (B, 1, H, W)
        slope = per_image(polarity(about) * drawn["strength"], image)
        return image * torch.exp(slope * plane)
