"""Own noise: the image as if it had been taken once more, with the noise that it shows itself."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, per_image, within
from pydantic import Field
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from lamella_tem.perturbations.parameters import Chance

LEVELS = 8
"""Grey levels, with as many pixels each, at which an image's noise is taken."""
_FEWEST = 32
"""Pixels of a level, at least; a smaller image has fewer levels."""
_TO_SIGMA = 0.6744897501960817 * 6.0
"""Median of |N(0, 1)|, times the root of the sum of squares of the mask's outer product."""


class OwnNoise(Perturbation):
    """Adds white noise with the standard deviation that the image's own noise has at each grey level:

        y = x + f·σ(x̄)·N(0, 1)

    x̄ is the mean of 5 × 5 pixels. σ is taken from what the mask [1, −2, 1] ⊗ [1, −2, 1] leaves of the image: at
    `LEVELS` grey levels the median of its size over the flatter half of the pixels off the border, and a line between
    levels. With
    f = 1 images differ from one another as repeated exposures of one specimen do, whatever gamma they are displayed
    with; each has √2 times the noise of the original. Noise that neighbouring pixels share (scan lines, smoothing,
    compression) is underestimated.

    Source: the mask: J. Immerkær, "Fast noise variance estimation", Computer Vision and Image Understanding 64, 1996.

    >>> x = 0.5 + 0.05 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    >>> round((OwnNoise()(x) - x).std().item(), 2)
    0.05
    """

    family = "machine"
    identity: ClassVar = {"factor": (0.0, 0.0)}

    def __init__(
        self,
        *,
        factor: Annotated[
            Range, within(0.0, 4.0), Field(description="standard deviation of what is added over what is there, f")
        ] = (1.0, 1.0),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.factor = factor

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``factor`` (B,)."""
        return {"factor": streams.uniform(*self.factor)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The noisier image, unclipped."""
        sigma = noise_of(image.detach())
        return image + per_image(drawn["factor"], image) * sigma * streams.normal(*image.shape[1:])


def noise_of(image: Tensor) -> Tensor:
    """σ (B, C, H, W): the standard deviation of the white noise of every pixel, by its grey level.

    >>> clean = torch.linspace(0.2, 0.8, 256).expand(1, 1, 256, 256)
    >>> noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    >>> noise_of(clean + 0.2 * clean * noise)[0, 0, 128, [64, 128, 192]].round(decimals=2)  # 0.2 of 0.35, 0.5, 0.65
    tensor([0.0700, 0.1000, 0.1300])
    """
    flat = image.flatten(0, 1).unsqueeze(1).to(torch.float32)  # (B·C, 1, H, W)
    mean = avg_pool2d(pad(flat, [2] * 4, mode="replicate"), 5, stride=1)
    left = pad(flat, [1] * 4, mode="replicate").diff(n=2, dim=2).diff(n=2, dim=3).abs()
    around = pad(mean, [1] * 4, mode="replicate")
    down, along = (around.diff(n=1, dim=dim) for dim in (2, 3))
    slope = (down[..., 1:, 1:-1] + down[..., :-1, 1:-1]).abs() + (along[..., 1:-1, 1:] + along[..., 1:-1, :-1]).abs()
    grey, sigma = _levels(*(_inside(each) for each in (mean, left, slope)))
    return _between(mean.flatten(1), grey, sigma).view_as(image).to(image.dtype)


def _inside(values: Tensor) -> Tensor:
    """(N, P) of (N, 1, H, W): without the border, where the mask sees repeated pixels and so less noise."""
    for dim in (2, 3):
        if (size := values.shape[dim]) > 2:
            values = values.narrow(dim, 1, size - 2)
    return values.flatten(1)


def _levels(mean: Tensor, left: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Grey and σ of every level (N, L) of N images of P pixels, (N, P) each."""
    images, pixels = mean.shape
    levels = max(1, min(LEVELS, pixels // _FEWEST))
    order = mean.argsort(dim=1, stable=True)[:, : pixels - pixels % levels]

    def by_level(values: Tensor) -> Tensor:
        return values.gather(1, order).view(images, levels, -1)

    flattest = by_level(slope).argsort(dim=2, stable=True)
    flattest = flattest[..., : (flattest.shape[2] + 1) // 2]
    grey, left = (by_level(values).gather(2, flattest) for values in (mean, left))
    middle = (left.median(2).values - (-left).median(2).values) / 2.0  # of an even number, the mean of both
    return grey.mean(2), middle / _TO_SIGMA


def _between(mean: Tensor, grey: Tensor, sigma: Tensor) -> Tensor:
    """σ (N, P) on lines between levels; that of the outermost beyond them."""
    if grey.shape[1] == 1:
        return sigma.expand_as(mean)
    above = torch.searchsorted(grey.contiguous(), mean.contiguous()).clamp(1, grey.shape[1] - 1)
    low, high = grey.gather(1, above - 1), grey.gather(1, above)
    part = ((mean - low) / (high - low).clamp(min=1e-6)).clamp(0.0, 1.0)
    return torch.lerp(sigma.gather(1, above - 1), sigma.gather(1, above), part)
