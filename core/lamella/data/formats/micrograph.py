"""What a microscope's file says: pixels, their size in nm, and the facts of the exposure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

UNKNOWN_NM = (math.nan, math.nan)
_NM = {
    "pm": 1e-3, "a": 0.1, "å": 0.1, "angstrom": 0.1, "nm": 1.0, "nanometer": 1.0, "um": 1e3, "micron": 1e3,
    "micrometer": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "m": 1e9, "meter": 1e9,
}  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True)
class Facts:
    """What is known of an exposure beside its pixels; nan or an empty text where the file does not say."""

    magnification: float = math.nan
    voltage_kv: float = math.nan
    detector: str = ""
    instrument: str = ""
    maker: str = ""
    """Whose format the file is, as ``Gatan DM3``."""
    scale_bar: float = math.nan
    """Confidence with which the pixel size was read from a burnt-in scale bar; 0 where it was asked for and is not."""

    def numbers(self) -> dict[str, float]:
        """The known numbers by name, as they go into a sample's metadata."""
        found = {"magnification": self.magnification, "voltage_kv": self.voltage_kv, "scale_bar": self.scale_bar}
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def texts(self) -> dict[str, str]:
        """Every fact of the exposure as text; empty where unknown."""
        numbers = {name: "" if math.isnan(value) else f"{value:g}" for name, value in
                   (("magnification", self.magnification), ("voltage_kv", self.voltage_kv))}  # fmt: skip
        return {"maker": self.maker, "instrument": self.instrument, "detector": self.detector, **numbers}

    def filled(self, other: Facts) -> Facts:
        """These facts, with those of ``other`` where these are unknown."""
        return Facts(
            other.magnification if math.isnan(self.magnification) else self.magnification,
            other.voltage_kv if math.isnan(self.voltage_kv) else self.voltage_kv,
            self.detector or other.detector,
            self.instrument or other.instrument,
            self.maker or other.maker,
            other.scale_bar if math.isnan(self.scale_bar) else self.scale_bar,
        )


@dataclass(frozen=True)
class Micrograph:
    """One frame of a file."""

    image: np.ndarray
    """(H, W) or (H, W, C), with the data bar if the file has one burnt in."""
    pixel_nm: tuple[float, float] = UNKNOWN_NM
    """nm per pixel in y and x."""
    facts: Facts = field(default_factory=Facts)
    rows: int | None = None
    """Rows of the specimen, where the file says that a data bar follows below them."""
    frames: int = 1
    """How many frames ``image`` holds along its first axis, where it is a stack that was read whole."""
    cut: int = 0
    """How many rows of a data bar were taken off below ``image``."""

    def without_bar(self, rows: int | None = None) -> Micrograph:
        """Cut to the specimen: to ``rows``, else to what the file says; the pixel size stays what it is."""
        rows = self.rows if rows is None else rows
        if rows is None:
            return self
        return replace(self, image=self.image[:rows], rows=None, cut=self.cut + len(self.image[rows:]))


def nm_per(unit: Any) -> float | None:
    """How many nm a unit of length has; None for what is no unit of length.

    >>> nm_per("µm"), nm_per("A"), nm_per("1/nm")
    (1000.0, 0.1, None)
    """
    text = str(unit or "").strip().lower().replace("µ", "u").replace("μ", "u").replace("\\u00b5", "u")
    return _NM.get(text)


def positive(value: Any) -> float:
    """A number above 0; nan for anything else, as a file's header may hold it."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if 0 < number < math.inf else math.nan


def quantity(text: Any) -> float:
    """The number a text begins with, with k for a thousand: ``"x500"``, ``"50.00 K X"``, ``"5000 Volt"``.

    >>> quantity("x500"), quantity("50.00 K X"), quantity("5000 Volt")
    (500.0, 50000.0, 5000.0)
    """
    import re

    match = re.match(r"[x×]?\s*([0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(k\b|K\b)?", str(text).strip())
    return positive(match[1].replace(",", ".")) * (1000 if match[2] else 1) if match else math.nan


def asked(read: Callable[[], _T], otherwise: _T) -> _T:
    """What a header says, or ``otherwise`` where it lacks the entry or holds something else in its place."""
    try:
        return read()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, SyntaxError):  # XML's
        return otherwise
