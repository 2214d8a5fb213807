"""The grey range of an image; of a large one remembered, so that its crops and tiles are mapped as it is."""

from collections.abc import Hashable
from math import gcd

import numpy as np

_KEPT, _LOOKS = 4096, 256
_known: dict[tuple[Hashable, ...], tuple[float, float]] = {}


def grey_ends(image: np.ndarray, whole: np.ndarray | None = None, key: Hashable = None) -> tuple[float, float]:
    """The 0.1 and 99.9 percentiles of the pixels of an image, or of the whole that it was cut out of.

    Of an image in colour those of the mean of its channels.

    Sorting a large image takes longer than reading a crop of it, so what was found of a whole is kept for its next
    crop: by ``key``, which says whose it is, the shape, the type and a few hundred pixels all over it.

    >>> low, high = grey_ends(np.arange(1001))
    >>> round(low), round(high)
    (1, 999)
    """
    if whole is None:
        return _percentiles(image)
    name = (key, whole.shape, whole.dtype.str, _looks(whole).tobytes())
    if name not in _known:
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[name] = _percentiles(whole)
    return _known[name]


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W) of an image: the mean of its channels in float32, where it has some."""
    return image.mean(2, dtype=np.float32) if image.ndim == 3 else image


def grey_levels(image: np.ndarray) -> np.ndarray:
    """(H, W) of an image in its own type: the mean of its channels, rounded where levels are whole numbers.

    >>> grey_levels(np.array([[[1, 2, 2]]], np.uint8)), grey_levels(np.array([[[1.0, 2.0]]]))
    (array([[2]], dtype=uint8), array([[1.5]]))
    """
    mean = grey(image)
    return (np.rint(mean) if image.dtype.kind in "iu" else mean).astype(image.dtype)


def _percentiles(image: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(grey(image), (0.1, 99.9)).tolist()
    return low, high


def _looks(image: np.ndarray) -> np.ndarray:
    """Pixels all over an image: every so many-th, by a step that meets every column."""
    step = max(1, image.size // _LOOKS)
    while gcd(step, image.size // len(image)) > 1:
        step += 1
    return image.flat[::step]
