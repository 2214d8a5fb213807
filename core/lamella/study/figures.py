"""Figures of a study, taken from counts, with intervals that resample seeds and groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lamella.errors import ConfigError

Counts = Mapping[str, np.ndarray]
"""Confusion (K, K) by group (lot, wafer, specimen …); rows are labels, columns predictions."""
Figure = Callable[[np.ndarray], float]
RESAMPLES = 1000
"""Of a bootstrap interval."""
FAINT = 1e-9
"""What a group that a resample lacks still weighs in it. A class of that group alone keeps the figure it has there:
left out of a mean over classes it would shift the interval away from the estimate."""


class Estimate(NamedTuple):
    """A figure with its 95 % interval; nan where there is nothing to resample."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...]
    """The figure of every seed."""


def figure(text: str, classes: Sequence[str]) -> Figure:
    """A function of confusion counts (K, K) from its name.

    ``miou`` is the mean IoU over the classes that occur, ``miou:-defect`` the same without a class,
    ``iou:defect`` that of one class, ``accuracy``, ``macro-recall``, ``recall:bridge``.

    Raises:
        ConfigError: no such figure, or no such class.

    >>> figure("iou:b", ["a", "b"])(np.array([[2, 0], [1, 1]]))
    0.5
    """
    name, _, which = text.partition(":")
    wanted = which.removeprefix("-")
    if which and wanted not in classes:
        raise ConfigError(f"figure {text!r}: there is no class {wanted!r}; the classes are {', '.join(classes)}")
    place = classes.index(wanted) if which else None
    if name == "accuracy" and place is None:
        return lambda counts: float(np.trace(counts) / counts.sum())
    if name in ("miou", "macro-recall") and (place is None or which.startswith("-")):
        kept = [number for number in range(len(classes)) if number != place]
        each = _iou if name == "miou" else _recall
        return lambda counts: float(np.nanmean(each(counts)[kept]))
    if name in ("iou", "recall") and place is not None and not which.startswith("-"):
        one = _iou if name == "iou" else _recall
        return lambda counts: float(one(counts)[place])
    raise ConfigError(f"figure {text!r} is none of miou, miou:-CLASS, iou:CLASS, accuracy, macro-recall, recall:CLASS")


def _iou(counts: np.ndarray) -> np.ndarray:
    hit = np.diagonal(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def _recall(counts: np.ndarray) -> np.ndarray:
    hit, there = np.diagonal(counts).astype(float), counts.sum(1)
    return np.divide(hit, there, out=np.full(len(hit), np.nan), where=there > 0)


def estimate(counts: Sequence[Counts], of: Figure, seed: int = 0) -> Estimate:
    """The mean over seeds of a figure on pooled counts, with a bootstrap interval over seeds and groups.

    Args:
        counts: one entry a seed, all with the same groups; one seed with one group has no interval (nan).

    Raises:
        ConfigError: seeds with other groups.
    """
    samples = resampled(counts, of, seed)
    return interval(each_of(counts, of), samples if _several(counts) else ())


def each_of(counts: Sequence[Counts], of: Figure) -> tuple[float, ...]:
    """The figure of every seed on pooled counts."""
    return tuple(_pooled(one, of) for one in counts)


def same_groups(counts: Sequence[Counts]) -> bool:
    """Whether runs were measured on the same groups, as an interval or a difference needs them."""
    return all(one.keys() == counts[0].keys() for one in counts)


def difference(
    ours: Sequence[Counts], theirs: Sequence[Counts], of: Figure, seed: int = 0, *, of_theirs: Figure | None = None
) -> Estimate:
    """The mean paired difference ours − theirs, seeds and groups resampled together for both; raises as `estimate`.

    Args:
        of_theirs: the figure as the classes of ``theirs`` have it, where they are others or in another order.
    """
    each = tuple(_pooled(a, of) - _pooled(b, of_theirs or of) for a, b in zip(ours, theirs, strict=True))
    samples = resampled_difference(ours, theirs, of, seed, of_theirs=of_theirs)
    return interval(each, samples if _several(ours) else ())


def resampled(counts: Sequence[Counts], of: Figure, seed: int = 0) -> np.ndarray:
    """(RESAMPLES,) the mean over seeds of a figure, on seeds and groups drawn with replacement."""
    _check_groups(counts)
    return np.array([np.mean([of(total) for total in totals]) for totals in _drawn(counts, seed)])


def resampled_difference(
    ours: Sequence[Counts], theirs: Sequence[Counts], of: Figure, seed: int = 0, *, of_theirs: Figure | None = None
) -> np.ndarray:
    """(RESAMPLES,) that of ours less that of theirs, the same seeds and groups drawn for both; as `difference`."""
    _check_groups([*ours, *theirs])
    return resampled(ours, of, seed) - resampled(theirs, of_theirs or of, seed)


def of_values(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of one value a seed, with a bootstrap interval over seeds; with one seed there is none (nan)."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return interval(tuple(values), np.array(values)[drawn].mean(1) if len(values) > 1 else ())


def interval(each: tuple[float, ...], samples: Sequence[Any] | np.ndarray) -> Estimate:
    """The mean of ``each`` with the 2.5 and 97.5 percentiles of the resamples; nan without these or without a mean."""
    mean = float(np.mean(each))
    known = np.isfinite(mean) and np.isfinite(samples).any()
    low, high = np.nanpercentile(samples, (2.5, 97.5)) if known else (np.nan, np.nan)
    return Estimate(mean, float(low), float(high), each)


def _several(counts: Sequence[Counts]) -> bool:
    return len(counts) > 1 or len(counts[0]) > 1


def _check_groups(counts: Sequence[Counts]) -> None:
    for one in counts:
        if one.keys() != counts[0].keys():
            apart = ", ".join(sorted(one.keys() ^ counts[0].keys()))
            raise ConfigError(
                f"a figure with an interval compares runs that were not measured on the same groups ({apart})"
            )


def _pooled(counts: Counts, of: Figure) -> float:
    return of(np.sum(list(counts.values()), axis=0))


def _drawn(counts: Sequence[Counts], seed: int) -> list[np.ndarray]:
    """Per resample (S, K, K): seeds drawn with replacement, and groups, the same groups for every seed."""
    rng = np.random.default_rng(seed)
    groups = sorted(counts[0])
    stacked = np.stack([np.stack([one[group] for group in groups]) for one in counts])  # (S, G, K, K)
    found = []
    for _ in range(RESAMPLES):
        seeds = rng.integers(len(counts), size=len(counts))
        times = np.bincount(rng.integers(len(groups), size=len(groups)), minlength=len(groups))
        found.append(np.tensordot(stacked[seeds], times + FAINT, axes=([1], [0])))
    return found
