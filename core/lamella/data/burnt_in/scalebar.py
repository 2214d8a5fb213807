"""The pixel size from a scale bar that is burnt into an image, with a confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lamella.data.burnt_in.barline import Bar, find_bars
from lamella.data.burnt_in.inklines import Box, lines
from lamella.data.burnt_in.lettering import read_length
from lamella.data.grey import grey
from lamella.errors import DataError

SURE = 0.5
"""Confidence below which a reading is refused."""
_MOST_HEIGHT = 0.15
"""Of a digit: share of the image."""
_FLOORS = (0.0, 0.5)
"""How much ink counts as none: a bright specimen behind white letters has some."""
_SMALL = 10
"""Pixels of a digit below which a point may run into its neighbours."""
_NEAR = 2.5
"""Heights of a digit between bar and text."""
_AGREE = 0.05
"""By how much two bars of one image may differ."""
_ROOM = 90
"""Pixels around a bar where text is looked for at least."""


@dataclass(frozen=True)
class ScaleBar:
    """A scale bar that was found and read."""

    text: str
    """As ``100 nm``."""
    nm: float
    pixels: float
    """Length of the bar."""
    confidence: float
    """0 to 1."""
    box: Box
    """Top, bottom, left and right of the bar."""
    text_box: Box

    @property
    def pixel_nm(self) -> float:
        """nm per pixel."""
        return self.nm / self.pixels


def read_scale_bar(image: np.ndarray, name: str = "the image") -> ScaleBar:
    """The scale bar of an image.

    Args:
        image: (H, W) or (H, W, C) as it was read, with its data bar if it has one.
        name: what to call it in an error message.

    Raises:
        DataError: there is none, none that can be read with confidence, or several that disagree.
    """
    bars, found = scale_bars(image)
    if not bars:
        raise DataError(f"{name}: no scale bar was found")
    if not found:
        raise DataError(
            f"{name}: no length such as '100 nm' was read beside any of {len(bars)} strokes like scale bars"
        )
    best = found[0]
    if best.confidence < SURE:
        raise DataError(
            f"{name}: the scale bar may say {best.text!r}, but that is not sure enough ({best.confidence:.2f} < {SURE})"
        )
    for other in found[1:]:
        if other.confidence >= SURE and abs(math.log(other.pixel_nm / best.pixel_nm)) > _AGREE:
            raise DataError(
                f"{name}: two scale bars disagree, {best.text!r} on {best.pixels:.1f} pixels and "
                f"{other.text!r} on {other.pixels:.1f}"
            )
    return best


def scale_bars(image: np.ndarray) -> tuple[list[Bar], list[ScaleBar]]:
    """Strokes that may be scale bars, and those of them beside which a length was read, surest first."""
    grey = _grey(image)
    if grey is None:
        return [], []
    bars = find_bars(grey)
    found = [one for bar in bars for one in _read(grey, bar)]
    whole = [one for one in found if not any(_part(one, other) for other in found)]
    return bars, sorted(whole, key=lambda one: -one.confidence)


def _part(one: ScaleBar, other: ScaleBar) -> bool:
    """Whether a bar is one of the two pieces of another, with the text between them."""
    inside = other.box[2] <= one.box[2] and one.box[3] <= other.box[3] and one.pixels < other.pixels
    return inside and one.text_box == other.text_box and one.box[0] < other.box[1] and other.box[0] < one.box[1]


def _grey(image: np.ndarray) -> np.ndarray | None:
    """Grey values from 0 to 255; None for a flat image."""
    pixels = grey(image).astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    return None if high <= low or min(pixels.shape) < 32 else (pixels - low) * np.float32(255 / (high - low))


def _read(grey: np.ndarray, bar: Bar) -> Iterator[ScaleBar]:
    """The surest length beside a bar, if there is any."""
    ink, top, left = _surroundings(grey, bar)
    best: ScaleBar | None = None
    tallest = min(_MOST_HEIGHT * grey.shape[0], bar.length)
    for line in (line for floor in _FLOORS for line in lines(ink, tallest, floor)):
        reading = read_length(line)
        if reading is None:
            continue
        rows = slice(reading.box[0] + top, reading.box[1] + top)
        columns = slice(reading.box[2] + left, reading.box[3] + left)
        distance = _distance(bar, rows, columns) / line.height
        if distance > _NEAR:
            continue
        sure = _confidence(reading.cost, reading.margin, distance) * (1 if line.height >= _SMALL else 0.6)
        if best is None or sure > best.confidence:
            box = (bar.top, bar.bottom, round(bar.left), round(bar.right))
            best = ScaleBar(
                reading.text, reading.nm, bar.length, sure, box, (rows.start, rows.stop, columns.start, columns.stop)
            )
    if best is not None:
        yield best


def _confidence(cost: float, margin: float, distance: float) -> float:
    like = 1 / (1 + math.exp((cost - 0.3) / 0.04))
    clear = 1 - math.exp(-max(margin, 0) / 0.12)
    return like * clear * (1 - 0.1 * min(distance / _NEAR, 1))


def _surroundings(grey: np.ndarray, bar: Bar) -> tuple[np.ndarray, int, int]:
    """What is around a bar from 0 (ground) to 1 (ink) without the bar, and its first row and column."""
    room = max(_ROOM, int(0.1 * grey.shape[0]))
    aside = max(2 * _ROOM, int(bar.length))
    top, bottom = max(bar.top - room, 0), min(bar.bottom + room, grey.shape[0])
    left, right = max(int(bar.left) - aside, 0), min(int(bar.right) + aside + 1, grey.shape[1])
    ink = np.clip((grey[top:bottom, left:right] - bar.ground) / (bar.ink - bar.ground), 0, 1)
    pieces = [(bar.left, bar.right)] if bar.gap is None else [(bar.left, bar.gap[0]), (bar.gap[1], bar.right)]
    for start, stop in pieces:
        rows = slice(max(bar.top - 1 - top, 0), bar.bottom + 1 - top)
        ink[rows, max(math.floor(start) - 1 - left, 0) : math.ceil(stop) + 1 - left] = 0
    return ink, top, left


def _distance(bar: Bar, rows: slice, columns: slice) -> float:
    """Pixels between a text and the bar it belongs to; 0 where they touch."""
    if bar.gap is not None:
        inside = bar.gap[0] - 2 <= columns.start and columns.stop <= bar.gap[1] + 2
        return 0.0 if inside and rows.start < bar.bottom and rows.stop > bar.top else math.inf
    if rows.start < bar.bottom and rows.stop > bar.top and columns.start < bar.right and columns.stop > bar.left:
        return math.inf  # a stroke of the text itself
    down = max(bar.top - rows.stop, rows.start - bar.bottom, 0)
    aside = max(bar.left - columns.stop, columns.start - bar.right, 0)
    return math.hypot(down, aside)
