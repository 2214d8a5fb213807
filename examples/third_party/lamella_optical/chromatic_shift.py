"""Chromatic shift: a lens that images red and blue beside green."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, per_image, within
from lamella.errors import ContractError
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


class ChromaticShift(Perturbation):
    """Moves red one way and blue the other by a fraction of a pixel up to two; green, and the label, stay.

        y_red(r) = x_red(r + s),    y_blue(r) = x_blue(r − s),    |s| the shift in px

    It changes colours, not places: edges get coloured fringes. Therefore it is a `Perturbation` and no `Warp`.

    Raises:
        ContractError: images that have not three channels.

    Source: lateral chromatic aberration; the range is a plausible default without a firm source.

    >>> image = torch.zeros(1, 3, 8, 8)
    >>> image[..., 4:] = 1.0
    >>> fringes = ChromaticShift(shift=(1.0, 1.0))(image)
    >>> bool((fringes[:, 1] == image[:, 1]).all()), bool((fringes[:, 0] == image[:, 0]).all())
    (True, False)
    """

    family = "machine"
    identity: ClassVar = {"shift": (0.0, 0.0)}

    def __init__(
        self,
        *,
        shift: Annotated[
            Range, within(0.0, 2.0), Field(description="of red and blue against green, |s| (px)")
        ] = (0.0, 1.0),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.shift = shift

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``shift`` (px) and ``direction`` (radians), (B,) each."""
        return {"shift": streams.uniform(*self.shift), "direction": streams.uniform(0.0, 2.0 * math.pi)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image (B, 3, H, W) with its colours apart."""
        if image.shape[1] != 3:
            raise ContractError(f"chromatic-shift needs images of 3 channels, not of {image.shape[1]}")
        step = drawn["shift"].unsqueeze(1) * torch.stack([drawn["direction"].cos(), drawn["direction"].sin()], 1)
        red, green, blue = image.split(1, dim=1)
        moved = torch.cat([_moved(red, step), green, _moved(blue, -step)], 1)
        return torch.where(per_image(drawn["shift"] > 0.0, image), moved, image)


def _moved(channel: Tensor, step: Tensor) -> Tensor:
    """``channel`` (B, 1, H, W) at r + step, bilinear, the border repeated; ``step`` (B, 2) in px, x then y."""
    height, width = channel.shape[-2:]
    along = torch.stack([2.0 * step[:, 0] / width, 2.0 * step[:, 1] / height], 1)  # of an image 2 wide and high
    theta = torch.eye(2, device=step.device).expand(len(step), 2, 2)
    grid = affine_grid(torch.cat([theta, along.unsqueeze(2)], 2), list(channel.shape), align_corners=False)
    return grid_sample(channel, grid, padding_mode="border", align_corners=False)
