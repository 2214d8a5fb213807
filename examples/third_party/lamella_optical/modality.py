"""Optical inspection: three channels, with the kind of illumination as metadata."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from lamella import Batch, Sample
from lamella.errors import DataError
from pydantic import Field
from torch import Tensor

BRIGHT_FIELD, DARK_FIELD = 1.0, -1.0
"""Values of ``meta["illumination"]``."""


class OpticalModality:
    """Colour images in [0, 1] with ``meta["illumination"]``: +1 bright field, −1 dark field.

    Each channel is divided by its white: the range of the file's type (``white = "dtype"``), or the 99.9
    percentile of the channel over all training images (``white = "data"``: a white balance, recorded in the
    run and reused by predict). Grey images get three equal channels.

    >>> modality = OpticalModality(white="data")
    >>> modality.calibrate([np.full((4, 4, 3), (200, 100, 50), np.uint8)])
    >>> modality.state()["levels"]
    [200.0, 100.0, 50.0]
    """

    channels = 3
    weak: Sequence[Mapping[str, Any]] = ({"name": "illumination-gradient", "strength": (0.0, 0.1)},)

    def __init__(
        self,
        *,
        white: Annotated[Literal["dtype", "data"], Field(description="what each channel is divided by")] = "dtype",
        illumination: Annotated[
            Literal[-1, 1], Field(description="where the data do not say: 1 bright field, −1 dark field")
        ] = 1,
    ):
        self.white = white
        self.metadata = {"illumination": float(illumination)}
        self._levels: list[float] | None = None

    def calibrate(self, images: Iterable[np.ndarray]) -> None:
        """Fix the white of every channel from training images, where ``white`` is ``data``."""
        if self.white == "data":
            tops = [np.percentile(in_colour(image), 99.9, axis=(0, 1)) for image in images]
            self._levels = [max(float(level), 1.0) for level in np.max(tops, axis=0)]

    def state(self) -> dict[str, Any]:
        """The mapping, as JSON values."""
        return {"white": self.white, "levels": self._levels}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.white, self._levels = state["white"], state["levels"]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size as a batch; image (B, 3, H, W) float32 in [0, 1]."""
        labels = [np.asarray(sample.label) for sample in samples if sample.label is not None]
        labelled = len(labels) == len(samples)
        return Batch.of(
            torch.stack([self._image(sample) for sample in samples]),
            label=torch.from_numpy(np.stack(labels).astype(np.int64)) if labelled else None,
            key=torch.tensor([sample.key for sample in samples]),
            visit=torch.tensor([sample.visit for sample in samples]),
            pixel_nm=torch.tensor([sample.pixel_nm for sample in samples], dtype=torch.float32),
            meta={
                name: torch.tensor([sample.meta.get(name, unknown) for sample in samples])
                for name, unknown in self.metadata.items()
            },
        )

    def picture(self, image: Tensor) -> np.ndarray:
        """(3, H, W) in [0, 1] as colours (H, W, 3) uint8."""
        return (image.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()

    def _image(self, sample: Sample) -> Tensor:
        if sample.image.dtype.kind == "f":
            raise DataError(f"{sample.name}: optical images have 8 or 16 bit, not floating-point pixels")
        top = float(np.iinfo(sample.image.dtype).max)
        levels = np.array([top] * 3 if self._levels is None else self._levels, np.float32)
        image = np.clip(in_colour(sample.image).astype(np.float32) / levels, 0.0, 1.0)
        return torch.from_numpy(image).movedim(-1, 0).contiguous()


def in_colour(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) as (H, W, 3)."""
    if image.ndim == 2 or image.shape[2] < 3:
        return np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=2)
    return image[..., :3]
