"""One synthetic wafer surface: pads and lines on an oxide, with particles and scratches, seen in colour."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

CLASSES = ("oxide", "line", "pad", "particle", "scratch")
OXIDE, LINE, PAD, PARTICLE, SCRATCH = range(5)
PIXEL_NM = 400.0
LOTS = 6

_OXIDES = np.array([(0.18, 0.32, 0.48), (0.40, 0.28, 0.52), (0.20, 0.46, 0.38)])
"""Interference colours of three oxide thicknesses; a lot has one of them, a little varied."""
_METAL = np.array([(0.76, 0.50, 0.34), (0.68, 0.60, 0.32)])
"""Colours of lines and pads: of one brightness, so that it takes colour or shape to tell them apart."""
_BARE = np.array([0.55, 0.56, 0.58])
"""Colour of a scratch."""


class Surface(NamedTuple):
    """An image with its truth."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    label: np.ndarray
    """(H, W) uint8, a class of `CLASSES`."""
    lot: str


def surface(seed: int, index: int, size: int, *, dark_field: bool = False) -> Surface:
    """Surface ``index`` of a seed: it depends on nothing else.

    >>> surface(0, 3, 64).image.shape, bool((surface(0, 3, 64).label == surface(0, 3, 64).label).all())
    ((64, 64, 3), True)
    """
    random = np.random.default_rng([seed, index])
    lot = int(random.integers(LOTS))
    label = _pattern(random, size)
    particles = _particles(random, label)
    _scratch(random, label)
    colour = _dark_field(label) if dark_field else _bright_field(random, label, particles, lot)
    colour = gaussian_filter(colour, (0.7, 0.7, 0.0)) + random.normal(0.0, 0.015, colour.shape)
    return Surface((colour.clip(0, 1) * 255).round().astype(np.uint8), label, f"lot-{lot}")


def _pattern(random: np.random.Generator, size: int) -> np.ndarray:
    """Lines of one pitch over a part of the image, pads on a coarse grid over the rest."""
    label = np.zeros((size, size), np.uint8)
    pitch = int(random.integers(9, 15))
    edge = int(size * random.uniform(0.35, 0.65))
    start = int(random.integers(pitch))
    for left in range(start, edge - pitch // 2, pitch):
        label[:, left : left + pitch // 2] = LINE
    side = int(random.integers(14, 22))
    gap = int(random.integers(8, 14))
    for top in range(int(random.integers(gap)), size, side + gap):
        for left in range(edge + gap, size - side // 2, side + gap):
            label[top : top + side, left : left + side] = PAD
    return label if random.random() < 0.5 else label.T.copy()


def _particles(random: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """Mark particles in ``label``; returns their thickness (H, W), 1 in the middle and 0 outside."""
    size = len(label)
    rows, columns = np.mgrid[:size, :size]
    thickness = np.zeros(label.shape)
    for _ in range(int(random.integers(2, 6))):
        y, x, radius, stretch = *random.uniform(4, size - 4, 2), random.uniform(2.5, 5.5), random.uniform(0.7, 1.4)
        distance = np.hypot((rows - y) * stretch, (columns - x) / stretch) / radius
        thickness = np.maximum(thickness, np.clip(1.0 - distance**2, 0.0, 1.0))
    label[thickness > 0] = PARTICLE
    return thickness


def _scratch(random: np.random.Generator, label: np.ndarray) -> None:
    """Mark one or two slightly bent scratches in ``label``, 2 to 3 px wide; particles lie on top."""
    size = len(label)
    rows, columns = np.mgrid[:size, :size]
    for _ in range(int(random.integers(1, 3))):
        angle, y, x = random.uniform(0, np.pi), *random.uniform(0.2, 0.8, 2) * size
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        bend, reach = random.uniform(-0.5, 0.5) / size, random.uniform(0.3, 0.6) * size
        here = (abs(across - bend * along**2) < random.uniform(1.0, 1.6)) & (abs(along) < reach)
        label[here & (label != PARTICLE)] = SCRATCH


def _bright_field(random: np.random.Generator, label: np.ndarray, particles: np.ndarray, lot: int) -> np.ndarray:
    """Colours (H, W, 3) in bright field: particles dark, scratches grey."""
    oxide = _OXIDES[lot % len(_OXIDES)] * (0.9 + 0.04 * lot) + random.normal(0.0, 0.01, 3)
    colours = np.stack([oxide, *_METAL, oxide, _BARE])
    colour = colours[label] * random.uniform(0.9, 1.05)
    return colour * (1.0 - 0.85 * particles[..., None] ** 0.5)


def _dark_field(label: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) in dark field: edges, scratches and particles shine, flat surfaces are dark."""
    edge = np.zeros(label.shape, bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    bright = np.array([0.03, 0.08, 0.12, 0.75, 0.60])[label] + 0.35 * edge
    return bright[..., None] * np.array([0.95, 1.0, 1.05])
