"""Scanning electron microscopy at review: one defect, imaged at high and at low magnification."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from lamella import Batch, Sample
from lamella.data.grey import grey_ends, grey_levels
from lamella.errors import ConfigError, DataError
from pydantic import Field
from torch import Tensor

VIEWS = ("high", "low")
"""The magnifications, as the keys of a batch."""


class SemModality:
    """Pairs of images of one defect, as a batch for each of ``high`` and ``low`` with equal keys.

    A sample holds its magnifications along the last axis: named by its source, or else high first. One that lacks a
    magnification gives a black image with ``present`` 0, which trainers leave out. ``meta`` carries ``present`` (1 or
    0) and ``die``, a number that is the same for defects of one die (or of whatever group ``same`` names) and is the
    sample's own where the source names no such group; and ``alike``, likewise of the group that ``alike`` names (one
    pattern), and −1 where there is none. The pixel size of each magnification is that of its file, or of the columns
    ``high_nm`` and ``low_nm`` where there are any.

    Grey values are mapped to [0, 1] by the range of the file's type (``dtype``) or by the 0.1 and 99.9 percentiles of
    each image (``image``). Floating-point images need ``image``.

    >>> image = np.stack([np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)], 2)
    >>> batch = SemModality().collate([Sample(image, 3, None, 0, 0, (1.0, 1.0), {"low_nm": 4.0}, "D1")])
    >>> [(view, one.image.mean().item(), one.pixel_nm[0, 0].item()) for view, one in batch.items()]
    [('high', 1.0, 1.0), ('low', 0.0, 4.0)]
    """

    channels = 1
    metadata: Mapping[str, float] = {"present": 1.0, "die": -1.0, "alike": -1.0}
    weak: Sequence[Mapping[str, Any]] = ({"name": "reframe", "zoom": (0.9, 1.0), "shift": (0.0, 0.02)},)

    def __init__(
        self,
        *,
        intensity: Annotated[
            Literal["dtype", "image"], Field(description="what grey values are mapped by")
        ] = "dtype",
        same: Annotated[str, Field(description="group column whose members are no negatives of each other")] = "die",
        alike: Annotated[str, Field(description="group column whose members are hard negatives")] = "pattern",
    ):
        self.intensity, self.same, self.alike = intensity, same, alike

    def calibrate(self, images: Iterable[np.ndarray]) -> None:
        """Nothing here depends on the training images."""

    def state(self) -> dict[str, Any]:
        """The mapping, as JSON values."""
        return {"intensity": self.intensity, "same": self.same, "alike": self.alike}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.intensity, self.same = state["intensity"], state["same"]
        self.alike = state.get("alike", self.alike)

    def collate(self, samples: Sequence[Sample]) -> dict[str, Batch]:
        """Samples of one size as a batch for each magnification; raises `ConfigError` for a crop out of two of them."""
        label, dies = _labels(samples), torch.tensor([_group(sample, self.same, sample.key) for sample in samples])
        alike = torch.tensor([_group(sample, self.alike, -1) for sample in samples])
        key, visit = (torch.tensor([getattr(sample, what) for sample in samples]) for what in ("key", "visit"))
        planes = [_planes(sample, sample.image) for sample in samples]
        for sample, plane in zip(samples, planes):
            _check_crop(sample, plane)
        wholes = [{} if sample.whole is None else _planes(sample, sample.whole) for sample in samples]
        out = {}
        for view in VIEWS:
            there = [plane.get(view) for plane in planes]
            out[view] = Batch.of(
                torch.stack([self._image(*one, view) for one in zip(there, [w.get(view) for w in wholes], samples)]),
                label=label,
                key=key,
                visit=visit,
                pixel_nm=torch.tensor([_pixel_nm(sample, view) for sample in samples], dtype=torch.float32),
                meta={"present": torch.tensor([float(p is not None) for p in there]), "die": dies, "alike": alike},
            )
        return out

    def picture(self, image: Tensor) -> np.ndarray:
        """(C, H, W) in [0, 1] as grey (H, W, 3) uint8."""
        grey = (image.clamp(0, 1).mean(0) * 255).round().to(torch.uint8).numpy()
        return np.repeat(grey[..., None], 3, axis=2)

    def _image(self, plane: np.ndarray | None, whole: np.ndarray | None, sample: Sample, view: str) -> Tensor:
        """(1, H, W) float32 in [0, 1], by the grey range of the whole plane; black where there is none."""
        if plane is None:
            return torch.zeros(1, *sample.image.shape[:2])
        if self.intensity == "image":
            low, high = grey_ends(plane, whole, (sample.key, view))
        elif plane.dtype.kind == "f":
            raise DataError(
                f"{sample.name}: floating-point pixels have no range of their own, which intensity = 'dtype' goes by; "
                "train with intensity = 'image' in the modality (a run with 'dtype' has to be trained again)"
            )
        else:
            low, high = 0.0, float(np.iinfo(plane.dtype).max)
        scaled = (plane.astype(np.float32) - low) / (high - low if high > low else 1.0)
        return torch.from_numpy(np.clip(scaled, 0.0, 1.0)).unsqueeze(0)


def _group(sample: Sample, column: str, unknown: int) -> int:
    """The number of the group that a sample belongs to, ``unknown`` where its source names none."""
    group = sample.groups.get(column)
    return unknown if group is None else _number(f"{column} {group}")


def _planes(sample: Sample, image: np.ndarray) -> dict[str, np.ndarray]:
    """The (H, W) images that are there, by magnification, of a sample's pixels or of what they were cut from."""
    if sample.views:
        if unknown := [view for view in sample.views if view not in VIEWS]:
            raise DataError(f"{sample.name}: the modality 'sem' knows the views high and low, not {unknown[0]!r}")
        return {view: image[..., place] for place, view in enumerate(sample.views)}
    if image.ndim == 2:
        return {"high": image}
    if image.shape[2] == 2:
        return {"high": image[..., 0], "low": image[..., 1]}
    return {"high": grey_levels(image)}  # colours, of one magnification


def _check_crop(sample: Sample, planes: Mapping[str, np.ndarray]) -> None:
    """Raise `ConfigError` where one window was cut out of both images though their pixels are of different size."""
    if sample.whole is None or len(planes) < 2:
        return
    high, low = (_pixel_nm(sample, view)[0] for view in VIEWS)
    if abs(high - low) > 1e-3 * high:  # not so where either is unknown
        raise ConfigError(
            f"{sample.name}: [fit] crop cuts the same window out of both images, which shows two places at {high:g} "
            f"and {low:g} nm/px; leave crop out and bring the images to one size, a multiple of the patch"
        )


def _labels(samples: Sequence[Sample]) -> Tensor | None:
    """(B,) int64 classes (or (B, H, W) maps); None unless every sample has one."""
    labels = [sample.label for sample in samples if sample.label is not None]
    if len(labels) < len(samples):
        return None
    return torch.from_numpy(np.stack([np.asarray(label).astype(np.int64) for label in labels]))


def _pixel_nm(sample: Sample, view: str) -> tuple[float, float]:
    known = sample.meta.get(f"{view}_nm")
    if known is not None:
        return known, known
    return sample.pixel_nm if view == "high" else (float("nan"), float("nan"))


@lru_cache(maxsize=1 << 16)
def _number(text: str) -> int:
    """A stable 63-bit number for a name."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
