"""Detector MTF: a scintillator spreads every electron over its neighbours."""

from typing import Annotated, ClassVar

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, log_uniform


class DetectorMtf(Perturbation):
    """Damps fine detail by the modulation transfer function of a scintillator camera.

        y = F⁻¹(MTF·F(x)),    MTF(f) = 1 / (1 + (f/f_½)²)

    with f in cycles per pixel and f_½ where the contrast has halved. The mean is kept, no frequency is
    amplified, and the image is taken as periodic: it commutes with a circular shift. At infinite f_½ the
    image is returned as it is.

    Source: Lorentzian MTF, Grob et al., PMC3841286; the range of f_½ is a plausible default without a firm
    source.

    >>> image = torch.rand(1, 1, 16, 16)
    >>> (DetectorMtf()(image).mean() - image.mean()).abs() < 1e-6
    tensor(True)
    """

    family = "machine"
    identity: ClassVar = {"half": (float("inf"), float("inf"))}

    def __init__(
        self,
        *,
        half: Annotated[
            Range, within(0.01, float("inf")), Field(description="frequency of half contrast (cycles/px)")
        ] = (0.15, 0.5),
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.half = half

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``half`` (B,): the frequency of half contrast, cycles/px."""
        return {"half": log_uniform(streams, *self.half)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image as the detector transfers it, unclipped."""
        half = per_image(drawn["half"], image)
        transfer = mtf(about.height, about.width, half)
        damped = torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=(about.height, about.width))
        return torch.where(torch.isfinite(half), damped, image)


def mtf(height: int, width: int, half: Tensor) -> Tensor:
    """The MTF (B, 1, H, W//2 + 1) on the frequencies of ``torch.fft.rfft2``, for ``half`` (B, 1, 1, 1)."""
    y = torch.fft.fftfreq(height, device=half.device).view(1, 1, -1, 1)
    x = torch.fft.rfftfreq(width, device=half.device).view(1, 1, 1, -1)
    return 1.0 / (1.0 + (y.square() + x.square()) / half.square())
