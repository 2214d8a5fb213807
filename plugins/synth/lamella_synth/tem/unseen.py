"""Nuisances that nobody trains against here: they stand for the surprises of another day at the microscope."""

from io import BytesIO

import numpy as np
from PIL import Image
from scipy import fft

from lamella_synth.fields import cloud, wave
from lamella_synth.materials import material
from lamella_synth.tem.canvas import Phase
from lamella_synth.tem.contrast import HAADF
from lamella_synth.tem.nuisance import Nuisance

KINDS = ("defocus", "bend-contours", "thickness-fringes", "drift", "seams")


class Unseen(Nuisance):
    """One or two of `KINDS`; strengths are plausible defaults without a firm source."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.applied = tuple(sorted(rng.choice(KINDS, size=int(rng.integers(1, 3)), replace=False).tolist()))

    def drift(self, rows: int) -> np.ndarray | None:
        """The stage creeps while the frame is scanned, and sometimes slips."""
        if "drift" not in self.applied:
            return None
        t = np.linspace(-1, 1, rows)
        creep = self.rng.normal(0, 0.02) * t + self.rng.normal(0, 0.012) * t**2
        slip = self.rng.normal(0, 0.006) / (1 + np.exp(-(t - self.rng.uniform(-0.8, 0.8)) * rows / 8))
        return (creep + slip + 0.0015 * wave(self.rng, rows, rows / 14)).astype(np.float32)

    def disturb(
        self, signal: np.ndarray, *, fractions: dict[Phase, np.ndarray], mode: str, pixel: float
    ) -> np.ndarray:
        """Defocus with astigmatism, bend contours and thickness fringes."""
        crystal = sum(
            part for (_, name), part in fractions.items() if material(name).texture in ("single", "grains", "mottled")
        )
        depth = 0.3 if mode == HAADF else 1.0
        if "bend-contours" in self.applied:
            signal = signal * (1 - depth * crystal * self._contours(signal.shape))
        if "thickness-fringes" in self.applied:
            signal = signal * (1 + depth * crystal * self._fringes(signal.shape))
        if "defocus" in self.applied:
            signal = self._defocused(signal, mode)
        return signal

    def _contours(self, shape: tuple[int, int]) -> np.ndarray:
        """Pairs of dark bands where the bent foil passes through Bragg's condition."""
        rng = self.rng
        y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
        turn = rng.uniform(0, np.pi)
        across = x * np.cos(turn) + y * np.sin(turn)
        tilt = (across - rng.uniform(-0.6, 0.6)) + 0.25 * across**2 + 0.12 * cloud(rng, shape, shape[0] / 4)
        bragg, sharp = rng.uniform(0.12, 0.4), rng.uniform(0.03, 0.09)
        bands = sum(1 / (1 + ((tilt - side * bragg) / sharp) ** 2) for side in (-1, 1))
        return rng.uniform(0.12, 0.35) * bands

    def _fringes(self, shape: tuple[int, int]) -> np.ndarray:
        """Pendellösung: brightness swings with thickness in a wedge, ever weaker as the foil gets thick."""
        rng = self.rng
        y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j].astype(np.float32)
        turn = rng.uniform(-0.5, 0.5) + rng.choice([0, np.pi / 2, np.pi, 1.5 * np.pi])
        wedge = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn) + 0.5
        extinctions = rng.uniform(1.5, 4.5) * (wedge + 0.04 * cloud(rng, shape, shape[0] / 5))
        return rng.uniform(0.08, 0.22) * np.exp(-np.maximum(extinctions, 0) / 2.5) * np.cos(2 * np.pi * extinctions)

    def _defocused(self, signal: np.ndarray, mode: str) -> np.ndarray:
        """An oscillating transfer in bright field (Fresnel fringes), an elliptical probe in HAADF."""
        rng, pad = self.rng, 16
        around = np.pad(signal, pad, mode="reflect")
        fy, fx = fft.fftfreq(around.shape[0])[:, None], fft.rfftfreq(around.shape[1])[None]
        squared, angle = fy**2 + fx**2, np.arctan2(fy, fx)
        focus = rng.uniform(4, 16) * (1 + rng.uniform(0.1, 0.6) * np.cos(2 * (angle - rng.uniform(0, np.pi))))
        if mode == HAADF:
            transfer = np.exp(-1.1 * focus * squared)
        else:
            phase = 4 * focus * squared
            transfer = np.exp(-1.5 * focus * squared) * (np.cos(phase) + rng.choice([-1, 1]) * np.sin(phase))
        return fft.irfft2(fft.rfft2(around) * transfer, around.shape)[pad:-pad, pad:-pad].astype(np.float32)

    def overlay(self, levels: np.ndarray, *, pixel: float) -> np.ndarray:
        """Tiles that were stitched with unequal brightness, or JPEG's blocks."""
        if "seams" not in self.applied:
            return levels
        if self.rng.random() < 0.5:
            buffer = BytesIO()
            Image.fromarray(np.rint(levels * 255).astype(np.uint8)).save(
                buffer, format="JPEG", quality=int(self.rng.integers(12, 40))
            )
            return np.asarray(Image.open(buffer), np.float32) / 255
        out = levels.copy()
        cut = (int(levels.shape[0] * self.rng.uniform(0.25, 0.75)), int(levels.shape[1] * self.rng.uniform(0.25, 0.75)))
        for tile in ((slice(cut[0]), slice(None)), (slice(None), slice(cut[1]))):
            left, right = self.rng.normal(1, 0.05, 2)
            ramp = np.linspace(float(left), float(right), levels.shape[1])[tile[1]]
            out[tile] = out[tile] * ramp + self.rng.normal(0, 0.02)
        return np.clip(out, 0, 1)
