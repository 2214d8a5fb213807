"""Pieces of ink that stand on one line, as the letters beside a scale bar do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

INKED = 0.4
"""Share of ink from which a pixel counts as inked."""
_LEAST_HEIGHT = 6
"""Pixels of the smallest digit that can be read."""
_MOST_PIECES, _MOST_ON_LINE = 3000, 12
Box = tuple[int, int, int, int]
"""Top, bottom, left, right."""


@dataclass(frozen=True)
class Line:
    """Pieces of ink that stand on one line, the first of which may be a digit."""

    ink: np.ndarray
    """(h, w) from 0 (ground) to 1, of these pieces alone."""
    faint: np.ndarray
    """(h, w), whatever there is."""
    boxes: list[Box]
    """Of the pieces, from left to right, within ``ink``."""
    top: int
    left: int
    """Where ``ink`` lies in the picture."""

    @property
    def height(self) -> int:
        """Of the first piece."""
        return self.boxes[0][1] - self.boxes[0][0]


def lines(faint: np.ndarray, tallest: float, floor: float = 0.0) -> Iterator[Line]:
    """For every piece of ink that may be the first digit of a number, itself and what follows it on its line.

    Args:
        faint: (H, W) from 0 (ground) to 1 (ink).
        tallest: pixels that a digit may be high.
        floor: how much ink counts as none: a bright specimen behind white letters has some.
    """
    ink = np.clip((faint - floor) / (1 - floor), 0, 1)
    numbered, count = ndimage.label(ink > INKED, np.ones((3, 3), bool))
    if not 0 < count <= _MOST_PIECES:
        return
    boxes = [(r.start, r.stop, c.start, c.stop) for r, c in ndimage.find_objects(numbered)]
    order = sorted((n for n in range(count) if max(boxes[n][1] - boxes[n][0], boxes[n][3] - boxes[n][2]) > 1),
                   key=lambda number: boxes[number][2])  # fmt: skip
    tops, bottoms = (np.array([boxes[number][side] for number in order], int) for side in (0, 1))
    for number in order:
        first = boxes[number]
        height, width = first[1] - first[0], first[3] - first[2]
        if not _LEAST_HEIGHT <= height <= tallest or width > 6 * height:
            continue
        level = np.flatnonzero((bottoms > first[0] + 0.3 * height) & (tops < first[1]))
        others = [order[i] for i in level]
        place = others.index(number)
        if any(_before(boxes[other], first) for other in others[:place]):
            continue
        members = [number]
        for other in others[place + 1 :]:
            if boxes[other][2] - max(boxes[one][3] for one in members) > 1.3 * height:
                break
            if _on_line(boxes[other], first):
                members.append(other)
            if len(members) == _MOST_ON_LINE:
                break
        if len(members) > 1 or width > 1.5 * height:
            yield _line(ink, faint, numbered, members, [boxes[one] for one in members])


def _before(box: Box, first: Box) -> bool:
    """Whether a piece stands so close before another on the same line that both are one text."""
    height = first[1] - first[0]
    gap = first[2] - box[3]
    if gap < -0.1 * height or abs(box[1] - first[1]) > 0.2 * height:
        return False
    digit = 0.6 * height <= box[1] - box[0] <= 1.5 * height and box[3] - box[2] <= 1.5 * height
    point = 0.07 * height <= min(box[1] - box[0], box[3] - box[2]) <= 0.3 * height
    return (digit and gap <= 0.8 * height) or (point and gap <= 0.45 * height)


def _on_line(box: Box, first: Box) -> bool:
    """Whether a piece may be a glyph, or the point, of a text that begins with ``first``."""
    height = first[1] - first[0]
    inside = first[0] - 0.35 * height <= box[0] and box[1] <= first[1] + 0.5 * height
    tall = box[1] - box[0] >= 0.35 * height
    point = min(box[1] - box[0], box[3] - box[2]) >= 0.07 * height and abs(box[1] - first[1]) <= 0.15 * height
    return inside and (tall or point) and box[1] > first[0] + 0.3 * height


def _line(
    ink: np.ndarray, faint: np.ndarray, numbered: np.ndarray, members: Sequence[int], boxes: Sequence[Box]
) -> Line:
    """Cut out some pieces with the soft pixels at their edges."""
    top, left = max(min(box[0] for box in boxes) - 1, 0), max(min(box[2] for box in boxes) - 1, 0)
    here = slice(top, max(box[1] for box in boxes) + 1), slice(left, max(box[3] for box in boxes) + 1)
    ours = np.isin(numbered[here], [member + 1 for member in members])
    soft = ndimage.binary_dilation(ours, np.ones((3, 3), bool)) & (ours | (numbered[here] == 0))
    shifted = [(box[0] - top, box[1] - top, box[2] - left, box[3] - left) for box in boxes]
    return Line(np.where(soft, ink[here], 0).astype(np.float32), faint[here], shifted, top, left)
