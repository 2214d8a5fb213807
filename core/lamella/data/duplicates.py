"""Images of a set that show the same thing: copies, re-exports, turned or mirrored ones, repeated exposures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lamella.data.grey import grey

_SIDE = 32
"""Side of the thumbnail that stands for an image."""
ALIKE = 0.96
"""Correlation of two thumbnails from which they count as the same."""
_CHUNK = 512


@dataclass(frozen=True)
class Pair:
    """Two images that show the same."""

    first: int
    second: int
    likeness: float
    """Correlation of their thumbnails, 1 for copies, whatever their brightness and contrast."""
    turned: bool
    """Whether one is a turned or mirrored copy of the other."""


def thumbnail(image: np.ndarray) -> np.ndarray:
    """What stands for an image (H, W) or (H, W, C): (32, 32) float32 of length 1.

    The means of its rows and of its columns are 0: layers, data bars and shading, which all images of a product
    share, do not make two of them alike. A flat image is all 0 and like no other.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(grey(image), np.float32))
    small = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    strength = float(np.linalg.norm(small - small.mean()))
    small = small - small.mean(0) - small.mean(1, keepdims=True) + small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 1e-4 * max(strength, 1e-30) and length > 1e-6 else np.zeros_like(small)


def near_duplicates(thumbnails: Sequence[np.ndarray], *, alike: float = ALIKE) -> list[Pair]:
    """The pairs that show the same, the most alike first.

    Every thumbnail is compared with every other in all eight ways to turn and mirror it. Shifted or cropped views of
    one place are not found: they need the group columns.

    >>> image = np.random.default_rng(0).random((64, 64))
    >>> near_duplicates([thumbnail(image), thumbnail(np.rot90(image) * 3 + 1), thumbnail(image[::-1, ::2] * 0)])
    [Pair(first=0, second=1, likeness=1.0, turned=True)]
    """
    if len(thumbnails) < 2:
        return []
    small = np.stack(thumbnails)
    plain = small.reshape(len(small), -1)
    found: dict[tuple[int, int], Pair] = {}
    for way in range(8):
        for i, j, likeness in _close(plain, _turned(small, way).reshape(plain.shape), alike):
            if likeness > getattr(found.get((i, j)), "likeness", -1.0):
                found[i, j] = Pair(i, j, round(likeness, 4), way > 0)
    return sorted(found.values(), key=lambda pair: (-pair.likeness, pair.first, pair.second))


def clusters(pairs: Sequence[Pair], count: int) -> list[list[int]]:
    """The sets of two and more images that are joined by pairs, each in order.

    >>> clusters([Pair(0, 3, 1.0, False), Pair(3, 2, 1.0, False)], 5)
    [[0, 2, 3]]
    """
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        parent[root(pair.second)] = root(pair.first)
    members: dict[int, list[int]] = {}
    for i in range(count):
        members.setdefault(root(i), []).append(i)
    return [group for group in members.values() if len(group) > 1]


def _turned(small: np.ndarray, way: int) -> np.ndarray:
    """All thumbnails turned by ``way % 4`` quarters, mirrored first where ``way`` is 4 or more."""
    mirrored = small[:, :, ::-1] if way >= 4 else small
    return np.ascontiguousarray(np.rot90(mirrored, way % 4, axes=(1, 2)))


def _close(plain: np.ndarray, turned: np.ndarray, alike: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, correlation), i < j, of those that are alike."""
    for start in range(0, len(plain), _CHUNK):
        likeness = plain[start : start + _CHUNK] @ turned[start:].T
        rows, columns = np.nonzero(likeness >= alike)
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
            if i < j:
                yield start + i, start + j, float(likeness[i, j])
