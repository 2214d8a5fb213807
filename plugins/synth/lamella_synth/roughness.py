"""Rough edges with the power spectrum that lithography and etching leave behind."""

from dataclasses import dataclass

import numpy as np
from scipy import fft


@dataclass(frozen=True)
class Roughness:
    """Edge roughness: size, correlation length and Hurst exponent.

    Source: power spectrum Lc·σ²/(1+(f·Lc)²)^(0.5+α) as in Mack's treatment of line-edge roughness. The values
    (LER 3σ 0.5–3 nm, Lc 5–30 nm, α 0.5–0.9) are plausible defaults without a firm source.
    """

    ler_nm: float = 1.2
    """Three standard deviations, nm, of an edge much longer than ``length_nm``.

    Edges of 144 nm have 2, 4 and 10 % less at correlation lengths of 6, 12 and 30 nm: the constant part of the
    spectrum gets a quarter of its share.
    """
    length_nm: float = 12.0
    """Correlation length, nm."""
    hurst: float = 0.7

    def edges(self, rng: np.random.Generator, count: int, grid: np.ndarray) -> np.ndarray:
        """Displacements (count, len(grid)) in nm of independent edges on an even grid in nm.

        The spectrum is synthesised on twice the length and cropped, so that an edge does not end as it began.
        """
        points = fft.next_fast_len(2 * len(grid), real=True)
        frequency = fft.rfftfreq(points, float(grid[1] - grid[0]))
        power = (1.0 + (frequency * self.length_nm * 2 * np.pi) ** 2) ** -(0.5 + self.hurst)
        power[0] *= 0.5
        power *= (self.ler_nm / 3.0) ** 2 / power.sum()
        # Each bin of a real series carries its power twice: a complex normal of variance 2, halved by irfft.
        noise = rng.standard_normal((2, count, len(frequency)), dtype=np.float32)
        gain = (np.sqrt(power) * points / 2.0).astype(np.float32)
        return fft.irfft((noise[0] + 1j * noise[1]) * gain, points, axis=1)[:, : len(grid)]
