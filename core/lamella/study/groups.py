"""Figures over the groups of a test set (devices, products, tools): taken in each group, then averaged over them.

Written ``STATISTIC of FIGURE [per image] by COLUMN [in A, B] [over ROW]``. ``mean of miou per image by device`` takes
the mIoU of every image, averages it over the images of a device, and that over the devices; without ``per image``
the pixels of a device are pooled first. ``improved of … over zero-shot`` is the share of groups in which a row is
better than the row ``zero-shot``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lamella.errors import ConfigError, RunError
from lamella.study.figures import FAINT, RESAMPLES, Estimate, figure, interval

_TEXT = re.compile(
    r"(?P<statistic>\w+) of (?P<figure>.+?)(?P<each> per image)? by (?P<column>[\w-]+)"
    r"(?: in (?P<groups>.+?))?(?: over (?P<over>\S+))?"
)
_STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.nanmean, "max": np.nanmax, "min": np.nanmin, "std": np.nanstd
}  # fmt: skip
Score = Callable[..., float]
"""A figure of the values (G,) of one row's groups, or of those of two rows."""


class GroupFigure(NamedTuple):
    """What the text of a figure over groups asks for."""

    statistic: str
    """``mean``, ``max``, ``min``, ``std`` (of the groups there are, not of a sample), or ``improved``."""
    figure: str
    """A figure of confusion counts, as `lamella.study.figures.figure` reads it."""
    per_image: bool
    """Whether it is taken of every image and averaged, or of a group's pooled pixels."""
    column: str
    groups: tuple[str, ...]
    """Of these groups alone; empty for all."""
    over: str | None
    """The row that ``improved`` compares with."""

    def score(self) -> Score:
        """The figure from the values of a row's groups; of ``improved`` from the row's and the other row's."""
        if self.statistic == "improved":
            return _improved
        one = _STATISTICS[self.statistic]
        return lambda own: float(one(own))


def _improved(own: np.ndarray, other: np.ndarray) -> float:
    """The share of the groups that have the figure in both rows in which the first has more; nan where none has.

    What `FAINT` adds is no more.
    """
    known = np.isfinite(own) & np.isfinite(other)
    return float(np.mean(own[known] > other[known] + 1e-6)) if known.any() else float("nan")


class Groups(NamedTuple):
    """What a run counted on a test set, by group and by the unit (lot) that intervals resample within it."""

    of: Mapping[str, Callable[[np.ndarray], float]]
    """Group → the figure, as the classes of its run have it."""
    per_image: bool
    units: Mapping[str, tuple[str, ...]]
    """Group → the names of its units."""
    counts: Mapping[str, np.ndarray]
    """Group → (U, K, K) confusion."""
    sums: Mapping[str, np.ndarray]
    """Group → (U, 2) sum of the images' figures, and how many images have it."""

    def values(self, times: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """(G,) the figure of every group, its units taken as often as ``times`` says (each once); nan where none."""
        found = []
        for name in self.units:
            often = np.ones(len(self.units[name])) if times is None else times[name]
            if self.per_image:
                total, number = often @ self.sums[name]
                found.append(total / number if number else np.nan)
            else:
                found.append(self.of[name](np.tensordot(often, self.counts[name], axes=1)))
        return np.array(found)


def group_figure(text: str) -> GroupFigure | None:
    """A figure over groups from its text; None where it is another kind of figure.

    Raises:
        ConfigError: no such statistic, or ``improved`` without the row it compares with.

    >>> group_figure("min of iou:defect by device in gaa, nand-3d")
    GroupFigure(statistic='min', figure='iou:defect', per_image=False, column='device', groups=('gaa', 'nand-3d'), \
over=None)
    """
    if " of " not in text.partition(":")[0]:  # behind a colon is the name of a class
        return None
    match = _TEXT.fullmatch(text)
    if match is None or (match["statistic"] != "improved" and match["statistic"] not in _STATISTICS):
        known = ", ".join([*_STATISTICS, "improved"])
        raise ConfigError(
            f"figure {text!r} must read 'STATISTIC of FIGURE [per image] by COLUMN [in A, B] [over ROW]', "
            f"with a statistic of {known}"
        )
    if (match["statistic"] == "improved") != (match["over"] is not None):
        raise ConfigError(f"figure {text!r}: 'over ROW' says what 'improved' compares with, and belongs to it alone")
    groups = tuple(part.strip() for part in (match["groups"] or "").split(",") if part.strip())
    return GroupFigure(
        match["statistic"], match["figure"], match["each"] is not None, match["column"], groups, match["over"]
    )


def read_groups(path: Path, asked: GroupFigure, unit: str | None) -> Groups:
    """What a run kept of a test set, by the groups of a figure.

    Args:
        path: counts of every test image, as `ImageCounts` saved them.
        unit: group column that intervals resample within each group; None resamples images.

    Raises:
        RunError: the file is not there or cut short.
        ConfigError: the set has no such column, or the figure is none.
    """
    kept = _kept(path)
    of, counts = figure(asked.figure, kept["classes"]), kept["confusion"]
    groups = _column(kept, asked.column, f"figure by {asked.column!r}")
    units = kept["names"] if unit is None else _unit(kept, unit)
    names = sorted(set(groups) & set(asked.groups or groups))
    places: dict[str, dict[str, list[int]]] = {name: {} for name in names}
    for number, (group, one) in sorted(enumerate(zip(groups, units)), key=lambda pair: pair[1]):
        if group in places:
            places[group].setdefault(one, []).append(number)
    each = np.array([of(one) for one in counts]) if asked.per_image else np.zeros(len(counts))
    known = np.isfinite(each)
    pairs = np.stack([np.where(known, each, 0.0), known], 1)
    return Groups(
        dict.fromkeys(names, of),
        asked.per_image,
        {name: tuple(places[name]) for name in names},
        {name: np.stack([counts[rows].sum(0) for rows in places[name].values()]) for name in names},
        {name: np.stack([pairs[rows].sum(0) for rows in places[name].values()]) for name in names},
    )


def image_counts(path: Path) -> tuple[list[str], np.ndarray]:
    """(classes, confusion (N, K, K)) of every image of a test set, in its order; raises `RunError` as `read_groups`."""
    kept = _kept(path)
    return kept["classes"], kept["confusion"]


def read_counts(path: Path, unit: str | None) -> tuple[list[str], dict[str, np.ndarray]]:
    """(classes, confusion (K, K) by unit) of a test set, units in the order of its images; raises as `read_groups`.

    Args:
        unit: group column, or ``"name"`` for every image by itself; None pools all of them.
    """
    kept = _kept(path)
    names = [""] * len(kept["confusion"]) if unit is None else _unit(kept, unit)
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name, []).append(number)
    return kept["classes"], {name: kept["confusion"][rows].sum(0) for name, rows in places.items()}


def group_names(path: Path, column: str) -> set[str]:
    """The groups of a test set in a column; raises as `read_groups`."""
    return set(_column(_kept(path), column, f"figure by {column!r}"))


def units_in(path: Path, unit: str | None) -> frozenset[str]:
    """The units that a run was tested on; none where it counted nothing, or where its test set has no such column."""
    if unit is None or not path.is_file():
        return frozenset()
    kept = _kept(path)
    return frozenset(kept["names"] if unit == "name" else kept["groups"].get(unit, ()))


def _unit(kept: Mapping[str, Any], unit: str) -> Sequence[str]:
    names: Sequence[str] = kept["names"]
    return names if unit == "name" else _column(kept, unit, f"groups = {unit!r}")


def check_column(there: Collection[str], column: str, what: str, test: str) -> None:
    """Raise `ConfigError` where a test set has no such group column; ``what`` asks for it."""
    if column not in there:
        has = ", ".join(there) or "none"
        raise ConfigError(f"{what}: the test set {test!r} has no such group column (it has {has})")


def check_groups(there: Collection[str], asked: GroupFigure, test: str) -> None:
    """Raise `ConfigError` where a figure names a group that a test set has not."""
    for name in asked.groups:
        if name not in there:
            known = ", ".join(sorted(there))
            raise ConfigError(
                f"figure by {asked.column!r} in {name!r}: the test set {test!r} has no such group (it has {known})"
            )


def _column(kept: Mapping[str, Any], column: str, what: str) -> Sequence[str]:
    check_column(kept["groups"], column, what, kept["set"])
    found: Sequence[str] = kept["groups"][column]
    return found


def _kept(path: Path) -> Mapping[str, Any]:
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: the counts of the test images cannot be read ({error})") from error


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> Mapping[str, Any]:
    """The file as it was at ``changed``: every figure of a table, and every comparison, asks for the same ones."""
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if missing := [key for key in ("classes", "names", "groups", "confusion") if key not in found]:
        raise ValueError(f"it has no {missing[0]}")
    size = len(found["classes"])
    return {**found, "set": path.stem, "confusion": np.array(found["confusion"], np.int64).reshape(-1, size, size)}


def joined_groups(parts: Sequence[Groups]) -> Groups | None:
    """The groups of several runs as those of one; None where a group is in two of them."""
    names = [name for part in parts for name in part.units]
    if len(set(names)) < len(names):
        return None
    units = {name: part.units[name] for part in parts for name in part.units}
    counts = {name: part.counts[name] for part in parts for name in part.units}
    sums = {name: part.sums[name] for part in parts for name in part.units}
    of = {name: part.of[name] for part in parts for name in part.units}
    return Groups(of, parts[0].per_image, {name: units[name] for name in sorted(units)}, counts, sums)


def estimate_groups(seeds: Sequence[tuple[Groups, ...]], score: Score, seed: int = 0) -> Estimate:
    """The mean over seeds of a figure over groups, with a bootstrap interval where all have the same images.

    Seeds are resampled, and within each group its units, the same for all seeds and all runs that are compared;
    the groups themselves are not: they are all there are. One seed with one unit in each has no interval (nan).

    Args:
        seeds: for each seed the runs that ``score`` takes the values of, measured on the same images.

    Raises:
        ConfigError: runs that were measured on other images.
    """
    units = seeds[0][0].units
    for run in seeds:
        if any(groups.units != run[0].units for groups in run):
            raise ConfigError("a figure over groups compares runs that were not measured on the same groups of images")
    if not units:
        raise ConfigError("a figure over groups: none of the groups it names is in the test set")
    each = tuple(score(*(groups.values() for groups in run)) for run in seeds)
    alone = len(seeds) == 1 and all(len(those) == 1 for those in units.values())
    if alone or any(run[0].units != units for run in seeds):
        return interval(each, ())
    rng, samples = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(seeds), size=len(seeds))
        times = {
            name: np.bincount(rng.integers(len(those), size=len(those)), minlength=len(those)) + FAINT
            for name, those in units.items()
        }
        scores = {int(i): score(*(groups.values(times) for groups in seeds[i])) for i in set(drawn.tolist())}
        samples.append(np.mean([scores[int(i)] for i in drawn]))
    return interval(each, samples)
