"""Shot noise of secondary electrons."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, per_image, within
from pydantic import Field
from torch import Tensor


class SemShotNoise(Perturbation):
    """Counts secondary electrons: Poisson noise in its normal limit, over the dark grey that black stands for.

    For a clean image x in [0, 1], the dose D in electrons per pixel at white and the share b of it at black:

        λ = D·(b + (1 − b)·x),    y = x + √λ·n / (D·(1 − b)),    n normal

    Mean and variance are Poisson's exactly; below some ten electrons per pixel its skewness is missing. D is drawn
    with a uniform logarithm. At an infinite dose the image is returned as it is.

    Source: counting statistics of secondary electrons (L. Reimer, Scanning Electron Microscopy, Springer 1998); the
    ranges are plausible defaults without a firm source.

    >>> noisy = SemShotNoise(dose=(50.0, 50.0), black=(0.0, 0.0))(torch.full((1, 1, 64, 64), 0.5))
    >>> round(noisy.std().item(), 1)
    0.1
    """

    family = "machine"
    identity: ClassVar = {"dose": (float("inf"), float("inf"))}

    def __init__(
        self,
        *,
        dose: Annotated[
            Range, within(1.0, float("inf")), Field(description="electrons per pixel at white, D (e⁻/px)")
        ] = (30.0, 300.0),
        black: Annotated[Range, within(0.0, 0.9), Field(description="share of the dose at black, b")] = (0.0, 0.4),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.dose, self.black = dose, black

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``inverse`` (B,), one over the dose, and ``black`` (B,)."""
        low, high = (-math.log(end) for end in reversed(self.dose))
        if math.isinf(low):  # without an upper end there is no noise
            return {"inverse": 0.0 * streams.uniform(0.0, 1.0), "black": streams.uniform(*self.black)}
        return {"inverse": streams.uniform(low, high).exp(), "black": streams.uniform(*self.black)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The counted image, unclipped."""
        inverse, black = (per_image(drawn[name], image) for name in ("inverse", "black"))
        relative = (black + (1.0 - black) * image).clamp(min=0.0) * inverse  # λ/D²
        return image + torch.sqrt(relative) / (1.0 - black) * streams.normal(*image.shape[1:])
