"""Carbon contamination: hydrocarbons polymerised where the beam dwelt."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, aspect, grid, polarity


class Carbon(Perturbation):
    """Deposits carbon where a beam stood (a disc) or scanned (a rectangle with a thicker rim).

        τ(r) = t_c·S(r) / λ
        bright field  y = x·exp(−τ)          HAADF  y = x + η·τ·(1 − x)

    with t_c the thickness in nm, λ the inelastic mean free path in nm, η the brightness of carbon against the
    brightest material, and S the shape: 0 outside its support, 1 within a disc, and of a rectangle most at its rim,
    where it stays a little below 1. A disc is a disc in nm, also where pixels are not square.

    Source: mean free paths near those of light elements at 200 kV after Malis (Si 125 nm). Thickness, η and
    shapes are plausible defaults without a firm source.

    >>> image = torch.full((1, 1, 64, 64), 0.4)
    >>> bool((Carbon()(image) >= image).all())
    True
    """

    family = "sample"
    identity: ClassVar = {"thickness": (0.0, 0.0)}

    def __init__(
        self,
        *,
        thickness: Annotated[
            Range, within(0.0, 500.0), Field(description="thickness of the deposit, t_c (nm)")
        ] = (2.0, 40.0),
        mean_free_path: Annotated[
            Range, within(10.0, 1000.0), Field(description="inelastic mean free path in carbon, λ (nm)")
        ] = (125.0, 160.0),
        radius: Annotated[
            Range, within(0.01, 2.0), Field(description="radius or half side (share of the width)")
        ] = (0.05, 0.4),
        brightness: Annotated[
            Range, within(0.0, 1.0), Field(description="brightness of carbon in HAADF per τ, η")
        ] = (0.3, 0.9),
        rectangle: Annotated[
            float, within(0.0, 1.0), Field(description="chance of a scanned rectangle instead of a disc")
        ] = 0.5,
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.thickness = thickness
        self.mean_free_path = mean_free_path
        self.radius = radius
        self.brightness = brightness
        self.rectangle = rectangle

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``centre`` (B, 2) in shares of the image; all else (B,): sizes in shares of the width."""
        rectangle = streams.uniform(0.0, 1.0) < self.rectangle
        radius = streams.uniform(*self.radius)
        return {
            "thickness": streams.uniform(*self.thickness),
            "mean_free_path": streams.uniform(*self.mean_free_path),
            "brightness": streams.uniform(*self.brightness),
            "radius": radius,
            "flatness": torch.where(rectangle, streams.uniform(0.6, 1.4), torch.ones_like(radius)),
            "corner": torch.where(rectangle, 0.1 * radius, radius),
            "inside": torch.where(rectangle, streams.uniform(0.1, 0.6), torch.ones_like(radius)),
            "rim": radius * streams.uniform(0.1, 0.35),
            "centre": streams.uniform(0.0, 1.0, 2),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The contaminated image, unclipped."""
        depth = drawn["thickness"] / drawn["mean_free_path"]
        tau = per_image(depth, image) * support(drawn, about).unsqueeze(1)
        bright_field = image * torch.exp(-tau)
        haadf = image + per_image(drawn["brightness"], image) * tau * (1.0 - image)
        return torch.where(per_image(polarity(about), image) < 0.0, bright_field, haadf)


def support(drawn: dict[str, Tensor], about: About) -> Tensor:
    """S (B, H, W) in [0, 1]: ``inside`` within the outline, most at a rectangle's rim (≤ 1), exactly 0 beyond it."""
    rows, columns = grid(about, drawn["radius"].device)
    pick = {name: value.view(-1, 1, 1) for name, value in drawn.items() if value.ndim == 1}
    y = (rows - drawn["centre"][:, 0].view(-1, 1, 1) * about.height) * aspect(about).view(-1, 1, 1)
    x = columns - drawn["centre"][:, 1].view(-1, 1, 1) * about.width
    corner = pick["corner"] * about.width
    far_y = y.abs() - (pick["radius"] * pick["flatness"] * about.width - corner).clamp(min=0.0)
    far_x = x.abs() - (pick["radius"] * about.width - corner).clamp(min=0.0)
    outside = torch.sqrt(far_y.clamp(min=0.0).square() + far_x.clamp(min=0.0).square())
    distance = outside + torch.maximum(far_y, far_x).clamp(max=0.0) - corner  # signed, < 0 inside, px
    rim = (pick["rim"] * about.width).clamp(min=1.0)
    filled = pick["inside"] * _step(-distance / rim)
    ridge = (1.0 - pick["inside"]) * (1.0 - (distance / rim).square()).clamp(min=0.0).square()
    return (filled + ridge).clamp(max=1.0)


def _step(x: Tensor) -> Tensor:
    """A smooth step from 0 at x ≤ −1 to 1 at x ≥ 1."""
    x = (0.5 * (x + 1.0)).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)
