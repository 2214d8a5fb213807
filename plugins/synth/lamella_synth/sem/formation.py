"""How a secondary-electron image comes to be: yields, edge bloom, shadow, charging, jitter, counting noise."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.signal import lfilter

from lamella_synth.fields import cloud, mottle
from lamella_synth.sem.scene import Scene
from lamella_synth.tem.canvas import shrink


@dataclass(frozen=True)
class Column:
    """A scanning microscope with its recipe; the values are plausible defaults without a firm source.

    Source: base signal times secant of the tilt plus A·exp(−distance/ℓ) at edges, ℓ 2–10 nm.
    """

    ridge: float = 0.52
    """Yield of lines, wires and the surface between holes."""
    floor: float = 0.27
    """Yield of trenches and hole bottoms."""
    bloom: float = 0.5
    """Extra signal right at an edge."""
    reach_nm: float = 6.0
    """Distance over which the extra signal fades."""
    shadow: float = 0.25
    """Relative loss at the foot of an edge."""
    blur: float = 0.8
    """Standard deviation of the probe, pixels."""
    dose: float = 90.0
    """Electrons per pixel at signal 1."""
    charging: float = 0.08
    jitter: float = 0.25
    """Standard deviation of the scan lines' displacement, pixels."""


def image_scene(
    scene: Scene, column: Column, rng: np.random.Generator, *, pixel: float, size: int, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scan a scene: (size, size) uint8, and the defect's mask (size, size) bool.

    `pixel` is nm per pixel; `centre` (x, y) is the point of the scene, in nm from the defect, in the field's middle.
    """
    points = 2 * size
    along = ((np.arange(points) + 0.5) * (pixel / 2) - size * pixel / 2).astype(np.float32)
    jitter = lfilter([1.0], [1.0, -0.75], rng.standard_normal(size)) * column.jitter * np.sqrt(1 - 0.75**2)
    x = along[None] + np.float32(centre[0]) + (pixel * jitter).astype(np.float32).repeat(2)[:, None]
    y = (along[:, None] + np.float32(centre[1])) + 0 * x
    layers = scene.at(x, y)
    step = np.float32(2 / pixel)
    mask = shrink(np.clip(0.5 - layers.defect * step, 0, 1)) > 0.5
    ridge = -layers.feature if scene.pattern.holes else layers.feature
    bright = _relief(ridge, column, pixel)
    if layers.film is not None:
        bright = _film(bright, layers.film, column, rng, step, scratch=scene.kind == "scratch")
    if layers.particle is not None:
        bright = _particle(bright, layers.particle, min(scene.size) / 2, column, step)
    signal = shrink(bright.astype(np.float32))
    signal = signal * (1 + 0.035 * cloud(rng, signal.shape, 0.8) + 0.025 * mottle(rng, signal.shape, size / 12))
    signal = gaussian_filter(signal, column.blur, truncate=3)
    return _detected(_charged(signal, column, rng), column, rng), mask


def _relief(ridge: np.ndarray, column: Column, pixel: float) -> np.ndarray:
    """Yields of ridges and floors with bloom and shadow; `ridge` is negative on ridges.

    A decay shorter than a sample is widened to it at equal area, so that edges keep their signal at any pixel size.
    """
    half = pixel / 4
    cover = np.clip(0.5 - ridge / (pixel / 2), 0, 1)
    base = column.floor + (column.ridge - column.floor) * cover
    reach = np.hypot(column.reach_nm, half)
    edge = column.bloom * column.reach_nm / reach * np.exp(-np.abs(ridge) / reach)
    foot = 5 * column.reach_nm
    shade = 1 - column.shadow * (1 - cover) * np.exp(-np.maximum(ridge, 0) / foot)
    return base * shade + edge


def _film(
    bright: np.ndarray, film: np.ndarray, column: Column, rng: np.random.Generator, step: np.float32, *, scratch: bool
) -> np.ndarray:
    cover = np.clip(0.5 - film * step, 0, 1)
    if scratch:  # ploughed: the pattern is gone, with a burr along the sides
        burr = 0.22 * np.exp(-np.abs(film) / (2.2 * column.reach_nm))
        return bright * (1 - cover) + cover * (column.floor + 0.06 + 0.15 * bright) + burr
    level = rng.uniform(0.75, 1.15) * column.ridge
    strength = rng.uniform(0.45, 0.8)
    texture = 1 + 0.08 * cloud(rng, bright.shape, 5)
    rim = 0.12 * np.exp(-np.abs(film) / (2 * column.reach_nm))
    return bright * (1 - strength * cover) + strength * cover * level * texture + rim


def _particle(
    bright: np.ndarray, body: np.ndarray, radius: float, column: Column, step: np.float32
) -> np.ndarray:
    """A lump on the surface: brighter where it curves away (secant of the tilt), with a dark halo around it."""
    cover = np.clip(0.5 - body * step, 0, 1)
    height = np.clip(-body / radius, 0, 1)
    tilt = np.sqrt(np.maximum(1 - height**2, 0))
    secant = 1 / np.sqrt(1.02 - tilt**2 * 0.9)
    lump = 0.34 + 0.17 * np.minimum(secant, 3.2)
    halo = 1 - 0.3 * np.exp(-np.maximum(body, 0) / (0.5 * radius))
    return bright * halo * (1 - cover) + cover * lump


def _charged(signal: np.ndarray, column: Column, rng: np.random.Generator) -> np.ndarray:
    """Charging: a dark tail after bright places along the scan, and a slow background."""
    keep = np.exp(-1 / rng.uniform(10, 60))
    tail = lfilter([1 - keep], [1, -keep], signal - signal.mean(), axis=1)
    tail -= tail.mean(1, keepdims=True)  # the detector's black level follows each scan line
    slow = 0.012 * cloud(rng, signal.shape, signal.shape[0] / 3)
    return signal - column.charging * 4 * tail + slow


def _detected(signal: np.ndarray, column: Column, rng: np.random.Generator) -> np.ndarray:
    """Electrons counted, amplified, and shown with the contrast set to the image."""
    electrons = rng.poisson(np.maximum(signal, 0.01) * column.dose)
    level = electrons / column.dose + 0.012 * gaussian_filter1d(rng.standard_normal(signal.shape[0]), 1)[:, None]
    low, high = np.percentile(level, (0.3, 99.7))
    return np.rint(np.clip(0.03 + 0.92 * (level - low) / (high - low), 0, 1) * 255).astype(np.uint8)
