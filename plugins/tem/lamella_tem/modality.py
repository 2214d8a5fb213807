"""Transmission electron microscopy: one channel, bright field or HAADF, grey values in [0, 1]."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from lamella import Batch, Sample
from lamella.data.grey import grey, grey_ends
from lamella.errors import ConfigError, DataError
from pydantic import Field
from torch import Tensor

Mapped = Literal["dtype", "image", "data"]


class TemModality:
    """Micrographs of one channel, with polarity as metadata (+1 HAADF, −1 bright field).

    Grey values are mapped to [0, 1] by the range of the file's type (``dtype``), by the 0.1 and 99.9
    percentiles of each image (``image``; of the whole one where crops are trained on), or by those of all
    training images, with and without labels (``data``; recorded in the run and reused by predict).
    Floating-point images have no range of their own and need ``image`` or ``data``. Colour images are averaged
    over their channels first.

    >>> image = np.full((8, 8), 65535, np.uint16)
    >>> sample = Sample(image, None, None, 0, 0, (1.0, 1.0), {}, "white")
    >>> TemModality().collate([sample]).image.amax().item()
    1.0
    """

    channels = 1
    weak: Sequence[Mapping[str, Any]] = ({"name": "gain-noise", "pixel": (0.0, 0.01)},)

    def __init__(
        self,
        *,
        intensity: Annotated[Mapped, Field(description="what grey values are mapped by")] = "dtype",
        polarity: Annotated[Literal[-1, 1], Field(description="where files do not say: 1 HAADF, −1 bright field")] = 1,
    ):
        self.intensity = intensity
        self.metadata = {"polarity": float(polarity)}
        self._range: tuple[float, float] | None = None

    def calibrate(self, images: Iterable[np.ndarray]) -> None:
        """Fix the grey range from training images, where ``intensity`` is ``data``."""
        if self.intensity == "data":
            ends = np.array([grey_ends(image) for image in images])
            self._range = float(ends[:, 0].min()), float(ends[:, 1].max())

    def state(self) -> dict[str, Any]:
        """The mapping, as JSON values."""
        return {"intensity": self.intensity, "range": None if self._range is None else list(self._range)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.intensity = state["intensity"]
        self._range = None if state["range"] is None else (state["range"][0], state["range"][1])

    def ends(self, sample: Sample) -> tuple[float, float]:
        """The grey values that become 0 and 1.

        Raises:
            ConfigError: ``data`` before `calibrate` or `restore`.
            DataError: floating-point pixels under ``dtype``.
        """
        if self.intensity == "image":
            return grey_ends(sample.image, sample.whole, sample.key)
        if self.intensity == "data":
            if self._range is None:
                raise ConfigError("modality 'tem': intensity = 'data' has not seen the training images yet")
            return self._range
        if sample.image.dtype.kind == "f":
            raise DataError(
                f"{sample.name}: floating-point pixels have no range of their own, which intensity = 'dtype' goes by; "
                "give intensity = 'image' or 'data', also in the modality (a run with 'dtype' has to be trained again)"
            )
        return 0.0, float(np.iinfo(sample.image.dtype).max)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size as a batch."""
        return Batch.of(
            self._images(samples),
            label=_stacked([sample.label for sample in samples]),
            instance=_stacked([sample.instance for sample in samples]),
            key=torch.tensor([sample.key for sample in samples]),
            visit=torch.tensor([sample.visit for sample in samples]),
            pixel_nm=torch.tensor([sample.pixel_nm for sample in samples], dtype=torch.float32),
            meta={
                name: torch.tensor([sample.meta.get(name, unknown) for sample in samples], dtype=torch.float32)
                for name, unknown in self.metadata.items()
            },
        )

    def picture(self, image: Tensor) -> np.ndarray:
        """(C, H, W) in [0, 1] as grey (H, W, 3) uint8."""
        grey = (image.clamp(0, 1).mean(0) * 255).round().to(torch.uint8).numpy()
        return np.repeat(grey[..., None], 3, axis=2)

    def _images(self, samples: Sequence[Sample]) -> Tensor:
        """(B, 1, H, W) float32 in [0, 1]."""
        plain = {(sample.image.dtype.str, sample.image.ndim) for sample in samples} == {("|u1", 2)}
        if plain and self.intensity == "dtype":  # the usual case, several times faster in one piece
            stacked = torch.from_numpy(np.stack([sample.image for sample in samples]))
            return stacked.unsqueeze(1).to(torch.float32).div_(255.0)
        return torch.stack([self._image(sample) for sample in samples])

    def _image(self, sample: Sample) -> Tensor:
        pixels = grey(sample.image).astype(np.float32)
        low, high = self.ends(sample)
        span = high - low if high > low else 1.0
        return torch.from_numpy(np.clip((pixels - low) / span, 0.0, 1.0)).unsqueeze(0)


def _stacked(maps: Sequence[np.ndarray | int | None]) -> Tensor | None:
    """Label or instance maps as one int64 tensor; None unless every sample has one."""
    present = [np.asarray(m) for m in maps if m is not None]
    if len(present) < len(maps):
        return None
    stacked = np.stack(present)
    narrow = stacked.dtype in (np.uint8, np.int64)  # the types that torch widens itself, which is faster
    return torch.from_numpy(stacked if narrow else stacked.astype(np.int64)).to(torch.int64)
