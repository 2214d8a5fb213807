"""Stage shift: the specimen lies a little elsewhere in the frame."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Range, Streams, Warp, within
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance


class StageShift(Warp):
    """Moves the frame over the specimen by a vector of its own, u = (y, x), in whole pixels: noise stays as it is.

    What comes into the frame from outside is not known: the image is mirrored there and the label `IGNORE`.

    Source: our own; how far stages and beam shifts miss is the tool's. It is meant for `lamella gauge`.

    >>> row = torch.arange(8.0).expand(1, 1, 8, 8) / 8
    >>> StageShift(y=(0.0, 0.0), x=(1.0, 1.0))(row)[0, 0, 0, :3]
    tensor([0.1250, 0.2500, 0.3750])
    """

    family = "machine"
    identity: ClassVar = {"y": (0.0, 0.0), "x": (0.0, 0.0)}

    def __init__(
        self,
        *,
        y: Annotated[Range, within(-64.0, 64.0), Field(description="how far the frame moves down (px)")] = (-4.0, 4.0),
        x: Annotated[Range, within(-64.0, 64.0), Field(description="how far the frame moves right (px)")] = (-4.0, 4.0),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.y = y
        self.x = x

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``y`` and ``x`` (B,), whole numbers."""
        return {"y": streams.uniform(*self.y).round(), "x": streams.uniform(*self.x).round()}

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement (B, H, W, 2) in pixels, y then x."""
        shift = torch.stack([drawn["y"], drawn["x"]], -1)
        return shift.view(-1, 1, 1, 2).expand(-1, about.height, about.width, 2)
