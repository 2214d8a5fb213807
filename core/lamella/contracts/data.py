"""Where images come from: the dataset contract and the modality that makes batches of them.

A dataset is a function with typed keyword parameters that returns a ``datasets.Dataset``; item i is
the same whatever the order or the number of processes. Its columns:

=============  =====================================================================================
``image``      ``datasets.Image`` (8 or 16 bit, grey or RGB); several views of one object may be stacked in it
               as channels, or stand in columns of their own
``label``      ``datasets.Image`` of class ids, 255 = ignored; or ``ClassLabel`` for classification, −1 = no label
``instance``   ``datasets.Image`` of object ids, none where 0 or less (optional)
``classes``    ``List(ClassLabel(names=…))``: the classes present; its names are those of the set
``pixel_nm``   two floats, nm per pixel in y and x (optional)
``name``       a string that stays with the sample (optional)
others         numbers a modality declares as metadata; strings to group by (lot, wafer, specimen …)
=============  =====================================================================================
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from lamella.contracts.batch import Batch


class Sample(NamedTuple):
    """One image as it was read, before any intensity mapping."""

    image: np.ndarray
    """(H, W) or (H, W, C), in the dtype of the file; (H, W, V) where it holds several views of one object."""
    label: np.ndarray | int | None
    """(H, W) class ids with 255 = ignored, or one class, or None."""
    instance: np.ndarray | None
    """(H, W) object ids, 0 = none."""
    key: int
    visit: int
    pixel_nm: tuple[float, float]
    """nm per pixel in y and x, nan where unknown."""
    meta: Mapping[str, float]
    name: str
    groups: Mapping[str, str] = {}
    """What it can be grouped by (lot, wafer, die …), by column."""
    views: tuple[str, ...] = ()
    """The names of the views along the last axis of ``image``, where the source names them; a missing one is not
    among them."""
    whole: np.ndarray | None = None
    """What ``image`` was cut from, where it is a crop or a tile: grey values are mapped by the whole image."""


@runtime_checkable
class Modality(Protocol):
    """An imaging technique: how its files become batches and pictures."""

    channels: int
    """How many channels its images have."""
    metadata: Mapping[str, float]
    """The per-image values it carries in ``Batch.meta``, each with what holds where it is unknown."""
    weak: Sequence[Mapping[str, Any]]
    """The default weak perturbation set, as specs; ``lamella init`` takes it where no set is called ``weak``."""

    def calibrate(self, images: Iterable[np.ndarray]) -> None:
        """Fix the intensity mapping from training images, where it depends on them."""

    def state(self) -> dict[str, Any]:
        """The intensity mapping as plain JSON values; it goes into the run folder and predict uses it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a mapping that `state` recorded."""

    def collate(self, samples: Sequence[Sample]) -> Batch | dict[str, Batch]:
        """Samples of one size as a batch, image float32 in [0, 1]."""

    def picture(self, image: Tensor) -> np.ndarray:
        """One image (C, H, W) in [0, 1] as (H, W, 3) uint8, as the report shows it."""
