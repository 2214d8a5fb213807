"""Text files that a microscope writes beside an image: Hitachi, JEOL and SEC."""

from __future__ import annotations

import math
import re
from pathlib import Path

from lamella.data.formats.micrograph import UNKNOWN_NM, Facts, nm_per, positive, quantity

_LONGEST = 1 << 20
_PAIR = re.compile(r"^\s*(\$*[\w ]+?)\s*[=:\t]\s*(.*?)\s*$")


def sidecar_of(image: Path) -> Path | None:
    """``NAME.txt`` or ``NAME.SUFFIX.txt`` beside an image."""
    for path in (image.with_suffix(".txt"), image.with_name(f"{image.name}.txt")):
        if path.is_file() and 0 < path.stat().st_size <= _LONGEST:
            return path
    return None


def read_sidecar(path: Path) -> tuple[tuple[float, float], Facts, int | None] | None:
    """Pixel size (nm), facts and rows of the specimen; None for a text that no microscope wrote."""
    text = _decoded(path.read_bytes())
    for mark, read in (("[SemImageFile]", _hitachi), ("[TemImageFile]", _hitachi), ("$CM_", _jeol),
                       ("[Image Info]", _sec)):  # fmt: skip
        if mark in text:
            return read(text)
    return None


def _decoded(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    return raw.decode("utf-8-sig", "replace")


def _pairs(text: str) -> dict[str, str]:
    """``KEY = value`` and ``KEY : value`` lines; the first of a name counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _PAIR.match(line):
            found.setdefault(match[1], match[2])
    return found


def _hitachi(text: str) -> tuple[tuple[float, float], Facts, int | None]:
    """Hitachi S, SU and TM: nm per pixel, and ``DataSize = 1280x960``, the scan without the data bar."""
    told = _pairs(text)
    size = quantity(told.get("PixelSize", ""))
    rows = re.fullmatch(r"\d+\s*[xX]\s*(\d+)", told.get("DataSize", ""))
    voltage = told.get("AcceleratingVoltage", "")
    facts = Facts(
        quantity(told.get("Magnification", "")),
        quantity(voltage) * (1.0 if "kv" in voltage.lower() else 1e-3),
        told.get("SignalName", ""),
        told.get("InstructName", "") or told.get("InstrumentName", ""),
        "Hitachi",
    )
    return (size, size), facts, int(rows[1]) if rows else None


def _jeol(text: str) -> tuple[tuple[float, float], Facts, int | None]:
    """JEOL SEM: the length of the marker over its pixels, and ``$CM_FULL_SIZE 1280 960``."""
    told = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
    marker = re.fullmatch(r"([\d.]+)\s*([a-zµμ]+)", told.get("$$SM_MICRON_MARKER", "").strip())
    length = positive(marker[1]) * (nm_per(marker[2]) or math.nan) if marker else math.nan
    size = length / positive(told.get("$$SM_MICRON_BAR"))
    rows = re.fullmatch(r"\d+\s+(\d+)", told.get("$CM_FULL_SIZE", "").strip())
    facts = Facts(
        positive(told.get("$CM_MAG")), positive(told.get("$CM_ACCEL_VOLT")),
        told.get("$CM_SIGNAL", "").strip(), told.get("$CM_INSTRUMENT", "").strip(), "JEOL",
    )  # fmt: skip
    return (size, size), facts, int(rows[1]) if rows else None


def _sec(text: str) -> tuple[tuple[float, float], Facts, int | None]:
    """SEC tabletop instruments: no pixel size; "Acceleated" is theirs."""
    told = _pairs(text)
    voltage = told.get("Acceleated Voltage") or told.get("Accelerated Voltage") or ""
    facts = Facts(quantity(told.get("Magnification", "")), quantity(voltage), told.get("Detector Mode", ""),
                  told.get("Model", ""), "SEC")  # fmt: skip
    return UNKNOWN_NM, facts, None
