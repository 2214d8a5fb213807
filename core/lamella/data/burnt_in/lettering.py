"""Reading ``100 nm`` beside a scale bar: glyphs are compared with those of a few fonts, within a small grammar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lamella.data.burnt_in import glyphs
from lamella.data.burnt_in.glyphs import Segment
from lamella.data.burnt_in.inklines import INKED, Box, Line
from lamella.data.formats.micrograph import nm_per

_UNITS = {"n": "nm", "µ": "µm", "u": "µm", "m": "mm", "p": "pm"}
_PRIOR = {"nm": 0.0, "µm": 0.0, "mm": 0.1, "pm": 0.25, "Å": 0.15}
"""What a unit costs beside its glyphs: some are seldom seen on a bar."""
_BEAM = 40


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


def read_length(line: Line) -> Reading | None:
    """The best length that begins with the first piece of a line; None where there is none."""
    top, bottom, _, _ = line.boxes[0]
    height = bottom - top
    cuts = glyphs.cuts(line.ink, line.boxes, height)
    segments = glyphs.segments(line.ink, cuts, top, bottom)
    if not segments:
        return None
    inked = np.asarray((line.ink > INKED).any(0))
    found = _best(_parsed(cuts, segments, glyphs.costs(segments, height), inked), segments)
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
class _Partial:
    text: str
    cost: float
    glyphs: int
    taken: tuple[int, ...]
    """Numbers of its segments."""


def _parsed(
    cuts: Sequence[int], segments: Sequence[Segment], costs: Sequence[dict[str, float]], inked: np.ndarray
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


def _best(found: Sequence[_Partial], segments: Sequence[Segment]) -> Reading | None:
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
