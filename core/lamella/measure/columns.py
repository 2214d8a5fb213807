"""Upright structures of a label map (fins, gates, lines, holes): critical dimensions row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import sparse

_LEAST = 8
"""Rows an upright structure has at least."""
_BAND = 0.04
"""Share of the height over which CD top, mid and bottom are averaged, to either side."""


@dataclass(frozen=True)
class Column:
    """One upright structure; lengths in nm where the pixel size is known, else nan."""

    label: str
    number: int
    """From 1 within its class, from left to right."""
    x: float
    """Middle, in pixels."""
    top: int
    bottom: int
    """One past its last row."""
    height_nm: float
    cd_top_nm: float
    """At 10 % of the height."""
    cd_mid_nm: float
    cd_bottom_nm: float
    """At 90 % of the height."""
    sidewall_deg: float
    """90 is upright; less than 90 widens downwards."""
    ler_nm: float
    """3σ of the edges about straight lines."""
    lwr_nm: float
    """3σ of the width about a straight line."""
    pitch_nm: float
    """To the middle of the next of its kind on the right: beside it, and not twice as wide or tall."""
    cut_off: bool
    """Whether it reaches the upper or lower border of the image."""


COLUMNS = [field.name for field in fields(Column)]


def columns(
    label: np.ndarray,
    classes: Sequence[str],
    pixel_nm: tuple[float, float],
    structures: Mapping[str, Sequence[str]] | None = None,
) -> list[Column]:
    """The upright structures of every class: chains of runs that lie over each other and neither fork nor join.

    A run that touches the left or right border does not count, a structure wider than tall does not either. CD is
    the run's length; top, mid and bottom are means over ±4 % of the height. The variances of LER and LWR are those of
    n − 2 rows, and that of rounding to whole pixels is taken off: 1/12 px² an edge, 1/6 px² a width.

    Source: CD at 10, 50 and 90 % of the height, side-wall angle atan(2h/(CD bottom − CD top)), LER and LWR as 3σ
    after a straight line.

    Args:
        label: (H, W) class ids.
        structures: further structures, each of several classes: ``{"gate": ["high-k", "liner", "metal"]}``.

    >>> label = np.zeros((40, 60), np.uint8)
    >>> label[5:35, 10:18] = label[5:35, 30:38] = 1
    >>> space, first, second = columns(label, ["ground", "fin"], (0.5, 0.5))
    >>> first.cd_mid_nm, first.height_nm, first.sidewall_deg, first.pitch_nm, space.cd_mid_nm
    (4.0, 15.0, 90.0, 10.0, 6.0)
    """
    masks = part_masks(label, classes, with_structures(classes, structures))
    return [one for name, mask in masks for one in upright(mask, name, pixel_nm)]


def with_structures(
    classes: Sequence[str], structures: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Sequence[str]]:
    """All that is measured by its name, with the classes that it is made of: every class, then the structures."""
    return {**{name: [name] for name in classes}, **(structures or {})}


def part_masks(
    label: np.ndarray, classes: Sequence[str], parts: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, mask (H, W)) of all of `with_structures`, or of some of it."""
    for name, members in parts.items():
        yield name, np.isin(label, [classes.index(member) for member in members])


def upright(mask: np.ndarray, name: str, pixel_nm: tuple[float, float]) -> list[Column]:
    """The upright structures of one mask (H, W), called ``name``; see `columns`."""
    chains = sorted(_chains(mask), key=lambda chain: float(chain[:, 1:].mean()))
    middles = np.array([float(chain[:, 1:].mean()) - 0.5 for chain in chains])
    standing = [
        (chain, float(x), pitch * pixel_nm[1])
        for chain, x, pitch in zip(chains, middles, _pitches(chains, middles), strict=True)
        if _taller_than_wide(chain, pixel_nm)
    ]
    return [
        _column(chain, mask.shape[0], name, number, x, pitch, pixel_nm)
        for number, (chain, x, pitch) in enumerate(standing, 1)
    ]


def _taller_than_wide(chain: np.ndarray, pixel_nm: tuple[float, float]) -> bool:
    shape = 1.0 if math.isnan(pixel_nm[0]) else pixel_nm[0] / pixel_nm[1]
    return len(chain) * shape >= float(np.median(chain[:, 2] - chain[:, 1]))


def _chains(mask: np.ndarray) -> list[np.ndarray]:
    """(rows, 3) of row, left edge, right edge (exclusive) for each chain of at least `_LEAST` runs."""
    row, left, right = _runs(mask)
    if not len(row):
        return []
    wide = mask.shape[1] + 1
    # The runs of the next row that overlap run i are those from low[i] to high[i].
    low = np.searchsorted(row * wide + right, (row + 1) * wide + left, side="right")
    high = np.searchsorted(row * wide + left, (row + 1) * wide + right, side="left")
    below = np.maximum(high - low, 0)
    above = np.zeros(len(row) + 1, np.int64)
    np.add.at(above, low[below > 0], 1)
    np.add.at(above, high[below > 0], -1)
    above = np.cumsum(above)[:-1]
    linked = np.flatnonzero((below == 1) & (above[np.minimum(low, len(row) - 1)] == 1))
    graph = sparse.coo_array((np.ones(len(linked)), (linked, low[linked])), (len(row), len(row)))
    _, chain = sparse.csgraph.connected_components(graph, directed=False)
    order = np.lexsort((row, chain))
    parts = np.split(order, np.flatnonzero(np.diff(chain[order])) + 1)
    free = (left > 0) & (right < mask.shape[1])
    long = [part for part in parts if len(part) >= _LEAST and free[part].all()]
    return [np.stack([row[part], left[part], right[part]], 1) for part in long]


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first and one past the last column of every run, row by row."""
    edge = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, left = np.nonzero(edge == 1)
    return row, left, np.nonzero(edge == -1)[1]


def _pitches(chains: list[np.ndarray], middles: np.ndarray) -> list[float]:
    """Pixels from each chain to the nearest of its kind on the right; nan where there is none.

    Two are of a kind if they share half of their rows, and their widths differ by no more than a half.

    Args:
        middles: rising.
    """
    top, last = (np.array([chain[end, 0] for chain in chains]) for end in (0, -1))
    rows = np.array([len(chain) for chain in chains])
    width = np.array([float(np.median(chain[:, 2] - chain[:, 1])) for chain in chains])
    found = []
    for i, x in enumerate(middles):
        start, size, pitch = int(np.searchsorted(middles, x, side="right")), 64, math.nan
        while start < len(chains) and math.isnan(pitch):
            part = slice(start, start + size)
            shared = np.minimum(last[i], last[part]) + 1 - np.maximum(top[i], top[part])
            broad, narrow = np.maximum(width[i], width[part]), np.minimum(width[i], width[part])
            alike = np.flatnonzero((shared >= 0.5 * np.maximum(rows[i], rows[part])) & (broad <= 1.5 * narrow))
            pitch = float(middles[start + alike[0]] - x) if len(alike) else math.nan
            start, size = start + size, 4 * size
        found.append(pitch)
    return found


def _column(
    chain: np.ndarray, height: int, name: str, number: int, x: float, pitch: float, pixel_nm: tuple[float, float]
) -> Column:
    down, across = pixel_nm
    rows, width = len(chain), (chain[:, 2] - chain[:, 1]) * across
    top, mid, bottom = (_cd(width, at) for at in (0.1, 0.5, 0.9))
    body = slice(round(0.1 * rows), max(round(0.9 * rows), round(0.1 * rows) + 3))
    edges = chain[body, 1:] * across
    rounding = across**2 / 12
    ler = (_variance(edges[:, 0]) + _variance(edges[:, 1])) / 2 - rounding
    lwr = _variance(width[body]) - 2 * rounding
    # CD top and bottom are 80 % of the height apart.
    angle = math.degrees(math.atan2(2 * 0.8 * rows * down, bottom - top))
    first, last = int(chain[0, 0]), int(chain[-1, 0]) + 1
    return Column(
        name, number, x, first, last, rows * down, top, mid, bottom, angle,
        _three_sigma(ler), _three_sigma(lwr), pitch, first == 0 or last == height,
    )  # fmt: skip


def _cd(width: np.ndarray, at: float) -> float:
    low, high = math.floor((at - _BAND) * len(width)), math.ceil((at + _BAND) * len(width))
    return float(width[max(low, 0) : max(high, low + 1)].mean())


def _three_sigma(variance: float) -> float:
    return 3 * math.sqrt(variance) if variance > 0 else abs(variance * 0)  # nan stays nan


def _variance(values: np.ndarray) -> float:
    """About a straight line, whose two degrees of freedom are taken off."""
    at = np.linspace(-1, 1, len(values))
    flat = values - values.mean()
    return float(np.sum((flat - at * (flat @ at) / (at @ at)) ** 2)) / (len(values) - 2)
