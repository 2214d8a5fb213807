"""Illumination gradient: a lamp that is off the axis, and a lens that darkens the corners."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, per_image, within
from pydantic import Field
from torch import Tensor


class IlluminationGradient(Perturbation):
    """Brightens one side and darkens the corners, alike in every channel.

        y = x·exp(κ·(g_x·X + g_y·Y))·(1 − v·(X² + Y²)/2),   X, Y ∈ [−1, 1], (g_x, g_y) a unit vector

    Source: a tilted lamp and vignetting as every flat-field correction takes them out; the ranges are plausible
    defaults without a firm source.

    >>> lit = IlluminationGradient(strength=(0.2, 0.2), vignette=(0.0, 0.0))(torch.full((1, 3, 9, 9), 0.5))
    >>> lit[0, :, 4, 4]
    tensor([0.5000, 0.5000, 0.5000])
    """

    family = "machine"
    identity: ClassVar = {"strength": (0.0, 0.0), "vignette": (0.0, 0.0)}

    def __init__(
        self,
        *,
        strength: Annotated[
            Range, within(0.0, 2.0), Field(description="log-ratio of edge to centre, κ")
        ] = (0.0, 0.3),
        vignette: Annotated[
            Range, within(0.0, 1.0), Field(description="share of light lost in the corners, v")
        ] = (0.0, 0.3),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.strength, self.vignette = strength, vignette

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``strength`` κ, ``direction`` (radians) and ``vignette`` v, (B,) each."""
        return {
            "strength": streams.uniform(*self.strength),
            "direction": streams.uniform(0.0, 2.0 * math.pi),
            "vignette": streams.uniform(*self.vignette),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image (B, C, H, W) under this light, unclipped."""
        y = _across(about.height, image.device).view(1, 1, -1, 1)
        x = _across(about.width, image.device).view(1, 1, 1, -1)
        direction = per_image(drawn["direction"], image)
        tilt = per_image(drawn["strength"], image) * (direction.cos() * x + direction.sin() * y)
        loss = per_image(drawn["vignette"], image) * (x * x + y * y) / 2.0
        return image * torch.exp(tilt) * (1.0 - loss)


def _across(size: int, device: torch.device) -> Tensor:
    """(size,) from −1 to 1; 0 for one pixel."""
    place = torch.arange(size, device=device, dtype=torch.float32)
    return 2.0 * place / max(size - 1, 1) - (1.0 if size > 1 else 0.0)
