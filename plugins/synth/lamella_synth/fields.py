"""Smooth random fields and grain patterns: what keeps a fill from looking flat."""

import numpy as np
from scipy import fft


def cloud(rng: np.random.Generator, shape: tuple[int, int], length: float) -> np.ndarray:
    """A Gaussian random field (H, W) of unit variance whose correlation length is `length` pixels."""
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]
    return _shaped(rng, shape, np.exp(-((np.pi * length) ** 2) * (fy**2 + fx**2)))


def mottle(rng: np.random.Generator, shape: tuple[int, int], length: float, slope: float = 1.4) -> np.ndarray:
    """A field (H, W) of unit variance with structure on all scales below `length` pixels (1/f^slope)."""
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]
    return _shaped(rng, shape, (1.0 / length**2 + fy**2 + fx**2) ** (-slope / 2))


def _shaped(rng: np.random.Generator, shape: tuple[int, int], gain: np.ndarray) -> np.ndarray:
    gain = gain.astype(np.float32)
    gain[0, 0] = 0.0
    white = rng.standard_normal(shape, dtype=np.float32)
    # Parseval: columns between 0 and Nyquist stand for two frequencies each.
    weight = np.full(gain.shape[1], 2.0)
    weight[0] = 1.0
    if shape[1] % 2 == 0:
        weight[-1] = 1.0
    variance = float((gain**2 * weight).sum()) / (shape[0] * shape[1])
    return fft.irfft2(fft.rfft2(white) * gain, shape) / np.float32(np.sqrt(variance))


def wave(rng: np.random.Generator, points: int, length: float) -> np.ndarray:
    """A smooth random line (points,) of unit variance and correlation length `length` points, not periodic."""
    total = points + int(6 * length) + 8
    frequency = np.fft.rfftfreq(total)
    gain = np.exp(-((np.pi * length * frequency) ** 2))
    gain[0] = 0.0
    line = np.fft.irfft(np.fft.rfft(rng.standard_normal(total)) * gain, total)[:points]
    scale = np.sqrt((gain**2).sum() * 2 / total)
    return (line / scale).astype(np.float32)


def cells(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, diameter: float
) -> tuple[np.ndarray, np.ndarray]:
    """A polycrystal on the points (x, y): a number per grain, and the distance from the nearest boundary.

    Returns (value, edge), both shaped like x: value in [−1, 1), constant over a grain; edge ≥ 0 in the units of
    x. One nucleus per square of side `diameter`, anywhere in it; each point belongs to its nearest nucleus.
    """
    u, v = x / np.float32(diameter), y / np.float32(diameter)
    left, low = int(np.floor(u.min())) - 1, int(np.floor(v.min())) - 1
    wide, high = int(np.floor(u.max())) - left + 2, int(np.floor(v.max())) - low + 2
    nuclei = rng.random((3, high * wide), dtype=np.float32)
    i, j = np.floor(u).astype(np.int32) - left, np.floor(v).astype(np.int32) - low
    u, v = u - left, v - low
    first = np.full(x.shape, np.inf, np.float32)
    second = first.copy()
    owner = np.zeros(x.shape, np.int32)
    for dj in (-1, 0, 1):
        for di in (-1, 0, 1):
            at = (j + dj) * wide + (i + di)
            apart = (i + di + nuclei[0].take(at) - u) ** 2 + (j + dj + nuclei[1].take(at) - v) ** 2
            nearer = apart < first
            second = np.where(nearer, first, np.minimum(second, apart))
            first = np.where(nearer, apart, first)
            owner = np.where(nearer, at, owner)
    return 2 * nuclei[2].take(owner) - 1, (np.sqrt(second) - np.sqrt(first)) * np.float32(diameter / 2)
