"""Shot noise: electrons arrive one by one."""

from functools import partial
from typing import ClassVar

import torch
from lamella import About, Perturbation, Streams
from torch import Tensor

from lamella_tem.perturbations.compiled import Compiled, Kernel, gpu_kernels, noise_source, uniform
from lamella_tem.perturbations.detector import Dose, Pedestal
from lamella_tem.perturbations.parameters import Chance, log_uniform
from lamella_tem.perturbations.poisson import SPLIT, Counts, poisson, poisson_of_many


class ShotNoise(Perturbation):
    """Counts electrons instead of measuring brightness: Poisson noise of a dose over a hidden pedestal.

    For a clean image x in [0, 1], the dose D in e⁻/px at white and the pedestal b (the share of D that
    arrives where the display shows black):

        λ = D·(b + (1−b)·x)        expected electrons
        K = 1 / (D·(1−b))          display units per electron
        y = K·(Poisson(λ) − D·b)

    so that the mean of y is x and its variance (b + (1−b)·x) / (D·(1−b)²), before the clip. D is drawn with a
    uniform logarithm, b uniformly, both per image; every pixel of every channel takes one random number. At
    an infinite dose the image is returned as it is.

    Source: the camera model of EMVA 1288 (its photon-transfer line); I. Lobato et al., npj Comput. Mater.
    2024, s41524-023-01188-0 (shot noise in TEM and STEM). The ranges of dose and pedestal are plausible
    defaults without a firm source.

    >>> noisy = ShotNoise(dose=(100.0, 100.0), pedestal=(0.0, 0.0))(torch.full((1, 1, 64, 64), 0.5))
    >>> noisy.mean().round(decimals=1), bool(noisy.var() > 0.004)
    (tensor(0.5000), True)
    """

    family = "machine"
    identity: ClassVar = {"dose": (float("inf"), float("inf"))}

    def __init__(
        self,
        *,
        dose: Dose = (10.0, 500.0),
        pedestal: Pedestal = (0.0, 0.6),
        kernel: Kernel = "auto",
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.dose = dose
        self.pedestal = pedestal
        self.kernel = kernel

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``dose`` (B,) in e⁻/px and ``pedestal`` (B,)."""
        return {"dose": log_uniform(streams, *self.dose), "pedestal": streams.uniform(*self.pedestal)}

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The counted image, unclipped."""
        if (kernels := gpu_kernels(self.kernel, image)) is not None:
            return kernels.count_electrons(image, drawn["dose"], drawn["pedestal"], streams)
        _, channels, height, width = image.shape
        hashed = _count.wanted(self.kernel, image)
        source = noise_source(streams, channels * height, width, hashed=hashed)
        rows = torch.stack([drawn["dose"], drawn["pedestal"]], 1).unsqueeze(1)
        rows = rows.expand(-1, channels * height, -1).contiguous()
        many = drawn["dose"] * drawn["pedestal"] >= SPLIT
        return _count(image.flatten(1, 2), source, rows, kernel=self.kernel, easy=many).view_as(image)


def _counted(image: Tensor, source: Tensor, rows: Tensor, counts: Counts = poisson) -> Tensor:
    """Rows (B, R, W) counted, ``rows`` (B, R, 2) being dose and pedestal; pointwise, one kernel compiled."""
    dose, pedestal = rows[..., :1], rows[..., 1:]
    finite = dose < float("inf")
    dose = torch.where(finite, dose, torch.ones_like(dose))
    rate = dose * (pedestal + (1.0 - pedestal) * image)
    count = counts(rate, uniform(source, image.shape[2]))
    return torch.where(finite, (count / dose - pedestal) / (1.0 - pedestal), image)


# The second does for images of which no pixel expects fewer than `SPLIT` electrons.
_count = Compiled(_counted, partial(_counted, counts=poisson_of_many))
