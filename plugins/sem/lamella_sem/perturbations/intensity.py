"""Intensity: another contrast and brightness setting of the detector."""

from typing import Annotated, ClassVar

from lamella import About, Perturbation, Range, Streams, per_image, within
from pydantic import Field
from torch import Tensor


class SemIntensity(Perturbation):
    """Changes contrast about mid-grey, brightness and gamma, one setting for an image.

        y = clip(½ + c·(x − ½) + b)^γ

    Source: intensity of the paper's augmentation (section 2.3, which gives no ranges); the ranges are plausible
    defaults without a firm source.

    >>> import torch
    >>> image = torch.tensor([0.2, 0.4, 0.9]).view(1, 1, 1, 3)
    >>> bool((SemIntensity()(image).diff() > 0).all())
    True
    """

    family = "display"
    identity: ClassVar = {"contrast": (1.0, 1.0), "brightness": (0.0, 0.0), "gamma": (1.0, 1.0)}

    def __init__(
        self,
        *,
        contrast: Annotated[Range, within(0.1, 4.0), Field(description="factor about mid-grey, c")] = (0.7, 1.3),
        brightness: Annotated[Range, within(-0.5, 0.5), Field(description="offset, b (share of white)")] = (-0.1, 0.1),
        gamma: Annotated[Range, within(0.2, 5.0), Field(description="exponent of the display, γ")] = (0.8, 1.25),
        p: Annotated[float, within(0.0, 1.0), Field(description="chance that an image is perturbed")] = 1.0,
    ):
        super().__init__(p=p)
        self.contrast, self.brightness, self.gamma = contrast, brightness, gamma

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``contrast``, ``brightness``, ``gamma`` (B,)."""
        return {
            "contrast": streams.uniform(*self.contrast),
            "brightness": streams.uniform(*self.brightness),
            "gamma": streams.uniform(*self.gamma),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image under another setting."""
        contrast, brightness, gamma = (
            per_image(drawn[name], image) for name in ("contrast", "brightness", "gamma")
        )
        return (image + (contrast - 1.0) * (image - 0.5) + brightness).clamp(0.0, 1.0) ** gamma
