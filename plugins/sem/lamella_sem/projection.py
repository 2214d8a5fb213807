"""The projection head between an encoder and equation 9, and the standardisation that keeps its features apart."""

import torch
from torch import Tensor, nn

from lamella_sem.gather import gathered


class Standardise(nn.Module):
    """Every feature to mean 0 and variance 1 over the images of all processes: batch normalisation without memory.

    There are no running statistics and no scale: the head is used in training alone, and equation 9 has a temperature
    of its own. Images that are missing do not count.

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015; over all processes and after both layers of the head
    as in SimCLR (Chen et al., ICML 2020).

    >>> out = Standardise()(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([1.0, 1.0, 0.0]))
    >>> [round(value, 3) for value in out.flatten().tolist()[:2]]
    [-1.0, 1.0]
    """

    def forward(self, features: Tensor, there: Tensor, *, alone: bool = False) -> Tensor:
        """(R, D) features of images that are there (R,), 1 or 0; ``alone`` over the images of this process only."""
        over_all = _own if alone else _over_all
        wide = features.float() if features.dtype != torch.float64 else features
        weight = there.to(wide).unsqueeze(1)
        count = over_all(weight.sum(0)).clamp(min=1.0)
        centred = wide - over_all((wide * weight).sum(0)) / count
        variance = over_all((centred.square() * weight).sum(0)) / count
        return (centred * torch.rsqrt(variance + 1e-5)).to(features.dtype)


class ProjectionHead(nn.Sequential):
    """f of equation 9 before its norm: a hidden layer (none where ``hidden`` is 0) and a linear one.

    With ``standardise`` each of them is followed by `Standardise`, which also makes their biases needless.
    """

    def __init__(self, width: int, *, hidden: int, features: int, standardise: bool):
        layers: list[nn.Module] = []
        for out in (hidden, features) if hidden else (features,):
            if layers:
                layers.append(nn.ReLU())
            layers.append(nn.Linear(width, out, bias=not standardise))
            if standardise:
                layers.append(Standardise())
            width = out
        super().__init__(*layers)

    def forward(  # type: ignore[override]
        self, features: Tensor, there: Tensor | None = None, *, alone: bool = False
    ) -> Tensor:
        """(R, D′) of features (R, D); ``there`` (R,) says which images count, by default all.

        Every process has to call it, unless ``alone``: it then standardises over the images of this process.
        """
        there = features.new_ones(len(features)) if there is None else there
        for layer in self:
            features = layer(features, there, alone=alone) if isinstance(layer, Standardise) else layer(features)
        return features

    def alone(self, features: Tensor) -> Tensor:
        """`forward` for one process that has all the images, as in an evaluation, while the others do not call it."""
        return self(features, alone=True)


def _over_all(own: Tensor) -> Tensor:
    """The sum (D,) over all processes, with the gradient of the sum of their losses."""
    return gathered(own.view(1, 1, -1)).sum(1).squeeze(0)


def _own(own: Tensor) -> Tensor:
    return own
