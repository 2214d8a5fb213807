"""Nuisances of the kinds people train against: dirt, curtains, few electrons, an overlaid scale bar.

They are written from the physics, not from any training noise, and take other functional forms than usual there:
dirt is a deposit with a thickness of its own, curtains are grooves in the foil, low dose is an over-dispersed count.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lamella_synth.fields import cloud, mottle
from lamella_synth.tem.canvas import Phase
from lamella_synth.tem.contrast import HAADF
from lamella_synth.tem.nuisance import Nuisance

KINDS = ("contamination", "splatter", "curtains", "low-dose", "scale-bar")
LENGTHS = tuple(step * 10**k for k in range(5) for step in (1, 2, 5))


class InFamily(Nuisance):
    """One to three of `KINDS`; strengths are plausible defaults without a firm source."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.applied = tuple(sorted(rng.choice(KINDS, size=int(rng.integers(1, 4)), replace=False).tolist()))

    def relief(self, size: int) -> np.ndarray | None:
        """Curtains: V-shaped grooves that begin at some height and deepen along the milling direction."""
        if "curtains" not in self.applied:
            return None
        rng = self.rng
        x = np.linspace(0, 1, size, dtype=np.float32)
        slant = np.tan(np.deg2rad(rng.normal(0, 1.5)))
        across = x[None] + slant * (x[:, None] - 0.5)
        factor = np.ones((size, size), np.float32)
        for _ in range(int(rng.integers(5, 16))):
            middle, half, start = rng.uniform(-0.05, 1.05), rng.lognormal(-4.1, 0.6), rng.uniform(-0.8, 0.7)
            groove = np.maximum(0, 1 - np.abs(across - middle) / half)
            onset = 1 - np.exp(-np.maximum(x[:, None] - start, 0) / rng.uniform(0.05, 0.4))
            factor -= rng.uniform(0.03, 0.16) * groove * onset
        return np.maximum(factor, 0.3)

    def disturb(
        self, signal: np.ndarray, *, fractions: dict[Phase, np.ndarray], mode: str, pixel: float
    ) -> np.ndarray:
        """Dirt on the foil: a carbon film in patches, and metal splatter as little balls."""
        if "contamination" in self.applied:
            film = _patches(self.rng, signal.shape) * self.rng.uniform(0.15, 0.6)
            signal = signal + 0.48 * film if mode == HAADF else signal * (1 - 0.45 * film)
        if "splatter" in self.applied:
            balls = _balls(self.rng, signal.shape)
            heavy = self.rng.uniform(4, 14)
            signal = signal + heavy * balls if mode == HAADF else signal / (1 + 0.25 * heavy * balls)
        return signal

    def record(self, signal: np.ndarray, *, white: float, dose: float) -> np.ndarray | None:
        """Low dose: 8–60 electrons per pixel at white, counted with a spread wider than Poisson's."""
        if "low-dose" not in self.applied:
            return None
        few = float(np.exp(self.rng.uniform(np.log(8), np.log(60))))
        shape = self.rng.uniform(8, 30)
        rate = np.maximum(signal / white, 1e-6) * few
        counts = self.rng.negative_binomial(shape, shape / (shape + rate))
        return (counts / few).astype(np.float32)

    def overlay(self, levels: np.ndarray, *, pixel: float) -> np.ndarray:
        """A bar with end ticks and its length written beside it, in a corner."""
        return _bar(self.rng, levels, pixel) if "scale-bar" in self.applied else levels


def _patches(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Film thickness in [0, 1]: amoeba-like patches with soft banks and an uneven inside."""
    hills = cloud(rng, shape, shape[0] / rng.uniform(5, 11)) + 0.15 * mottle(rng, shape, shape[0] / 20)
    level = rng.uniform(0.2, 1.2)
    return (0.5 + 0.5 * np.tanh((hills - level) * 3)) * (1 + 0.15 * mottle(rng, shape, 8))


def _balls(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Projected thickness (relative to the foil) of spheres that lie about in clusters."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    total = np.zeros(shape, np.float32)
    home = rng.uniform(0, shape[0], (int(rng.integers(1, 4)), 2))
    for _ in range(int(rng.integers(4, 22))):
        cy, cx = home[rng.integers(len(home))] + rng.normal(0, shape[0] / 7, 2)
        radius = min(rng.lognormal(0.9, 0.5), 9) * shape[0] / 256
        chord = radius**2 - (x - cx) ** 2 - (y - cy) ** 2
        total += np.sqrt(np.maximum(chord, 0)) * np.float32(0.5 / radius)
    return total


def _bar(rng: np.random.Generator, levels: np.ndarray, pixel: float) -> np.ndarray:
    height, width = levels.shape
    fitting = [length for length in LENGTHS if length / pixel <= 0.28 * width]
    length = max(fitting) if fitting else 1
    long, tick = round(length / pixel), max(2, height // 60)
    picture = Image.fromarray(np.rint(levels * 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    ink = 255 if levels[-height // 6 :].mean() < 0.6 else 0
    left = int(rng.choice([0.05, 0.66]) * width)
    base = int(height * rng.uniform(0.90, 0.95))
    pen.line([(left, base), (left + long, base)], fill=ink, width=max(1, height // 128))
    for end in (left, left + long):
        pen.line([(end, base - tick), (end, base + tick)], fill=ink, width=max(1, height // 200))
    text = f"{length} nm" if length < 1000 else f"{length / 1000:g} µm"
    font = ImageFont.load_default(size=max(8, height // 18))
    pen.text((left + long / 2, base - tick), text, fill=ink, anchor="mb", font=font)
    return np.asarray(picture, np.float32) / 255
