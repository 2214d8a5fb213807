"""Amorphous layer: what the ion beam leaves of the crystal at both side walls of the foil."""

import math
from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance


class AmorphousLayer(Perturbation):
    """Mixes the image with a blurred copy of itself and adds the speckle of amorphous material.

        y = (1 − f)·x + f·(G_σ ∗ x) + s·n

    f = 2·t_a/t is the share of the foil that is amorphous (t_a per side), σ the blur of that share in px, n
    band-limited noise of unit standard deviation. The image is mirrored at its border: the blur keeps the
    mean and the constants, and never raises the variance.

    Source: t_a = 23 nm at 30 kV and 10 nm at 10 kV, independent of current, ISTFA 2004 p. 563; 1–3 nm at
    2–5 kV, t = 30–100 nm, σ and speckle are plausible defaults without a firm source.

    >>> layer = AmorphousLayer(speckle=(0.0, 0.0))
    >>> layer(torch.full((1, 1, 16, 16), 0.5)).sub(0.5).abs().max() < 1e-6
    tensor(True)
    """

    family = "sample"
    identity: ClassVar = {"fraction": (0.0, 0.0), "speckle": (0.0, 0.0)}

    def __init__(
        self,
        *,
        fraction: Annotated[
            Range, within(0.0, 1.0), Field(description="amorphous share of the foil, f = 2·t_a/t")
        ] = (0.05, 0.6),
        blur: Annotated[
            Range, within(0.1, 64.0), Field(description="blur of the amorphous share, σ (px)")
        ] = (2.0, 8.0),
        speckle: Annotated[
            Range, within(0.0, 0.5), Field(description="standard deviation of the speckle, s (display units)")
        ] = (0.005, 0.03),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.fraction = fraction
        self.blur = blur
        self.speckle = speckle

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``fraction``, ``blur`` (px) and ``speckle``, (B,) each."""
        return {
            "fraction": streams.uniform(*self.fraction),
            "blur": streams.uniform(*self.blur),
            "speckle": streams.uniform(*self.speckle),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image seen through the layer, unclipped."""
        blurred = mirrored_blur(image, drawn["blur"])
        fraction, speckle = per_image(drawn["fraction"], image), per_image(drawn["speckle"], image)
        noise = speckle_noise(streams, about.height, about.width).unsqueeze(1)
        return torch.lerp(image, blurred, fraction) + speckle * noise


def speckle_noise(streams: Streams, height: int, width: int) -> Tensor:
    """(B, H, W): noise without the highest frequencies, mean 0 and standard deviation 1, wrapped around."""
    noise = streams.normal(height, width)
    for axis in (1, 2):
        noise = 0.5 * noise + 0.25 * (noise.roll(1, axis) + noise.roll(-1, axis))
    return noise * (8.0 / 3.0)  # Σ of the squared weights is (3/8)²


def mirrored_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """``image`` (B, C, H, W) blurred by a Gaussian of σ (B,) px, mirrored behind its border pixels.

    Each axis is one product with a symmetric matrix whose rows and columns sum to 1.
    """
    across = _matrix(image.shape[-1], sigma)
    down = across if image.shape[-2] == image.shape[-1] else _matrix(image.shape[-2], sigma)
    return down.unsqueeze(1) @ image @ across.unsqueeze(1)


def _matrix(size: int, sigma: Tensor) -> Tensor:
    """(B, N, N): the Gaussian of σ (B,) with its mirror images, doubly stochastic."""
    reach, period = max(1, math.ceil(192 / size)), 2 * size  # 3σ of the widest blur; mirrored twice it is itself again
    turns = torch.arange(-reach - 1, reach + 1, device=sigma.device).view(-1, 1)
    distances = torch.arange(period, device=sigma.device) + period * turns  # (turns, 2N)
    scale = (math.sqrt(0.5) / sigma).view(-1, 1, 1)
    of_distance = torch.exp(-(scale * distances).square()).sum(1)  # (B, 2N)
    place = torch.arange(size, device=sigma.device)
    apart, mirrored = (place.view(-1, 1) - place) % period, place.view(-1, 1) + place + 1
    weight = of_distance[:, apart] + of_distance[:, mirrored]
    return weight / weight.sum(2, keepdim=True)
