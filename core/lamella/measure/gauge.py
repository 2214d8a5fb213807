"""Gauge R&R: how much of what a measurement scatters is the parts, and how much the measuring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

POOLED_ABOVE = 0.25
"""Where the interaction of parts and setups has a larger p-value it is pooled with the repeatability, as AIAG does."""
_DRAWS = 500


@dataclass(frozen=True)
class GaugeRR:
    """Standard deviations of a crossed study, in the unit of the measurement."""

    repeatability: float
    """EV: the same part, set up once, measured again."""
    setup: float
    """AV: the mean of setups; of operators, where persons set up."""
    interaction: float
    """What a setup does to one part and not to another; 0 where it was pooled."""
    part: float
    """PV: the true differences of the parts."""
    mean: float

    @property
    def reproducibility(self) -> float:
        """√(AV² + interaction²)."""
        return math.hypot(self.setup, self.interaction)

    @property
    def rr(self) -> float:
        """GRR = √(repeatability² + reproducibility²)."""
        return math.hypot(self.repeatability, self.reproducibility)

    @property
    def total(self) -> float:
        """TV = √(GRR² + PV²)."""
        return math.hypot(self.rr, self.part)

    @property
    def percent(self) -> float:
        """100·GRR/TV: below 10 a good gauge, above 30 none for telling these parts apart; nan where nothing varies."""
        return 100 * self.rr / self.total if self.total > 0 else math.nan

    @property
    def categories(self) -> float:
        """ndc = ⌊√2·PV/GRR⌋, at least 1: how many kinds of part the gauge tells apart; infinite with GRR = 0."""
        return float(max(1, math.floor(math.sqrt(2) * self.part / self.rr))) if self.rr > 0 else math.inf


def gauge_rr(values: np.ndarray) -> GaugeRR:
    """The components of variance of a crossed study by analysis of variance, every effect random.

    With p parts, o setups and r repeats, and mean squares MS of parts, setups, their interaction and the rest (E):

        EV² = MS_E,  interaction² = (MS_PO − MS_E)/r,  AV² = (MS_O − MS_PO)/(p·r),  PV² = (MS_P − MS_PO)/(o·r)

    none below 0. Where the interaction's F test has p > 0.25 it and the rest are pooled, in place of both.

    Args:
        values: (p, o, r), each at least 2, finite.

    Source: AIAG, Measurement Systems Analysis, 4th edition, ANOVA method.

    >>> gauge_rr(np.array([[[1.0, 1.0], [1.0, 1.0]], [[3.0, 3.0], [3.0, 3.0]]])).part
    1.4142135623730951
    """
    parts, setups, repeats = values.shape
    if min(values.shape) < 2:
        raise ValueError(f"a gauge study has two parts, setups and repeats at least, not {values.shape}")
    mean = values.mean()
    of_part, of_setup, of_cell = values.mean((1, 2)), values.mean((0, 2)), values.mean(2)
    ss_part = setups * repeats * ((of_part - mean) ** 2).sum()
    ss_setup = parts * repeats * ((of_setup - mean) ** 2).sum()
    ss_cell = repeats * ((of_cell - of_part[:, None] - of_setup[None] + mean) ** 2).sum()
    ss_rest = ((values - of_cell[..., None]) ** 2).sum()
    df_cell, df_rest = (parts - 1) * (setups - 1), parts * setups * (repeats - 1)
    ms_part, ms_setup = ss_part / (parts - 1), ss_setup / (setups - 1)
    ms_cell, ms_rest = ss_cell / df_cell, ss_rest / df_rest
    if ms_rest > 0 and stats.f.sf(ms_cell / ms_rest, df_cell, df_rest) > POOLED_ABOVE:
        ms_cell = ms_rest = (ss_cell + ss_rest) / (df_cell + df_rest)
    least = float((1e-9 * np.abs(values).max()) ** 2)
    return GaugeRR(
        repeatability=_root(ms_rest, least),
        setup=_root((ms_setup - ms_cell) / (parts * repeats), least),
        interaction=_root((ms_cell - ms_rest) / repeats, least),
        part=_root((ms_part - ms_cell) / (setups * repeats), least),
        mean=float(mean),
    )


def percent_interval(values: np.ndarray, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Between what `GaugeRR.percent` lies had other parts been taken: percentiles of a bootstrap over the parts."""
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(values), (_DRAWS, len(values)))
    found = [gauge_rr(values[parts]).percent for parts in drawn]
    if np.isnan(found).all():
        return math.nan, math.nan
    low, high = np.nanpercentile(found, (50 * (1 - level), 50 * (1 + level)))
    return float(low), float(high)


def _root(variance: float, least: float) -> float:
    """The standard deviation; 0 where rounding is all there is, or where the estimate is below 0."""
    return math.sqrt(variance) if variance > least else 0.0
