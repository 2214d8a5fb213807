"""The one container in which images, labels and their trust travel together."""

from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = 255
"""The label of a pixel that counts nowhere: unlabelled, outside the image, under a data bar."""


class Batch(NamedTuple):
    """Images with everything that has to move when they move; changed with ``_replace``.

    A named tuple, because Accelerate, ``pin_memory`` and ``torch.compile`` know named tuples. Fields that a
    sample does not have are None for the whole batch. A modality with several views of one object yields
    ``dict[str, Batch]`` with equal keys.

    >>> batch = Batch.of(torch.zeros(2, 1, 8, 8), label=torch.zeros(2, 8, 8, dtype=torch.int64))
    >>> batch.image.shape, batch.weight.min().item(), batch.key.tolist()
    (torch.Size([2, 1, 8, 8]), 1.0, [0, 1])
    """

    image: Tensor
    """(B, C, H, W) float32 in [0, 1]."""
    label: Tensor | None
    """(B, H, W) int64, a class or ``IGNORE``; (B,) for classification; None where there are no labels."""
    weight: Tensor | None
    """Like ``label``, float32 in [0, 1]: how far the label is trusted (1 = annotated by a person)."""
    instance: Tensor | None
    """(B, H, W) int64, 0 = no object."""
    key: Tensor
    """(B,) int64, the stable identity of the sample."""
    visit: Tensor
    """(B,) int64, how often the sampler has yielded this sample before."""
    pixel_nm: Tensor
    """(B, 2) float32, nm per pixel in y and x; nan where unknown."""
    meta: dict[str, Tensor]
    """Further per-image values (B, ...), declared by the modality (polarity: +1 HAADF, −1 bright field).

    Where crops are larger than their images also ``inside`` (B, 2) int64: how many rows and columns, from the top left,
    are the image's own; what follows is padding.
    """

    @classmethod
    def of(
        cls,
        image: Tensor,
        *,
        label: Tensor | None = None,
        weight: Tensor | None = None,
        instance: Tensor | None = None,
        key: Tensor | None = None,
        visit: Tensor | None = None,
        pixel_nm: Tensor | None = None,
        meta: dict[str, Tensor] | None = None,
    ) -> "Batch":
        """A batch from an image alone: keys count up, visits are 0, pixel sizes unknown, labels trusted."""
        count, device = image.shape[0], image.device
        if label is not None and weight is None:
            weight = (label != IGNORE).to(torch.float32)
        return cls(
            image=image,
            label=label,
            weight=weight,
            instance=instance,
            key=torch.arange(count, device=device) if key is None else key,
            visit=torch.zeros(count, dtype=torch.int64, device=device) if visit is None else visit,
            pixel_nm=torch.full((count, 2), torch.nan, device=device) if pixel_nm is None else pixel_nm,
            meta={} if meta is None else meta,
        )

    def select(self, index: Tensor | slice) -> "Batch":
        """The images at ``index`` with everything that belongs to them."""
        parts = [None if field is None else field[index] for field in self[:-1]]
        return Batch(*parts, meta={name: value[index] for name, value in self.meta.items()})  # type: ignore[arg-type, misc]
