"""What a label map says in nm: areas, thicknesses, critical dimensions, per image and class and per object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from lamella.measure.columns import Column, part_masks, upright, with_structures
from lamella.measure.instances import Instance, count_objects, counted_instances
from lamella.measure.thickness import thickness

TABLES = ("measurements", "instances", "columns")
"""The tables that come out: one row per image and class, per object, per upright structure."""
_SUMMARY: dict[str, type] = {
    "class": str, "area_px": int, "share": float, "area_nm2": float, "objects": int,
    "thickness_nm": float, "thickness_3s_nm": float, "structures": int, "cd_top_nm": float, "cd_mid_nm": float,
    "cd_bottom_nm": float, "sidewall_deg": float, "ler_nm": float, "lwr_nm": float, "pitch_nm": float,
}  # fmt: skip
_MEANS = ("cd_top_nm", "cd_mid_nm", "cd_bottom_nm", "sidewall_deg", "pitch_nm")
_RMS = ("ler_nm", "lwr_nm")
_TYPES = {"str": str, "int": int, "float": float, "bool": bool}


def schema(table: str) -> dict[str, type]:
    """The columns of one of `TABLES` with their types, behind the image's name and pixel size."""
    if table == "measurements":
        own = _SUMMARY
    else:
        rows = fields(Instance if table == "instances" else Column)
        own = {_renamed(field.name): _TYPES[str(field.type)] for field in rows}
    return {"image": str, "pixel_y_nm": float, "pixel_x_nm": float, **own}


def measure(
    label: np.ndarray,
    classes: Sequence[str],
    pixel_nm: tuple[float, float],
    structures: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The rows of `TABLES` for one label map; what needs the pixel size is nan where that is unknown.

    Args:
        label: (H, W) class ids; 255 is no class.
        pixel_nm: nm per pixel in y and x.
        structures: upright structures made of several classes, by name.
    """
    parts = with_structures(classes, structures)
    objects, total = counted_instances(label, classes, pixel_nm)
    rows: list[dict[str, Any]] = []
    standing: list[Column] = []
    for name, mask in part_masks(label, classes, parts):
        found, area = upright(mask, name, pixel_nm), int(mask.sum())
        standing += found
        rows.append({
            "class": name, "area_px": area, "share": area / label.size, "area_nm2": area * pixel_nm[0] * pixel_nm[1],
            "objects": total[name] if name in total else count_objects(mask), **_lengths(mask, found, pixel_nm),
        })  # fmt: skip
    return {
        "measurements": rows,
        "instances": [_plain(one) for one in objects],
        "columns": [_plain(one) for one in standing],
    }  # fmt: skip


def measure_lengths(
    label: np.ndarray, classes: Sequence[str], pixel_nm: tuple[float, float], parts: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Of the rows of ``measurements`` the class and what has a length, for some classes and structures alone.

    It looks at no object, which is most of what `measure` does. Arguments are those of `measure`; ``parts`` are the
    classes that each row is made of, by its name.
    """
    return [
        {"class": name, **_lengths(mask, upright(mask, name, pixel_nm), pixel_nm)}
        for name, mask in part_masks(label, classes, parts)
    ]


def _renamed(name: str) -> str:
    return "class" if name == "label" else name


def _plain(one: Instance | Column) -> dict[str, Any]:
    return {_renamed(name): value for name, value in asdict(one).items()}


def _lengths(mask: np.ndarray, standing: Sequence[Column], pixel_nm: tuple[float, float]) -> dict[str, float]:
    """Thickness, and the means over the upright structures that the image does not cut off."""
    known = not math.isnan(pixel_nm[0])
    middle, spread = thickness(mask, pixel_nm) if known and mask.any() else (math.nan, math.nan)
    whole = [one for one in standing if not one.cut_off]
    return {
        "thickness_nm": middle, "thickness_3s_nm": spread, "structures": len(whole),
        **{figure: _mean([getattr(one, figure) for one in whole]) for figure in _MEANS},
        **{figure: math.sqrt(_mean([getattr(one, figure) ** 2 for one in whole])) for figure in _RMS},
    }  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def parse_structures(given: Sequence[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """``["gate=high-k+liner+metal"]`` as a table.

    Raises:
        ConfigError: another form, a name that is taken, or a class that the run does not know.

    >>> parse_structures(["gate=liner+metal"], ["oxide", "liner", "metal"])
    {'gate': ['liner', 'metal']}
    """
    from lamella.errors import ConfigError

    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, members = text.partition("=")
        parts = [part.strip() for part in members.split("+")]
        if not equals or not name.strip() or name.strip() in (*classes, *found):
            raise ConfigError(f"--structure {text!r} must read NAME=CLASS+CLASS, with a NAME that is not taken")
        if stray := [part for part in parts if part not in classes]:
            raise ConfigError(f"--structure {text!r}: there is no class {stray[0]!r}; there are {', '.join(classes)}")
        found[name.strip()] = parts
    return found
