"""Reframing: the stage stops a little off, the column zooms a little in, the wafer is turned a little."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Range, Streams, Warp, within
from pydantic import Field
from torch import Tensor


class Reframe(Warp):
    """Crops to a share z of each side, off the middle by a shift, turned by a small angle, back to full size.

    In one resampling, with r from the image's middle:

        r + u(r) = z·R(φ)·r + s,    R a rotation by φ, s in a random direction

    so that z < 1 shows a part of the image, enlarged. The pixel size that goes with the batch stays that of the
    microscope. Label, trust, instances, boxes and keypoints follow.

    Source: crop and rotation of the paper's augmentation (section 2.3, which gives no ranges); the ranges are
    plausible defaults without a firm source.

    >>> batch = Reframe()(torch.full((2, 1, 16, 16), 0.25))
    >>> batch.amin(), batch.amax()
    (tensor(0.2500), tensor(0.2500))
    """

    family = "framing"
    identity: ClassVar = {"zoom": (1.0, 1.0), "shift": (0.0, 0.0), "degrees": (0.0, 0.0)}

    def __init__(
        self,
        *,
        zoom: Annotated[
            Range, within(0.4, 1.0), Field(description="side of the crop, share of the image's")
        ] = (0.7, 1.0),
        shift: Annotated[
            Range, within(0.0, 0.5), Field(description="distance of the crop's middle, share of the shorter side")
        ] = (0.0, 0.1),
        degrees: Annotated[Range, within(-20.0, 20.0), Field(description="angle of rotation (°)")] = (-5.0, 5.0),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.zoom, self.shift, self.degrees = zoom, shift, degrees

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``zoom``, ``angle`` (radians) (B,) and ``shift`` (B, 2) in pixels, y and x."""
        way = streams.uniform(0.0, 2.0 * math.pi)
        distance = streams.uniform(*self.shift) * min(about.height, about.width)
        return {
            "zoom": streams.uniform(*self.zoom),
            "angle": torch.deg2rad(streams.uniform(*self.degrees)),
            "shift": distance.unsqueeze(1) * torch.stack([way.sin(), way.cos()], 1),
        }

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement (B, H, W, 2) in pixels, y then x."""
        device = drawn["zoom"].device
        y = torch.arange(about.height, device=device, dtype=torch.float32).view(1, -1, 1)
        x = torch.arange(about.width, device=device, dtype=torch.float32).view(1, 1, -1)
        y, x = y - 0.5 * (about.height - 1), x - 0.5 * (about.width - 1)
        cos, sin = (
            (drawn["zoom"] * part).view(-1, 1, 1) for part in (drawn["angle"].cos(), drawn["angle"].sin())
        )
        down, right = drawn["shift"].view(-1, 2, 1, 1).unbind(1)
        return torch.stack([(cos - 1.0) * y + sin * x + down, (cos - 1.0) * x - sin * y + right], -1)
