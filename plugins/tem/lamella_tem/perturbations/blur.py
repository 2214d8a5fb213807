"""Blur: a Gaussian of random width, as photographs are augmented."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv2d, pad

from lamella_tem.perturbations.parameters import Chance

RADIUS = 6
"""Half width of the kernel, pixels: three standard deviations of the widest."""


class Blur(Perturbation):
    """Convolves each image with a Gaussian of its own standard deviation σ: generic, not of any microscope.

    Borders are repeated. It is here for baselines made for photographs, to which the TEM sets are compared.

    Source: UniMatch (Yang et al., CVPR 2023), radius U(0.1, 2) with probability 0.5.

    >>> dot = torch.zeros(1, 1, 17, 17)
    >>> dot[..., 8, 8] = 1.0
    >>> round(Blur(sigma=(1.0, 1.0))(dot)[0, 0, 8, 8].item(), 3)  # 1/(2π)
    0.159
    """

    family = "generic"
    identity: ClassVar = {"sigma": (0.0, 0.0)}

    def __init__(
        self,
        *,
        sigma: Annotated[Range, within(0.0, 2.0), Field(description="standard deviation σ (px)")] = (0.1, 2.0),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.sigma = sigma

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``sigma`` (B,)."""
        return {"sigma": streams.uniform(*self.sigma)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The blurred image."""
        batch, channels, height, width = image.shape
        place = torch.arange(-RADIUS, RADIUS + 1, device=image.device)
        sigma = drawn["sigma"].clamp(min=1e-3).view(-1, 1)
        kernel = torch.exp(-0.5 * (place / sigma) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).to(image.dtype).repeat_interleave(channels, 0)  # (B·C, k)
        flat = pad(image.reshape(1, batch * channels, height, width), [RADIUS] * 4, mode="replicate")
        flat = conv2d(flat, kernel.view(-1, 1, 1, 2 * RADIUS + 1), groups=batch * channels)
        flat = conv2d(flat, kernel.view(-1, 1, 2 * RADIUS + 1, 1), groups=batch * channels)
        return flat.view_as(image)
