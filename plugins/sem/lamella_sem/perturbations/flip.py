"""Flips: a wafer has no top or left that a defect would know of."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Streams, Warp, within
from pydantic import Field
from torch import Tensor

Chance = Annotated[float, within(0.0, 1.0)]


class Flip(Warp):
    """Mirrors an image left to right, top to bottom, or both, each by its own chance.

    Every pixel is moved whole; label, trust, instances, boxes and keypoints follow. Unlike other warps it folds, and
    is its own inverse.

    Source: flip of the paper's augmentation (section 2.3).

    >>> image = torch.arange(4.0).view(1, 1, 2, 2) / 4
    >>> Flip(horizontal=1.0, vertical=0.0)(image).flatten()
    tensor([0.2500, 0.0000, 0.7500, 0.5000])
    """

    family = "framing"
    identity: ClassVar = {"horizontal": 0.0, "vertical": 0.0}
    mirrors = True

    def __init__(
        self,
        *,
        horizontal: Annotated[Chance, Field(description="chance to be mirrored left to right")] = 0.5,
        vertical: Annotated[Chance, Field(description="chance to be mirrored top to bottom")] = 0.5,
        p: Annotated[Chance, Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.horizontal, self.vertical = horizontal, vertical

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``mirrored`` (B, 2): 1 where the image is, along y and x."""
        down, across = streams.uniform(0.0, 1.0, 2).unbind(1)
        return {"mirrored": torch.stack([down < self.vertical, across < self.horizontal], 1).to(torch.float32)}

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement (B, H, W, 2) in pixels, y then x."""
        device = drawn["mirrored"].device
        y = about.height - 1.0 - 2.0 * torch.arange(about.height, device=device, dtype=torch.float32)
        x = about.width - 1.0 - 2.0 * torch.arange(about.width, device=device, dtype=torch.float32)
        down, across = drawn["mirrored"].view(-1, 2, 1, 1).unbind(1)
        size = (len(down), about.height, about.width)
        return torch.stack([(down * y.view(1, -1, 1)).expand(size), (across * x.view(1, 1, -1)).expand(size)], -1)

    def inverse(self, flow: Tensor, points: Tensor) -> Tensor:
        """Where points (B, N, 2) of the input, x then y, land: a flip is its own inverse."""
        far = flow[:, 0, 0].flip(-1).unsqueeze(1)  # the first pixel comes from the last one, where it is mirrored
        return points + far - 2.0 * points * (far > 0)
