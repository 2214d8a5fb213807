"""How many electrons an image is made of, from the image alone: its noise grows with its brightness.

With `ShotNoise`'s symbols, an image x in [0, 1] that took the dose D (e⁻/px at white) over the pedestal b has

    Var(x) = (b + (1 − b)·x) / (D·(1 − b)²) = a·x + c

so that the slope a and the intercept c of variance over mean tell both: b = c / (a + c), D = 1 / (a·(1 − b)).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from lamella.errors import DataError
from scipy.linalg import toeplitz
from scipy.optimize import nnls

SIDE = 16
"""Side of the blocks (pixels) in which mean and noise are taken."""
BINS, FEWEST = 16, 6
"""Grey levels that blocks are gathered into, as many in each, and the fewest blocks of one."""
MOST = 0.95
"""Greatest pedestal, as of `ShotNoise`: beyond it next to no noise depends on brightness."""
SPREAD = 0.05
"""Least range of grey among those levels for a line through them."""
INDEPENDENT = (0.75, 1.6)
"""`PhotonTransfer.correlated` of an image that nothing has smoothed, scaled or compressed since it was taken."""
_MASK = np.array([1.0, -2.0, 1.0])
_RESAMPLES = 200


@dataclass(frozen=True)
class PhotonTransfer:
    """What the noise of one image says."""

    dose: float
    """D: electrons per pixel at white (e⁻/px)."""
    low: float
    high: float
    """The ends of D's 95 % interval, over blocks of the image."""
    pedestal: float
    """b: the share of D that arrives where the image is black; noise of reading out counts as pedestal."""
    off: float
    """Median of |variance − line| / line over the grey levels."""
    correlated: float
    """4 × the variance of 2 × 2 means over that of pixels: 1 where the noise of neighbours is independent."""
    mean: np.ndarray
    variance: np.ndarray
    """(BINS,) each: the grey levels, and the variance there."""

    @property
    def independent(self) -> bool:
        """Whether the noise of neighbouring pixels is a camera's own, each by itself: else a dose has no meaning."""
        return INDEPENDENT[0] <= self.correlated <= INDEPENDENT[1]

    def line(self, x: np.ndarray) -> np.ndarray:
        """Var(x) at this dose and pedestal."""
        return (self.pedestal + (1 - self.pedestal) * x) / (self.dose * (1 - self.pedestal) ** 2)


def photon_transfer(image: np.ndarray, step: float = 0.0) -> PhotonTransfer:
    """Dose and pedestal of a micrograph from its own noise.

    The noise of a block is what [1, −2, 1] ⊗ [1, −2, 1] leaves of it, which neither a plane gets through nor an edge
    along rows or columns; of the blocks of a grey level, the half whose 4 × 4 means differ least are taken, and their
    median, scaled to the mean of what is skewed as these variances are. What was smoothed, compressed or displayed with
    a gamma has another noise than a camera's: ``off`` and ``correlated`` tell. Whatever is counted one by one, at
    whatever gain, is called an electron here.

    Args:
        image: (H, W) in [0, 1].
        step: distance of two grey levels of the file, whose rounding is taken off.

    Raises:
        DataError: too few blocks that are neither black nor white, too little range of grey, or noise that does not
            grow with brightness.

    Source: EMVA 1288, the photon transfer method; the mask: J. Immerkær, "Fast noise variance estimation", Computer
    Vision and Image Understanding 64, 1996.

    >>> clean = np.linspace(0.1, 0.9, 256)[None].repeat(256, 0)
    >>> noisy = np.random.default_rng(0).poisson(100 * clean) / 100
    >>> 95 < photon_transfer(noisy).dose < 110
    True
    """
    mean, variance, flatness = _blocks(image, step)
    if len(mean) < BINS * FEWEST:
        raise DataError(
            f"too few blocks of {SIDE} × {SIDE} pixels that are neither black nor white: {len(mean)}, where "
            f"{BINS * FEWEST} are needed; give a larger image, or map its grey values another way"
        )
    level, noise = _levels(mean, variance, flatness)
    if np.ptp(level) < SPREAD:
        raise DataError(
            "it has hardly more than one grey level, and a line needs two; where it has more, map its grey values "
            "another way"
        )
    a, c = _line(level, noise)
    random, doses = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        drawn = random.integers(0, len(mean), len(mean))
        again = _line(*_levels(mean[drawn], variance[drawn], flatness[drawn]))
        doses.append(_dose(*again) if again[0] > 0 else np.inf)
    low, high = np.percentile(doses, (2.5, 97.5), method="nearest")
    if a <= 0 or not np.isfinite(high) or c / (a + c) > MOST:
        raise DataError("its noise does not grow with brightness: it was shown with a gamma, smoothed or compressed")
    coarse = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
    coarse = coarse.reshape(len(coarse) // 2, 2, -1, 2).mean((1, 3))
    at = np.interp(np.clip(coarse, level[0], level[-1]), level, noise)
    return PhotonTransfer(
        _dose(a, c), float(low), float(high), c / (a + c),
        float(np.median(np.abs(noise - (a * level + c)) / (a * level + c))),
        _correlated(coarse, at), level, noise,
    )  # fmt: skip


def _dose(a: float, c: float) -> float:
    return (a + c) / a**2


def _laplacian(image: np.ndarray) -> np.ndarray:
    """(H − 2, W − 2): what no plane and no edge along rows or columns explains; 36 times the variance of the noise."""
    rows = sum(weight * image[i : len(image) - 2 + i] for i, weight in enumerate(_MASK))
    return sum(weight * rows[:, i : rows.shape[1] - 2 + i] for i, weight in enumerate(_MASK))


@cache
def _typical(side: int) -> float:
    """Median over mean of the mean square of side² neighbours of `_laplacian` of white noise: it is skewed.

    By Cornish and Fisher κ₁ − κ₃ / 6κ₂, which is 1 − ⅔·tr R³ / (n·tr R²) for the n neighbours' correlations R, a
    product of those along rows and along columns.

    >>> round(_typical(14), 4)
    0.9845
    """
    lags = np.correlate(_MASK, _MASK, "full")[2:] / 6
    along = toeplitz(np.pad(lags, (0, side - 3)))
    squares, cubes = (float(np.trace(np.linalg.matrix_power(along, power))) ** 2 for power in (2, 3))
    return 1 - 2 / 3 * cubes / (side**2 * squares)


def _tiles(image: np.ndarray, side: int) -> np.ndarray:
    """(N, side, side): the image in squares, what is left over at its ends left out."""
    rows, columns = (size // side for size in image.shape)
    cut = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.swapaxes(1, 2).reshape(-1, side, side)


def _blocks(image: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) mean, variance of the noise, and how much the block differs within, of the blocks that nothing clips.

    The variance is scaled so that its median over blocks is that of the noise.
    """
    inner = _tiles(image, SIDE)
    left = _tiles(np.pad(_laplacian(image), ((0, 2), (0, 2)), constant_values=np.nan), SIDE)
    left = left[:, : SIDE - 2, : SIDE - 2]
    clipped = ((inner <= image.min()) | (inner >= image.max())).mean((1, 2))
    kept = (clipped < 0.01) & np.isfinite(left).all((1, 2))
    inner, left = inner[kept], left[kept]
    coarse = inner.reshape(-1, SIDE // 4, 4, SIDE // 4, 4).mean((2, 4))
    variance = np.square(left).mean((1, 2)) / (36 * _typical(SIDE - 2)) - step**2 / 12
    return inner.mean((1, 2)), variance, coarse.std((1, 2))


def _levels(mean: np.ndarray, variance: np.ndarray, flatness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(BINS,) grey and variance of the flatter half of the blocks at each grey level."""
    order = np.argsort(mean, kind="stable")
    level, noise = [], []
    for some in np.array_split(order, BINS):
        flat = some[np.argsort(flatness[some], kind="stable")[: max(len(some) // 2, 1)]]
        level.append(mean[flat].mean())
        noise.append(max(float(np.median(variance[flat])), 1e-12))
    return np.array(level), np.array(noise)


def _line(level: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """a ≥ 0 and c ≥ 0 of noise = a·level + c, with errors in proportion to the line itself."""
    weight = 1 / noise
    for _ in range(8):
        (a, c), _ = nnls(np.stack([level * weight, weight], 1), noise * weight)
        weight = 1 / np.maximum(a * level + c, 1e-12)
    return float(a), float(c)


def _correlated(coarse: np.ndarray, at: np.ndarray) -> float:
    """4 × the variance of 2 × 2 means, over that of pixels ``at`` their grey: the median over blocks."""
    side = SIDE // 2
    left = _tiles(np.pad(_laplacian(coarse), ((0, 2), (0, 2)), constant_values=np.nan), side)[:, : side - 2, : side - 2]
    ratio = 4 * np.square(left).mean((1, 2)) / (36 * _typical(side - 2)) / _tiles(at, side).mean((1, 2))
    return float(np.median(ratio[np.isfinite(ratio)]))
