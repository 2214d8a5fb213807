"""Kornia's own augmentations as perturbations: seeded per image, with labels and trust that follow."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lamella.errors import ContractError

if TYPE_CHECKING:
    from lamella.contracts.kornia_adapter import KorniaPerturbation


@dataclass(frozen=True)
class KorniaComponent:
    """A Kornia class with its parameters; calling it builds the perturbation.

    Light on purpose: a hook can return it without importing torch.
    """

    target: str
    parameters: tuple[tuple[str, Any], ...]

    def __call__(self) -> KorniaPerturbation:
        """Build the perturbation; raises `ContractError` where the adapter does not admit the class."""
        from lamella.contracts.kornia_adapter import KorniaPerturbation

        module, _, name = self.target.partition(":")
        try:
            cls = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ContractError(
                f"lamella.kornia: {self.target!r} is not an importable class; write it as "
                "'kornia.augmentation:RandomGaussianBlur'"
            ) from error
        return KorniaPerturbation(cls, dict(self.parameters))


def kornia(target: str, **parameters: Any) -> KorniaComponent:
    """A Kornia augmentation class as a component: return it from a hook, or call it to build it.

    Each image is drawn under its own stream, so the result does not depend on the batch; label, trust and
    instances follow geometry, and what comes from outside the image is ``IGNORE`` with weight 0. Classes that
    change the image's size, mix images or need more than an image are refused when built.

    >>> import lamella, torch
    >>> from lamella import Batch, Chain, Streams
    >>> flip = lamella.kornia("kornia.augmentation:RandomHorizontalFlip", p=0.5)
    >>> Chain([flip()])(Batch.of(torch.zeros(2, 1, 8, 8)), Streams(torch.arange(2))).image.shape
    torch.Size([2, 1, 8, 8])
    """
    return KorniaComponent(target, tuple(parameters.items()))
