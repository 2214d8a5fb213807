"""Glyphs of digits and units as a few fonts draw them, and how unlike them a piece of ink is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lamella.data.burnt_in.inklines import INKED, Box

_SIDE = 16
"""Glyphs are compared at this size."""
_SIZES = (9, 14, 22, 40)
"""Heights of a digit, in pixels, at which fonts are drawn."""
_FONTS = (
    "", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf",
    "STIXGeneral.ttf", "STIXGeneralBol.ttf",
)  # fmt: skip
"""Of matplotlib; the first is Pillow's own."""
_GLYPHS = "0123456789nmµupÅA"
_MOST_CUTS = 40
_WORST = 0.65
"""Cost of a glyph that no glyph may exceed."""


@dataclass(frozen=True)
class Segment:
    first: int
    last: int
    """Numbers of the cuts that it lies between."""
    box: Box
    shape: np.ndarray
    """(SIDE²,) of zero mean and unit length."""
    place: np.ndarray
    """Top and bottom over the height of a digit, logarithm of width over height."""


def cuts(ink: np.ndarray, boxes: Sequence[Box], height: int) -> list[int]:
    """Columns where a glyph may begin or end: the edges of the pieces, and thin places of wide ones."""
    cuts: set[int] = set()
    for top, bottom, left, right in boxes:
        cuts |= {left, right}
        if right - left > 0.75 * height:
            column = ink[top:bottom, left:right].sum(0)
            inner = np.arange(2, len(column) - 2)
            thin = inner[(column[inner] <= column[inner - 1]) & (column[inner] <= column[inner + 1])]
            thin = thin[column[thin] <= 0.6 * column.max()]
            cuts |= {left + int(at) for at in thin}
    ordered = sorted(cuts)
    return ordered[:_MOST_CUTS]


def segments(ink: np.ndarray, cuts: Sequence[int], top: int, bottom: int) -> list[Segment]:
    """What lies between any two cuts that are as far apart as a glyph is wide."""
    height = bottom - top
    above, below = max(top - height // 3, 0), bottom + height // 2
    found = []
    for first, left in enumerate(cuts):
        for last in range(first + 1, len(cuts)):
            right = cuts[last]
            if right - left > 1.6 * height:
                break
            patch = ink[above:below, left:right]
            rows, columns = np.flatnonzero((patch > INKED).any(1)), np.flatnonzero((patch > INKED).any(0))
            if len(rows) == 0 or columns[0] > 0.25 * height or patch.shape[1] - 1 - columns[-1] > 0.25 * height:
                continue
            if len(columns) < columns[-1] - columns[0] + 1 - 0.15 * height:
                continue  # a gap inside: two glyphs
            box = (above + rows[0], above + rows[-1] + 1, left + columns[0], left + columns[-1] + 1)
            shape = _shape(ink, box)
            found.append(Segment(first, last, box, shape, _place(box, top, bottom)))
    return found


def _shape(ink: np.ndarray, box: Box) -> np.ndarray:
    from PIL import Image

    top, bottom, left, right = box
    image = Image.fromarray(np.ascontiguousarray(ink[top:bottom, left:right], np.float32))
    flat = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX if bottom - top > _SIDE else
                                   Image.Resampling.BILINEAR), np.float32).ravel()  # fmt: skip
    flat = flat - flat.mean()
    norm = float(np.linalg.norm(flat))
    return flat / norm if norm > 1e-3 else np.zeros_like(flat)


def _place(box: Box, top: int, bottom: int) -> np.ndarray:
    height = bottom - top
    return np.array([(box[0] - top) / height, (box[1] - bottom) / height,
                     math.log((box[3] - box[2]) / (box[1] - box[0]))], np.float32)  # fmt: skip


@lru_cache
def _templates(size: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Glyph, shape and place of every glyph of every font, drawn with digits of about ``size`` pixels."""
    names: list[str] = []
    shapes, places = [], []
    for file in _FONTS:
        font = _font(file, size)
        digit = _drawn(font, "0", size)
        rows = np.flatnonzero((digit > INKED).any(1))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        for glyph in _GLYPHS:
            drawn = _drawn(font, glyph, size)
            rows, columns = np.flatnonzero((drawn > INKED).any(1)), np.flatnonzero((drawn > INKED).any(0))
            box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
            names.append(glyph)
            shapes.append(_shape(drawn, box))
            places.append(_place(box, top, bottom))
    return names, np.stack(shapes), np.stack(places)


def _font(file: str, size: int) -> Any:
    from PIL import ImageFont

    points = size / 0.72
    if not file:
        return ImageFont.load_default(points)
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file), points)


def _drawn(font: Any, glyph: str, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    sheet = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(sheet).text((size, 3 * size), glyph, fill=255, font=font, anchor="ls")
    return np.asarray(sheet, np.float32) / 255


def costs(segments: Sequence[Segment], height: int) -> list[dict[str, float]]:
    """What it costs to take each segment for each glyph."""
    size = min(_SIZES, key=lambda size: abs(math.log(size / height)))
    names, shapes, places = _templates(size)
    unlike = 1 - np.stack([one.shape for one in segments]) @ shapes.T  # (segments, templates)
    apart = np.abs(np.stack([one.place for one in segments])[:, None] - places[None])  # (segments, templates, 3)
    slack = np.array([1 / height, 1 / height, 0.1], np.float32)
    total = unlike + np.clip(apart - slack, 0, None) @ np.array([1.2, 1.2, 0.35], np.float32)
    found: list[dict[str, float]] = []
    for segment, row in zip(segments, total):
        best: dict[str, float] = {}
        for name, cost in zip(names, row.tolist()):
            if cost <= _WORST and cost < best.get(name, math.inf):
                best[name] = cost
        if _is_point(segment, height):
            best["."] = 0.1
        found.append(best)
    return found


def _is_point(segment: Segment, height: int) -> bool:
    top, bottom, left, right = segment.box
    small = bottom - top <= max(0.3 * height, 2) and right - left <= max(0.3 * height, 2)
    return small and abs(float(segment.place[1])) <= max(0.12, 1.5 / height)
