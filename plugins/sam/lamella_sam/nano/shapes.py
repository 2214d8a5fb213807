"""Shapes of everyday scenes as signed distances in pixels: negative inside, positive outside, roughly metric."""

from collections.abc import Callable

import numpy as np

Grid = tuple[np.ndarray, np.ndarray]
"""y and x of every pixel, each (H, W) float32."""
Shape = Callable[[np.random.Generator, Grid, float, float, float], np.ndarray]
"""(generator, grid, centre y, centre x, radius in pixels) to a distance map (H, W)."""


def grid(size: int) -> Grid:
    """The pixel coordinates of a square image."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return y, x


def ellipse(draw: np.random.Generator, at: Grid, cy: float, cx: float, radius: float) -> np.ndarray:
    """A turned ellipse or, with a higher power, a rounded rectangle."""
    u, v = _turned(draw, at, cy, cx)
    long, short = radius, radius * draw.uniform(0.3, 1.0)
    power = draw.choice([2.0, 2.0, 4.0, 8.0])
    ratio = (np.abs(u / long) ** power + np.abs(v / short) ** power + 1e-9) ** (1 / power)
    return (ratio - 1) * short


def blob(draw: np.random.Generator, at: Grid, cy: float, cx: float, radius: float) -> np.ndarray:
    """A closed curve whose radius wanders with the angle: pebbles, cells, puddles."""
    u, v = _turned(draw, at, cy, cx)
    angle, distance = np.arctan2(v, u), np.hypot(u, v)
    edge = np.ones_like(angle)
    for harmonic in range(2, int(draw.integers(3, 8))):
        edge += draw.normal(0, 0.45 / harmonic) * np.cos(harmonic * angle + draw.uniform(0, 2 * np.pi))
    return distance - radius * np.clip(edge, 0.25, 1.8)


def polygon(draw: np.random.Generator, at: Grid, cy: float, cx: float, radius: float) -> np.ndarray:
    """A convex polygon: the intersection of half planes."""
    sides = int(draw.integers(3, 8))
    angles = np.sort(draw.uniform(0, 2 * np.pi / sides, sides) * 0.6 + np.arange(sides) * 2 * np.pi / sides)
    angles += draw.uniform(0, 2 * np.pi)
    y, x = at[0] - cy, at[1] - cx
    far = radius * draw.uniform(0.55, 1.0, sides)
    planes = [np.cos(a) * x + np.sin(a) * y - d for a, d in zip(angles, far)]
    return np.max(planes, axis=0)


def ring(draw: np.random.Generator, at: Grid, cy: float, cx: float, radius: float) -> np.ndarray:
    """A closed band: washers, shells, bubbles with a wall."""
    inner = ellipse(draw, at, cy, cx, radius * draw.uniform(0.7, 1.0))
    wall = max(1.2, radius * draw.uniform(0.08, 0.3))
    return np.abs(inner) - wall


def worm(draw: np.random.Generator, at: Grid, cy: float, cx: float, radius: float) -> np.ndarray:
    """A thick wandering line: worms, roots, cracks, fibres."""
    count = int(draw.integers(4, 10))
    heading = draw.uniform(0, 2 * np.pi) + np.cumsum(draw.normal(0, draw.uniform(0.05, 0.6), count))
    step = 2.2 * radius / count
    y = cy + np.concatenate([[0], np.cumsum(np.sin(heading) * step)])
    x = cx + np.concatenate([[0], np.cumsum(np.cos(heading) * step)])
    y, x = y - y.mean() + cy, x - x.mean() + cx
    thick = max(0.9, radius * draw.uniform(0.04, 0.22))
    pieces = [_segment(at, *ends) for ends in zip(y[:-1], x[:-1], y[1:], x[1:])]
    return np.min(pieces, axis=0) - thick


def star(draw: np.random.Generator, at: Grid, cy: float, cx: float, radius: float) -> np.ndarray:
    """Arms around a middle: flowers, gears, starfish."""
    u, v = _turned(draw, at, cy, cx)
    arms, depth = int(draw.integers(3, 11)), draw.uniform(0.1, 0.5)
    edge = 1 - depth * (0.5 + 0.5 * np.cos(arms * np.arctan2(v, u)))
    return np.hypot(u, v) - radius * edge


SHAPES: tuple[Shape, ...] = (ellipse, blob, polygon, ring, worm, star)


def bands(draw: np.random.Generator, at: Grid) -> np.ndarray:
    """(H, W) int64 region ids of strata: wavy layers in any direction, as in rock, wood or a horizon."""
    size = at[0].shape[0]
    angle = draw.choice([0.0, np.pi / 2, draw.uniform(0, np.pi)])
    along = np.cos(angle) * at[1] + np.sin(angle) * at[0]
    across = np.cos(angle) * at[0] - np.sin(angle) * at[1]
    wave = sum(
        draw.uniform(0, 0.03) * size * np.sin(along * 2 * np.pi * draw.uniform(0.3, 5) / size + draw.uniform(0, 6.28))
        for _ in range(3)
    )
    across = across + wave * draw.choice([0.0, 1.0, 2.0])
    low, high = float(across.min()), float(across.max())
    edges = np.sort(draw.uniform(low, high, int(draw.integers(1, 9))))
    return np.searchsorted(edges, across.ravel()).reshape(across.shape).astype(np.int64)


def stones(draw: np.random.Generator, at: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Region ids and the distance to the nearest border, of a warped tessellation: pebbles, tissue, dry mud."""
    size = at[0].shape[0]
    count = int(draw.integers(5, 60))
    y, x = draw.uniform(-0.1, 1.1, (2, count)) * size
    bend = size * draw.uniform(0, 0.05)
    dy = at[0] + bend * np.sin(at[1] * 2 * np.pi * draw.uniform(1, 4) / size + draw.uniform(0, 6.28))
    dx = at[1] + bend * np.sin(at[0] * 2 * np.pi * draw.uniform(1, 4) / size + draw.uniform(0, 6.28))
    weight = draw.uniform(0, 0.15, count) * size * draw.choice([0.0, 1.0])
    far = np.stack([np.hypot(dy - a, dx - b) - w for a, b, w in zip(y, x, weight)])
    near = np.partition(far, 1, axis=0)
    return far.argmin(0).astype(np.int64), (near[1] - near[0]) / 2


def _turned(draw: np.random.Generator, at: Grid, cy: float, cx: float) -> Grid:
    angle = draw.uniform(0, 2 * np.pi)
    y, x = at[0] - cy, at[1] - cx
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _segment(at: Grid, y0: float, x0: float, y1: float, x1: float) -> np.ndarray:
    """Distance to a line segment."""
    dy, dx = y1 - y0, x1 - x0
    share = ((at[0] - y0) * dy + (at[1] - x0) * dx) / (dy * dy + dx * dx + 1e-9)
    share = np.clip(share, 0, 1)
    return np.hypot(at[0] - y0 - share * dy, at[1] - x0 - share * dx)
