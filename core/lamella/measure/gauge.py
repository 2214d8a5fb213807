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
    if min(values.shape) < 2:
        raise ValueError(f"a gauge study has two parts, setups and repeats at least, not {values.shape}")
    repeatability, setup, interaction, part = (float(sigma) for sigma in _deviations(values))
    return GaugeRR(repeatability, setup, interaction, part, float(values.mean()))


def percent_interval(values: np.ndarray, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Between what `GaugeRR.percent` lies had other parts been taken: percentiles of a bootstrap over the parts."""
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(values), (_DRAWS, len(values)))
    repeatability, setup, interaction, part = _deviations(values[drawn])
    rr = repeatability**2 + setup**2 + interaction**2
    total = rr + part**2
    found = 100 * np.sqrt(rr[total > 0] / total[total > 0])
    if not len(found):
        return math.nan, math.nan
    low, high = np.percentile(found, (50 * (1 - level), 50 * (1 + level)))
    return float(low), float(high)


def _deviations(values: np.ndarray) -> list[np.ndarray]:
    """Repeatability, setup, interaction and part, each (…), of studies (…, p, o, r); see `gauge_rr`."""
    parts, setups, repeats = values.shape[-3:]
    of_cell = values.mean(-1)
    of_part, of_setup, mean = of_cell.mean(-1), of_cell.mean(-2), of_cell.mean((-2, -1))
    ss_part = setups * repeats * ((of_part - mean[..., None]) ** 2).sum(-1)
    ss_setup = parts * repeats * ((of_setup - mean[..., None]) ** 2).sum(-1)
    apart = of_cell - of_part[..., :, None] - of_setup[..., None, :] + mean[..., None, None]
    ss_cell = repeats * (apart**2).sum((-2, -1))
    ss_rest = ((values - of_cell[..., None]) ** 2).sum((-3, -2, -1))
    df_cell, df_rest = (parts - 1) * (setups - 1), parts * setups * (repeats - 1)
    ms_part, ms_setup = ss_part / (parts - 1), ss_setup / (setups - 1)
    ms_cell, ms_rest = ss_cell / df_cell, ss_rest / df_rest
    ratio = np.divide(ms_cell, ms_rest, out=np.full_like(ms_cell, math.inf), where=ms_rest > 0)
    pooling = stats.f.sf(ratio, df_cell, df_rest) > POOLED_ABOVE
    pooled = (ss_cell + ss_rest) / (df_cell + df_rest)
    ms_cell, ms_rest = np.where(pooling, pooled, ms_cell), np.where(pooling, pooled, ms_rest)
    variances = [
        ms_rest,
        (ms_setup - ms_cell) / (parts * repeats),
        (ms_cell - ms_rest) / repeats,
        (ms_part - ms_cell) / (setups * repeats),
    ]
    # An estimate below 0 is 0, and so is one that rounding alone makes.
    least = (1e-9 * np.abs(values).max((-3, -2, -1))) ** 2
    return [np.sqrt(np.where(variance > least, variance, 0.0)) for variance in variances]
