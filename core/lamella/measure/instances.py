"""The objects of a label map: connected pixels of one class, with their size, place and thickness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from lamella.measure.thickness import thickness

_EIGHT = np.ones((3, 3), bool)
_ROWS = 1024
_SMALLEST = 4
MOST = 10_000
"""Objects of a class that are listed, the largest first: a map of noise has millions."""


@dataclass(frozen=True)
class Instance:
    """One object; lengths in nm where the pixel size is known, else nan."""

    label: str
    number: int
    """From 1 within its class, the largest first."""
    area_px: int
    area_nm2: float
    y: float
    """Centroid, in pixels from the middle of the upper left pixel."""
    x: float
    top: int
    left: int
    bottom: int
    """One past the last row, as `right` is one past the last column."""
    right: int
    diameter_nm: float
    """Of the disc of equal area."""
    thickness_nm: float
    """Distance along the normal from one side to the other: see `thickness`."""
    thickness_3s_nm: float
    on_border: bool
    """Whether it touches the border of the image, so that its size is only a part."""


def instances(label: np.ndarray, classes: Sequence[str], pixel_nm: tuple[float, float]) -> Iterator[Instance]:
    """The objects of every class, those of 4 pixels and more; diagonal neighbours belong together.

    Args:
        label: (H, W) class ids; 255 is no class.
        pixel_nm: nm per pixel in y and x; nan where unknown.

    >>> label = np.zeros((20, 80), np.uint8)
    >>> label[4:8, 10:70] = 1
    >>> film = [one for one in instances(label, ["ground", "film"], (0.5, 0.5)) if one.label == "film"][0]
    >>> film.area_nm2, film.y, film.x, round(film.thickness_nm, 1)
    (60.0, 5.5, 39.5, 2.0)
    """
    yield from counted_instances(label, classes, pixel_nm)[0]


def counted_instances(
    label: np.ndarray, classes: Sequence[str], pixel_nm: tuple[float, float]
) -> tuple[list[Instance], dict[str, int]]:
    """The objects as `instances` gives them, the `MOST` largest of a class, and how many of every class there are."""
    listed: list[Instance] = []
    total: dict[str, int] = {}
    for number, name in enumerate(classes):
        found, total[name] = _of_class(label == number, name, pixel_nm)
        listed += found
    return listed, total


def count_objects(mask: np.ndarray) -> int:
    """How many objects a mask (H, W) has: connected, at corners too, and no smaller than those that are listed."""
    return int((_areas(*ndimage.label(mask, _EIGHT))[1:] >= _SMALLEST).sum())


def _areas(numbered: np.ndarray, count: int) -> np.ndarray:
    """(count + 1,) pixels of the ground and of every object."""
    # Some rows at a time: bincount makes 64-bit integers of what it is given.
    rows = range(0, len(numbered), _ROWS)
    return np.sum([np.bincount(numbered[at : at + _ROWS].ravel(), minlength=count + 1) for at in rows], axis=0)


def _of_class(mask: np.ndarray, name: str, pixel_nm: tuple[float, float]) -> tuple[list[Instance], int]:
    numbered, count = ndimage.label(mask, _EIGHT)
    if count == 0:
        return [], 0
    areas = _areas(numbered, count)
    boxes = ndimage.find_objects(numbered)
    order = [int(i) for i in np.argsort(-areas[1:], kind="stable") + 1 if areas[i] >= _SMALLEST]
    listed = [
        _instance(numbered, i, boxes[i - 1], name, place, pixel_nm) for place, i in enumerate(order[:MOST], 1)
    ]
    return listed, len(order)


def _instance(numbered: np.ndarray, i: int, box: Any, name: str, place: int, pixel_nm: tuple[float, float]) -> Instance:
    rows, columns = box
    here = numbered[box] == i
    down, right = here.sum(1), here.sum(0)
    area = int(down.sum())
    square = pixel_nm[0] * pixel_nm[1]
    beside = tuple(
        (max(part.start - 2, 0), min(part.stop + 2, size)) for part, size in zip(box, numbered.shape, strict=True)
    )
    around = numbered[beside[0][0] : beside[0][1], beside[1][0] : beside[1][1]] == i
    middle, spread = (math.nan, math.nan) if math.isnan(square) else thickness(around, pixel_nm)
    return Instance(
        name, place, area, area * square,
        rows.start + _middle(down), columns.start + _middle(right),
        rows.start, columns.start, rows.stop, columns.stop,
        math.sqrt(4 * area * square / math.pi) if square == square else math.nan,
        middle, spread,
        rows.start == 0 or columns.start == 0 or rows.stop == numbered.shape[0] or columns.stop == numbered.shape[1],
    )  # fmt: skip


def _middle(counts: np.ndarray) -> float:
    """The mean place of pixels, by how many there are at each."""
    return float(counts @ np.arange(len(counts)) / counts.sum())
