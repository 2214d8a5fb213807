"""Spikes: X-rays that strike the camera, and pixels that are dead."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, grid, log_uniform

LARGEST = 3
"""Pixels of a spike at most."""


class Spikes(Perturbation):
    """Saturates one to three neighbouring pixels here and there, and leaves others dead.

        y = max(x, spike) at spikes,    y = x·(0 … 0.3) at dead pixels,    y = x elsewhere

    A share r of the pixels is struck by an X-ray; each strike brightens 1, 2 (a neighbour to the right) or 3
    pixels (and one below), so that 2·r of the pixels are hit on average, which changes those darker than the
    spike; one more strike hits one pixel of every image. A share r_dead is dead. One random number per pixel
    decides on everything. All channels share the detector.

    Source: X-ray spikes that saturate one or a few neighbouring pixels, and dead pixels, in TEM: I. Lobato et
    al., npj Comput. Mater. 2024, s41524-023-01188-0; the ranges are plausible defaults without a firm source.

    >>> image = torch.full((1, 1, 64, 64), 0.4)
    >>> bool((Spikes(dead=(0.0, 0.0))(image) >= image).all())
    True
    """

    family = "machine"
    identity: ClassVar = {"struck": (0.0, 0.0), "dead": (0.0, 0.0)}

    def __init__(
        self,
        *,
        struck: Annotated[
            Range, within(0.0, 0.05), Field(description="share of pixels struck by an X-ray, r")
        ] = (1e-5, 5e-4),
        dead: Annotated[Range, within(0.0, 0.05), Field(description="share of dead pixels")] = (1e-5, 5e-4),
        brightness: Annotated[
            Range, within(0.0, 1.0), Field(description="brightness of a spike (display units)")
        ] = (0.7, 1.0),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.struck = struck
        self.dead = dead
        self.brightness = brightness

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``certain`` (B, 2), a place; ``struck``, ``dead``, ``brightness``, ``left`` of the dead (B,)."""
        return {
            "struck": _share(streams, self.struck),
            "dead": _share(streams, self.dead),
            "brightness": streams.uniform(*self.brightness),
            "left": streams.uniform(0.0, 0.3),
            "certain": streams.uniform(0.0, 1.0, 2),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image as struck, unclipped."""
        unit = streams.rand(about.height, about.width).unsqueeze(1)
        pick = {name: per_image(value, image) for name, value in drawn.items() if value.ndim == 1}
        # Strikes are the lowest numbers; their rank among themselves gives the size.
        rows, columns = grid(about, image.device)
        row, column = (drawn["certain"][:, i].view(-1, 1, 1) for i in (0, 1))
        certain = (rows == (row * about.height).floor()) & (columns == (column * about.width).floor())
        first = (unit < pick["struck"]) | (certain.unsqueeze(1) & (pick["struck"] > 0.0))
        right = F.pad(unit < pick["struck"] * (2.0 / LARGEST), (1, 0))[..., :-1]
        below = F.pad(unit < pick["struck"] * (1.0 / LARGEST), (0, 0, 1, 0))[..., :-1, :]
        spiked = torch.maximum(image, pick["brightness"])
        image = torch.where(unit >= 1.0 - pick["dead"], image * pick["left"], image)
        return torch.where(first | right | below, spiked, image)


def _share(streams: Streams, share: tuple[float, float]) -> Tensor:
    """(B,): a share with a uniform logarithm, or with a uniform value where the range begins at 0."""
    return log_uniform(streams, *share) if share[0] > 0.0 else streams.uniform(*share)
