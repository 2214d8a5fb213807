"""Where the data bar begins that a microscope burns in below an image."""

import numpy as np

from lamella.data.grey import grey

_MOST = 0.3
"""Share of the height a bar may take."""
_LEAST = 0.015
_GROUND = 0.45
"""Share of a row of the bar that has the colour of its ground; the rest is text."""
_ABOVE = 0.3
"""Share of the first row above that may have it too: the bar ends abruptly."""
_NEAR = 8
"""Grey values of 255 that count as the same: JPEG leaves that much around text."""
_EXTREME = 24
"""Grey values by which the ground may differ from black or white."""
_BELOW = 2
"""Rows of the picture that some instruments leave below the bar."""


def find_bar(image: np.ndarray) -> int | None:
    """Rows of the specimen above a data bar that is found at the bottom; None where there is none.

    A bar is a band over the whole width that has one grey value but for its text and frame, and ends abruptly.

    Args:
        image: (H, W) or (H, W, C).

    >>> image = np.random.default_rng(0).integers(60, 200, (200, 300), np.uint8)
    >>> image[180:] = 0
    >>> image[186:194, 20:90:3] = 255
    >>> find_bar(image)
    180
    """
    pixels = grey(image)
    low, high = float(pixels.min()), float(pixels.max())
    if high <= low or len(pixels) < 32:
        return None
    pixels = (pixels.astype(np.float32) - low) * (255 / (high - low))
    ends = (len(pixels) - below for below in range(_BELOW + 1))
    return next((rows for end in ends if (rows := _top(pixels[:end])) is not None), None)


def _top(grey: np.ndarray) -> int | None:
    """The first row of a bar that ends with the image; None where there is none."""
    height = len(grey)
    foot = grey[height - max(int(_LEAST * height), 3) :]
    ground = float(np.bincount(foot.round().astype(np.int64).ravel(), minlength=256)[1:-1].argmax() + 1)
    ground = max((0.0, ground, 255.0), key=lambda value: int((np.abs(foot - value) <= 1).sum()))
    if min(ground, 255 - ground) > _EXTREME:
        return None
    rows = height
    while rows > 0 and _of_bar(grey[rows - 1], ground):
        rows -= 1
    fits = _LEAST * height <= height - rows <= _MOST * height
    if not fits or (np.abs(grey[rows - 1] - ground) <= _NEAR).mean() > _ABOVE or not _has_text(grey[rows:], ground):
        return None
    return rows


def _of_bar(row: np.ndarray, ground: float) -> bool:
    """A row of ground and text, or of a frame line."""
    if (np.abs(row - ground) <= _NEAR).mean() >= _GROUND:
        return True
    line = np.median(row)
    return bool((np.abs(row - line) <= _NEAR).mean() >= 0.97 and abs(line - ground) > 100)


def _has_text(bar: np.ndarray, ground: float) -> bool:
    inked = float((np.abs(bar - ground) > 80).mean())
    return 0.002 < inked < 0.5
