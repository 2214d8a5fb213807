"""Reading ``100 nm`` beside a scale bar: glyphs are compared with those of a few fonts, within a small grammar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lamella.data.micrograph import nm_per

INKED = 0.4
"""Share of ink from which a pixel counts as inked."""
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
_UNITS = {"n": "nm", "µ": "µm", "u": "µm", "m": "mm", "p": "pm"}
_PRIOR = {"nm": 0.0, "µm": 0.0, "mm": 0.1, "pm": 0.25, "Å": 0.15}
"""What a unit costs beside its glyphs: some are seldom seen on a bar."""
_LEAST_HEIGHT = 6
"""Pixels of the smallest digit that can be read."""
_MOST_PIECES, _MOST_ON_LINE = 3000, 12
_MOST_CUTS = 40
_BEAM = 40
_WORST = 0.65
"""Cost of a glyph that no glyph may exceed."""
Box = tuple[int, int, int, int]
"""Top, bottom, left, right."""


@dataclass(frozen=True)
class Reading:
    """A length that was read."""

    text: str
    nm: float
    cost: float
    """Mean over the glyphs: 0 for a perfect likeness, 1 for none."""
    margin: float
    """By how much the next best reading that means something else costs more, in total."""
    box: Box
    glyphs: list[Box]
    whole: int
    """How many gaps there are between digits, where no point parts them."""


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


def read_length(line: Line) -> Reading | None:
    """The best length that begins with the first piece of a line; None where there is none."""
    top, bottom, _, _ = line.boxes[0]
    height = bottom - top
    cuts = _cuts(line.ink, line.boxes, height)
    segments = _segments(line.ink, cuts, top, bottom)
    if not segments:
        return None
    inked = np.asarray((line.ink > INKED).any(0))
    found = _best(_parsed(cuts, segments, _costs(segments, height), inked), segments)
    if found is None or _goes_on(line.boxes, found.box, height) or _lost_ink(line, found):
        return None
    box = found.box
    return replace(found, box=(box[0] + line.top, box[1] + line.top, box[2] + line.left, box[3] + line.left))


def _goes_on(boxes: Sequence[Box], read: Box, height: int) -> bool:
    """Whether a glyph follows so close that what was read is a part of a word."""
    return any(-1 <= box[2] - read[3] <= 0.25 * height and box[1] - box[0] >= 0.5 * height for box in boxes)


def _lost_ink(line: Line, found: Reading) -> bool:
    """Whether a gap that was read as nothing holds something: a faint point, or a digit that touches the specimen."""
    top, bottom, height = line.boxes[0][0], line.boxes[0][1], line.height
    foot = bottom - max(height // 4, 2)
    for place, (one, other) in enumerate(zip(found.glyphs, found.glyphs[1:])):
        gap = line.faint[top : bottom + 1, one[3] : other[2]]
        faint = max(0.25, 1.2 * float(gap[: foot - top].max(initial=0)))  # what is above a point is ground
        if other[2] - one[3] > 0.25 * height and place < found.whole and gap[foot - top :].max(initial=0) > faint:
            return True
        if other[2] - one[3] > 0.4 * height and (gap[:, 1:-1] > 0.8).mean() > 0.04:
            return True
    return False


@dataclass(frozen=True)
class _Segment:
    first: int
    last: int
    """Numbers of the cuts that it lies between."""
    box: Box
    shape: np.ndarray
    """(SIDE²,) of zero mean and unit length."""
    place: np.ndarray
    """Top and bottom over the height of a digit, logarithm of width over height."""


def _cuts(ink: np.ndarray, boxes: Sequence[Box], height: int) -> list[int]:
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


def _segments(ink: np.ndarray, cuts: Sequence[int], top: int, bottom: int) -> list[_Segment]:
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
            found.append(_Segment(first, last, box, shape, _place(box, top, bottom)))
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


def _costs(segments: Sequence[_Segment], height: int) -> list[dict[str, float]]:
    """What it costs to take each segment for each glyph."""
    size = min(_SIZES, key=lambda size: abs(math.log(size / height)))
    names, shapes, places = _templates(size)
    unlike = 1 - np.stack([one.shape for one in segments]) @ shapes.T  # (segments, templates)
    apart = np.abs(np.stack([one.place for one in segments])[:, None] - places[None])  # (segments, templates, 3)
    slack = np.array([1 / height, 1 / height, 0.1], np.float32)
    total = unlike + np.clip(apart - slack, 0, None) @ np.array([1.2, 1.2, 0.35], np.float32)
    costs: list[dict[str, float]] = []
    for segment, row in zip(segments, total):
        best: dict[str, float] = {}
        for name, cost in zip(names, row.tolist()):
            if cost <= _WORST and cost < best.get(name, math.inf):
                best[name] = cost
        if _is_point(segment, height):
            best["."] = 0.1
        costs.append(best)
    return costs


def _is_point(segment: _Segment, height: int) -> bool:
    top, bottom, left, right = segment.box
    small = bottom - top <= max(0.3 * height, 2) and right - left <= max(0.3 * height, 2)
    return small and abs(float(segment.place[1])) <= max(0.12, 1.5 / height)


@dataclass(frozen=True)
class _Partial:
    text: str
    cost: float
    glyphs: int
    taken: tuple[int, ...]
    """Numbers of its segments."""


def _parsed(
    cuts: Sequence[int], segments: Sequence[_Segment], costs: Sequence[dict[str, float]], inked: np.ndarray
) -> list[_Partial]:
    """Every whole ``NUMBER UNIT`` that begins at the first cut, by way of the cheapest glyphs."""
    starting: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        starting.setdefault(segment.first, []).append(number)
    waiting: dict[int, list[_Partial]] = {0: [_Partial("", 0.0, 0, ())]}
    whole: list[_Partial] = []
    for at in range(len(cuts)):
        for partial in sorted(waiting.get(at, []), key=lambda one: one.cost / max(one.glyphs, 1))[:_BEAM]:
            for start in _next_cuts(at, cuts, inked) if partial.text else [at]:
                for number in starting.get(start, []):
                    for glyph, cost in costs[number].items():
                        text = partial.text + glyph
                        if not _allowed(text):
                            continue
                        longer = _Partial(text, partial.cost + cost, partial.glyphs + 1, (*partial.taken, number))
                        if _unit(text) is not None:
                            whole.append(longer)
                        waiting.setdefault(segments[number].last, []).append(longer)
    return whole


def _next_cuts(at: int, cuts: Sequence[int], inked: np.ndarray) -> Iterator[int]:
    """The cut itself, and the one after a gap in which there is nothing."""
    yield at
    if at + 1 < len(cuts) and not inked[cuts[at] : cuts[at + 1]].any():
        yield at + 1


def _allowed(text: str) -> bool:
    """Whether a text may go on to be a number with a unit."""
    digits = text.rstrip("nmµupÅA")
    unit = text[len(digits) :]
    if unit not in ("", *_UNITS, *(f"{prefix}m" for prefix in _UNITS), "Å", "A"):
        return False
    whole, point, part = digits.partition(".")
    good = whole.isdigit() and len(whole) <= 4 and (not point or part.isdigit() or (part == "" and not unit))
    leading = whole.startswith("0") and len(whole) > 1
    return bool(good and not leading and len(part) <= 2 and not (unit and float(digits) == 0))


def _unit(text: str) -> str | None:
    unit = text.lstrip("0123456789.")
    if unit in ("Å", "A"):
        return "Å"
    return _UNITS[unit[0]] if len(unit) == 2 else None


def _unusual(number: str) -> float:
    """What a number costs that is seldom seen on a bar: those of 1, 2 and 5 cost nothing."""
    digits = number.replace(".", "").strip("0")
    if digits in ("1", "2", "5"):
        return 0.0
    return 0.1 if len(digits) == 1 or digits in ("25", "15", "75", "12") else 0.5


def _best(found: Sequence[_Partial], segments: Sequence[_Segment]) -> Reading | None:
    """The cheapest reading, with its margin to the next that means something else."""
    by_nm: dict[float, tuple[float, _Partial, str]] = {}
    for one in found:
        unit = _unit(one.text)
        number = one.text.rstrip("nmµupÅA")
        nm = float(number) * (nm_per(unit) or math.nan)
        total = one.cost + _PRIOR[unit or ""] + _unusual(number) - 0.25 * one.glyphs  # a longer text explains more
        key = round(nm, 6)
        if key not in by_nm or total < by_nm[key][0]:
            by_nm[key] = (total, one, f"{number} {unit}")
    if not by_nm:
        return None
    ranked = sorted(by_nm.items(), key=lambda item: item[1][0])
    nm, (total, one, text) = ranked[0]
    margin = ranked[1][1][0] - total if len(ranked) > 1 else 1.0
    boxes = [segments[number].box for number in one.taken]
    box = (min(b[0] for b in boxes), max(b[1] for b in boxes), boxes[0][2], boxes[-1][3])
    whole = 0 if "." in one.text else sum(glyph.isdigit() for glyph in one.text) - 1
    extra = _PRIOR[_unit(one.text) or ""] + _unusual(one.text.rstrip("nmµupÅA"))
    return Reading(text, nm, (one.cost + extra) / one.glyphs, margin, box, boxes, whole)
