"""Defocus: the probe is a disc on the surface instead of a point."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv2d, pad

REACH = 6
"""Largest radius, pixels: half the side of the kernel."""


class Defocus(Perturbation):
    """Averages over a disc of radius a about every pixel, the geometrical image of a probe out of focus.

    The kernel is 1 within a, falls linearly to 0 within one pixel around it, and has the sum 1; beyond the border the
    image is continued by its outermost pixels.

    Source: geometrical defocus, radius = convergence angle × distance from focus (L. Reimer, Scanning Electron
    Microscopy, Springer 1998); the range is a plausible default without a firm source.

    >>> flat = Defocus()(torch.full((1, 1, 16, 16), 0.5))
    >>> bool((flat - 0.5).abs().max() < 1e-6)
    True
    """

    family = "machine"
    identity: ClassVar = {"radius": (0.0, 0.0)}

    def __init__(
        self,
        *,
        radius: Annotated[Range, within(0.0, float(REACH)), Field(description="of the disc, a (px)")] = (0.0, 1.2),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.radius = radius

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``radius`` (B,) in pixels."""
        return {"radius": streams.uniform(*self.radius)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image out of focus: every image is a group of one convolution."""
        count, channels, height = image.shape[:3]
        reach = max(1, min(REACH, int(-(-self.radius[1] // 1))))
        at = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
        distance = torch.hypot(at.view(-1, 1), at.view(1, -1))
        disc = (drawn["radius"].view(-1, 1, 1) + 1.0 - distance).clamp(0.0, 1.0)  # (B, k, k); at radius 0 a point
        kernel = (disc / disc.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0).unsqueeze(1)
        around = pad(image, (reach,) * 4, mode="replicate").view(1, count * channels, height + 2 * reach, -1)
        return conv2d(around, kernel, groups=count * channels).view_as(image)
