"""A row of upright structures (fins, gates, trenches, holes): rough left and right edges of known width."""

from collections.abc import Callable

import numpy as np

from lamella_synth.roughness import Roughness
from lamella_synth.tem.canvas import Canvas


class Columns:
    """Upright structures side by side, each with two rough edges tabulated along `canvas.grid`.

    `width` gives the nominal width in nm at each height of the grid; each column's own differs by `spread`
    (relative) and its place by `walk` nm. `lean` (nm) is how far a column's axis wanders from the vertical over
    the field.
    """

    def __init__(
        self,
        canvas: Canvas,
        rng: np.random.Generator,
        *,
        pitch: float,
        offset: float,
        width: np.ndarray,
        rough: Roughness,
        spread: float = 0.02,
        walk: float = 0.0,
        lean: float = 0.0,
    ) -> None:
        self.canvas, self.pitch = canvas, pitch
        first = int(np.floor((canvas.grid[0] - offset) / pitch)) - 1
        last = int(np.ceil((canvas.grid[-1] - offset) / pitch)) + 1
        count = last - first + 1
        self.first = offset + first * pitch
        self.centre = self.first + np.arange(count) * pitch + rng.normal(0, walk, count)
        own = width[None] * (1 + rng.normal(0, spread, count))[:, None]
        tilt = rng.normal(0, lean, count)[:, None] * (canvas.grid / canvas.view)[None]
        bumps = rough.edges(rng, 2 * count, canvas.grid)
        axis = self.centre[:, None] + tilt
        self.left = (axis - own / 2 + bumps[:count]).astype(np.float32)
        self.right = (axis + own / 2 + bumps[count:]).astype(np.float32)
        self.sound = np.ones(count, bool)
        """Columns without a defect of their own: only they enter the true dimensions."""
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def lateral(self) -> np.ndarray:
        """Horizontal distance (S, S) in nm from the nearest column's edge, negative inside."""
        return self._nearest_two()[0]

    def nearest(self) -> np.ndarray:
        """The number (S, S) of the nearest column, from 1."""
        return self._nearest_two()[1] + 1

    def axis_distance(self) -> np.ndarray:
        """Signed horizontal distance (S, S) in nm from the axis of the nearest column."""
        middle = ((self.left + self.right) / 2).ravel()
        at = (self.nearest() - 1) * np.int32(len(self.canvas.grid)) + self.canvas.iy
        return self.canvas.x - middle.take(at)

    def _nearest_two(self) -> tuple[np.ndarray, np.ndarray]:
        if self._found is not None:
            return self._found
        c = self.canvas
        k = np.clip(np.floor((c.x - self.first) / self.pitch), 0, len(self.centre) - 2).astype(np.int32)
        points = np.int32(len(c.grid))
        at = k * points + c.iy
        left, right = self.left.ravel(), self.right.ravel()
        here = np.maximum(left.take(at) - c.x, c.x - right.take(at))
        at += points
        there = np.maximum(left.take(at) - c.x, c.x - right.take(at))
        self._found = np.minimum(here, there), np.where(there < here, k + 1, k)
        return self._found

    def inside(self, low: float | None = None, high: float | None = None) -> np.ndarray:
        """Which columns (count,) lie in the field between two heights, by default over the whole field."""
        edge = self.canvas.view / 2
        low, high = -edge if low is None else low, edge if high is None else high
        rows = (self.canvas.grid >= low) & (self.canvas.grid <= high)
        return (self.left[:, rows].min(1) > -edge) & (self.right[:, rows].max(1) < edge)

    def nearby(self, rng: np.random.Generator) -> int:
        """A random sound column well inside the field (or the most central one)."""
        good = np.flatnonzero((np.abs(self.centre) < 0.40 * self.canvas.view) & self.sound)
        return int(rng.choice(good)) if len(good) else int(np.abs(self.centre).argmin())

    def measure(self, low: float, high: float, which: np.ndarray | None = None) -> float:
        """True mean width in nm between two heights, over `which` columns; nan if there is none.

        By default over the sound columns that lie in the field.
        """
        rows = (self.canvas.grid >= low) & (self.canvas.grid <= high)
        which = self.sound & self.inside(low, high) if which is None else which
        if not which.any() or not rows.any():
            return float("nan")
        return float((self.right - self.left)[which][:, rows].mean())

    def roughness(self, low: float, high: float, which: np.ndarray) -> tuple[float, float]:
        """True LER and LWR (3σ, nm) between two heights, after a straight line was taken off each edge."""
        rows = (self.canvas.grid >= low) & (self.canvas.grid <= high)
        if not which.any() or rows.sum() < 8:
            return float("nan"), float("nan")
        left, right = self.left[which][:, rows], self.right[which][:, rows]
        return _spread(np.concatenate([left, right])), _spread(right - left)

    def reshape(self, k: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Shift column k sideways by `change(grid)` nm: a bent or leaning structure."""
        shift = change(self.canvas.grid).astype(np.float32)
        self.left[k] += shift
        self.right[k] += shift
        self.sound[k] = False
        self._found = None


def _spread(edges: np.ndarray) -> float:
    """3σ of edges (count, rows), each about its own straight line, whose two degrees of freedom are taken off."""
    t = np.linspace(-1, 1, edges.shape[1])
    flat = edges - edges.mean(1, keepdims=True)
    flat = flat - (flat @ t / (t @ t))[:, None] * t
    return float(3 * np.sqrt((flat**2).sum() / (len(flat) * (len(t) - 2))))
