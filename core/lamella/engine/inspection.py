"""What is in a data set: columns, sizes, classes, groups, pixel sizes, what looks suspicious, what is there twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.contracts.data import Sample
from lamella.data.burnt_in.scalebar import read_scale_bar
from lamella.data.duplicates import Pair, clusters, near_duplicates, thumbnail
from lamella.data.formats.files import read_micrograph
from lamella.data.grey import grey
from lamella.data.samples import FileRow, Row, SampleTable, TableRow
from lamella.errors import DataError, LamellaError

_FLAT, _SATURATED = 2.0, 0.25
_ODD = 8.0
"""How many times the usual spread an image's mean may lie from that of the others."""


@dataclass
class Inspection:
    """What was found in one set."""

    origin: str
    samples: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """Columns of a table with their types; empty for a folder."""
    sizes: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    pixel_nm: Counter[str] = field(default_factory=Counter)
    """Samples by pixel size, ``0.5 nm`` or ``0.5 × 0.25 nm`` (y, x); ``unknown`` where nothing says it."""
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    """By class: ``share`` of the labelled pixels (or samples), and ``samples`` in which it occurs."""
    groups: dict[str, Counter[str]] = field(default_factory=dict)
    suspicious: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Of the samples that could be read."""
    thumbnails: list[np.ndarray] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One entry a sample: name, size, type, pixel size and what else the file tells."""
    duplicates: list[Pair] = field(default_factory=list)
    """Numbers are places in `names`."""

    def facts(self) -> dict[str, Any]:
        """Everything but pictures, as JSON values."""
        named = [
            {"first": self.names[p.first], "second": self.names[p.second], "likeness": p.likeness, "turned": p.turned}
            for p in self.duplicates
        ]
        groups = clusters(self.duplicates, len(self.names))
        return {
            "origin": self.origin, "samples": self.samples, "columns": self.columns, "sizes": dict(self.sizes),
            "pixels": dict(self.pixels), "pixel_nm": dict(self.pixel_nm), "classes": self.classes,
            "groups": {column: dict(found) for column, found in self.groups.items()},
            "suspicious": self.suspicious, "near_duplicates": named,
            "duplicate_groups": [[self.names[i] for i in group] for group in groups],
            "rows": self.rows,
        }  # fmt: skip


def inspect(table: SampleTable, *, limit: int | None = None, alike: float) -> Inspection:
    """Read every sample of a set (or ``limit`` of them, evenly spread) and say what is there.

    Args:
        alike: correlation from which two thumbnails count as the same.
    """
    found = Inspection(table.origin, len(table), _columns(table))
    for row in table.rows:
        for column, value in row.groups.items():
            found.groups.setdefault(column, Counter())[value] += 1
    labels: dict[str, list[float]] = {}
    places = range(len(table)) if limit is None or limit >= len(table) else np.linspace(0, len(table) - 1, limit)
    for place in places:
        try:
            sample = table.read(int(place))
        except LamellaError as error:
            found.suspicious.append(str(error))
            continue
        _add(found, sample, table, labels)
        found.suspicious += _unread_bar(sample, table.rows[int(place)])
    for kind in found.pixels:
        _odd(found, [row for row in found.rows if row["pixels"] == kind])
    _count_classes(found, labels)
    found.duplicates = near_duplicates(found.thumbnails, alike=alike)
    return found


def _columns(table: SampleTable) -> dict[str, str]:
    origin = table.rows[0].origin
    if not isinstance(origin, TableRow):
        return {}
    return {name: _type(feature) for name, feature in origin.dataset.features.items()}


def _type(feature: Any) -> str:
    """``string``, ``Image``, ``ClassLabel (a, b)``, ``List of float32``."""
    kind = type(feature).__name__
    if kind == "Value":
        return str(feature.dtype)
    if kind == "ClassLabel":
        return f"ClassLabel ({', '.join(feature.names)})"
    inner = getattr(feature, "feature", None)
    return (
        kind if inner is None else f"{kind} of {_type(inner)}" if not isinstance(inner, dict) else f"{kind} of tables"
    )


def _add(found: Inspection, sample: Sample, table: SampleTable, labels: dict[str, list[float]]) -> None:
    image = sample.image
    size, kind = f"{image.shape[0]}×{image.shape[1]}", str(image.dtype)
    kind += f" × {image.shape[2]}" if image.ndim == 3 else ""
    told = _size_text(sample.pixel_nm) + (" by the scale bar" if sample.meta.get("scale_bar") else "")
    found.sizes[size] += 1
    found.pixels[kind] += 1
    found.pixel_nm[told] += 1
    found.names.append(sample.name)
    found.thumbnails.append(thumbnail(image))
    pixels = grey(image)
    row = {"name": sample.name, "size": size, "pixels": kind, "pixel_nm": told, "mean": float(pixels.mean())}
    found.rows.append({**row, **dict(sample.meta), **dict(sample.groups)})
    found.suspicious += [f"{sample.name}: {reason}" for reason in _reasons(pixels, sample, table)]
    for name, share in _shares(sample, table).items():
        labels.setdefault(name, []).append(share)


def _size_text(pixel_nm: tuple[float, float]) -> str:
    y, x = pixel_nm
    if math.isnan(y):
        return "unknown"
    return f"{y:.6g} nm" if math.isclose(y, x, rel_tol=1e-4) else f"{y:.6g} × {x:.6g} nm"


def _reasons(grey: np.ndarray, sample: Sample, table: SampleTable) -> list[str]:
    """What is strange about one sample."""
    reasons = []
    low, high = float(grey.min()), float(grey.max())
    # Detectors of 12 and 14 bits write 16.
    bits = {np.dtype(np.uint8): 8, np.dtype(np.uint16): max(int(high).bit_length(), 12)}.get(sample.image.dtype)
    scale = max(high, 1e-9) if bits is None else float(2**bits - 1)
    if float(grey.std()) * 255 / scale < _FLAT and high - low < 0.1 * scale:
        reasons.append(f"the image is nearly flat (grey values {low:g} to {high:g})")
    for end, what in ((low, "black"), (high, "white")):
        if (share := float((grey == end).mean())) > _SATURATED and high > low:
            reasons.append(f"{share:.0%} of the pixels are {what}; is a bar, a border or saturation in it?")
    if isinstance(sample.label, np.ndarray):
        if (sample.label == IGNORE).all():
            reasons.append("the mask ignores every pixel")
        elif table.classes is not None and len(np.unique(sample.label)) == 1 and len(table.classes.names) > 1:
            reasons.append(f"the mask holds one class only ({table.classes.names[int(sample.label.flat[0])]})")
    return reasons


def _unread_bar(sample: Sample, row: Row) -> list[str]:
    """Why a scale bar that was asked for gave no pixel size."""
    if sample.meta.get("scale_bar") != 0 or not math.isnan(sample.pixel_nm[0]):
        return []
    image = sample.image
    if isinstance(row.origin, FileRow) and isinstance(row.origin.image, Path):
        image = read_micrograph(row.origin.image, row.origin.frame).image  # with its data bar
    try:
        read_scale_bar(image, sample.name)
    except DataError as error:
        return [str(error)]
    return []


def _shares(sample: Sample, table: SampleTable) -> dict[str, float]:
    """The share of each class in one sample."""
    names = () if table.classes is None else table.classes.names
    if sample.label is None or (isinstance(sample.label, int) and sample.label == IGNORE):
        return {}
    if isinstance(sample.label, int):
        return {names[sample.label] if sample.label < len(names) else str(sample.label): 1.0}
    counts = np.bincount(sample.label.ravel(), minlength=256)
    total = max(int(counts.sum() - counts[IGNORE]), 1)
    return {names[i] if i < len(names) else str(i): float(counts[i] / total) for i in np.flatnonzero(counts[:IGNORE])}


def _count_classes(found: Inspection, labels: Mapping[str, Sequence[float]]) -> None:
    total = sum(sum(shares) for shares in labels.values()) or 1.0
    found.classes = {name: {"share": sum(shares) / total, "samples": len(shares)} for name, shares in labels.items()}


def _odd(found: Inspection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note images far brighter or darker than the others of their type."""
    if len(rows) < 8:
        return
    values = np.array([row["mean"] for row in rows])
    usual = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - usual))), 1e-6 * float(np.abs(values).max()))
    for place in np.flatnonzero(np.abs(values - usual) > _ODD * spread).tolist():
        mean = f"its mean grey value {values[place]:.4g} is far from the usual {usual:.4g}"
        found.suspicious.append(f"{rows[place]['name']}: {mean}")


def shared(sets: Mapping[str, Inspection], *, alike: float) -> list[str]:
    """What two sets have in common that they should not: samples by name, and near-duplicates."""
    said = []
    roles = list(sets)
    for number, one in enumerate(roles):
        for other in roles[number + 1 :]:
            first, second = sets[one], sets[other]
            pairs = near_duplicates([*first.thumbnails, *second.thumbnails], alike=alike)
            border = len(first.names)
            across = [pair for pair in pairs if pair.first < border <= pair.second]
            said += [
                f"{first.names[pair.first]} of {one} and {second.names[pair.second - border]} of {other} show the same "
                f"({pair.likeness:.2f})" for pair in across
            ]  # fmt: skip
    return said
