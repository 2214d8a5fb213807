"""Where a scale bar lies in an image: a thin horizontal stroke of one grey value with square ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

_DEPTHS = (10, 30, 60, 90)
"""Grey values of 255 by which a bar may differ from the lightest or the darkest pixel."""
_SHORTEST, _SHARE = 12, 0.02
"""Pixels, and share of the width, that a bar has at least."""
_LONGEST = 0.95
_THICKEST = 0.4
"""Thickness over length."""
_RAGGED = 2
"""Pixels by which the ends of a bar's rows may differ."""
_CONTRAST = 40.0
"""Grey values between a bar and what is above and below it."""
_FREE = 0.7
"""Share of the bar's length with that contrast; text or specimen may touch the rest."""
_MOST = 60
"""Bars that are looked at: more of them are a texture."""


@dataclass(frozen=True)
class Bar:
    """A stroke that may be a scale bar."""

    top: int
    bottom: int
    left: float
    right: float
    ink: float
    """Its grey value, 0 to 255."""
    ground: float
    """The grey value around it."""
    gap: tuple[float, float] | None = None
    """Left and right of a gap for the text, where the bar is in two pieces."""

    @property
    def length(self) -> float:
        """In pixels, to a fraction of one."""
        return self.right - self.left


def find_bars(grey: np.ndarray) -> list[Bar]:
    """Every stroke of an image that may be a scale bar, longest first.

    Args:
        grey: (H, W) float32, 0 to 255.

    >>> grey = np.full((60, 100), 90, np.float32)
    >>> grey[50:54, 20:70] = 255
    >>> [(bar.top, bar.bottom, bar.left, bar.right) for bar in find_bars(grey)]
    [(50, 54, 20.0, 70.0)]
    """
    found: list[Bar] = []
    for light in (True, False):
        extreme = float(grey.max() if light else grey.min())
        for depth in _DEPTHS:
            mask = grey >= extreme - depth if light else grey <= extreme + depth
            for top, bottom, left, right in _strokes(mask):
                if any(_same(bar, top, bottom, left, right) for bar in found):
                    continue
                if (bar := _measured(grey, top, bottom, left, right)) is not None:
                    found.append(bar)
                if len(found) > _MOST:
                    return []
    return sorted([*found, *_in_two_pieces(found)], key=lambda bar: -bar.length)


def _same(bar: Bar, top: int, bottom: int, left: int, right: int) -> bool:
    ends = abs(bar.left - left) <= _RAGGED and abs(bar.right - right) <= _RAGGED
    return ends and top <= bar.bottom and bottom >= bar.top


def _strokes(mask: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of rows of long runs that lie over each other and end alike."""
    height, width = mask.shape
    shortest = max(_SHORTEST, int(_SHARE * width))
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    turns = np.diff(padded.ravel())
    starts, stops = np.flatnonzero(turns == 1) + 1, np.flatnonzero(turns == -1) + 1
    long = stops - starts >= shortest
    rows, lefts = np.divmod(starts[long], width + 2)
    rights = stops[long] - rows * (width + 2) - 1
    lefts -= 1
    open_: list[list[int]] = []  # top, last row, left, right
    order = np.argsort(rows, kind="stable")
    for row, left, right in zip(rows[order].tolist(), lefts[order].tolist(), rights[order].tolist()):
        for one in [one for one in open_ if one[1] < row - 1]:
            open_.remove(one)
            yield from _thin(one, width)
        for one in open_:
            if abs(one[2] - left) <= _RAGGED and abs(one[3] - right) <= _RAGGED:
                one[1], one[2], one[3] = row, min(one[2], left), max(one[3], right)
                break
        else:
            open_.append([row, row, left, right])
    for one in open_:
        yield from _thin(one, width)


def _thin(one: list[int], width: int) -> Iterator[tuple[int, int, int, int]]:
    top, last, left, right = one
    if last + 1 - top <= max(_THICKEST * (right - left), 3) and right - left <= _LONGEST * width:
        yield top, last + 1, left, right


def _measured(grey: np.ndarray, top: int, bottom: int, left: int, right: int) -> Bar | None:
    """The bar with its contrast and the exact places of its ends; None where it does not stand out."""
    height = len(grey)
    ink = float(np.median(grey[top:bottom, left:right]))
    if float(np.abs(grey[top:bottom, left:right] - ink).mean()) > 12:
        return None
    sides = [row for row in (top - 3, top - 2, bottom + 1, bottom + 2) if 0 <= row < height]
    above = [row for row in sides if row < top]
    below = [row for row in sides if row >= bottom]
    ground = float(np.median(np.concatenate([grey[row, left:right] for row in sides])))
    if abs(ink - ground) < _CONTRAST:
        return None
    for rows in (above, below):
        if rows and not max((np.abs(grey[row, left:right] - ink) >= _CONTRAST).mean() for row in rows) >= _FREE:
            return None
    inner = grey[top:bottom] if bottom - top < 4 else grey[top + 1 : bottom - 1]
    least = max(_CONTRAST / 2, 0.25 * abs(ink - ground))
    ends = [(_edge(row, left, -1, ink, least), _edge(row, right - 1, 1, ink, least)) for row in (inner.mean(0), *inner)]
    for side in zip(*ends):
        known = [end for end in side if end is not None]
        if side[0] is None or max(known) - min(known) > max(_RAGGED, 0.01 * (right - left)):
            return None
    assert ends[0][0] is not None and ends[0][1] is not None
    return Bar(top, bottom, ends[0][0], ends[0][1], ink, ground)


def _edge(profile: np.ndarray, inside: int, step: int, ink: float, least: float) -> float | None:
    """Where the bar ends, going outwards from its last pixel; None where the ground is too like it.

    The one or two pixels that are neither bar nor ground count by the share of them that is bar.
    """
    outside = inside + 3 * step
    if not 0 <= outside < len(profile):
        return None
    beyond = float(profile[outside])
    if abs(beyond - ink) < least:
        return None
    part = sum(
        float(np.clip((profile[inside + k * step] - beyond) / (ink - beyond), 0, 1)) for k in (1, 2)
    )  # fmt: skip
    inner = float(np.clip((profile[inside] - beyond) / (ink - beyond), 0, 1))
    edge = inside + 0.5 + step * (0.5 + part) - step * (1 - inner)
    return round(edge, 3)


def _in_two_pieces(found: list[Bar]) -> Iterator[Bar]:
    """Bars with a gap in the middle, where the text stands: ``|—— 500 µm ——|``."""
    for one in found:
        for other in found:
            gap = other.left - one.right
            level = abs(one.top - other.top) <= 1 and abs(one.bottom - other.bottom) <= 1
            alike = abs(one.length - other.length) <= 0.2 * one.length + 2
            if level and alike and 0 < gap < 3 * one.length and abs(one.ink - other.ink) < 20:
                yield replace(one, right=other.right, gap=(one.right, other.left))
