"""Jitter: brightness and contrast, as photographs are augmented."""

from typing import Annotated, ClassVar

from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance


class Jitter(Perturbation):
    """Changes contrast about the image's mean x̄, then brightness: generic, not of any microscope.

        y = b·(x̄ + c·(x − x̄))

    On one channel hue and saturation have no meaning, so this is what is left of colour jitter. It is here for
    baselines made for photographs, to which the TEM sets are compared.

    Source: UniMatch (Yang et al., CVPR 2023), ColorJitter(0.5, 0.5, …) with probability 0.8.

    >>> import torch
    >>> bright = Jitter(brightness=(1.5, 1.5), contrast=(1.0, 1.0))(torch.full((1, 1, 8, 8), 0.4))
    >>> round(bright.mean().item(), 4)
    0.6
    """

    family = "generic"
    identity: ClassVar = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0)}

    def __init__(
        self,
        *,
        brightness: Annotated[Range, within(0.0, 4.0), Field(description="factor on all grey values, b")] = (0.5, 1.5),
        contrast: Annotated[Range, within(0.0, 4.0), Field(description="factor about the mean, c")] = (0.5, 1.5),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``brightness`` and ``contrast``, (B,) each."""
        return {"brightness": streams.uniform(*self.brightness), "contrast": streams.uniform(*self.contrast)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The jittered image, unclipped."""
        mean = image.mean((1, 2, 3), keepdim=True)
        mixed = mean + per_image(drawn["contrast"], image) * (image - mean)
        return per_image(drawn["brightness"], image) * mixed
