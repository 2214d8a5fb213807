"""Patterns on a wafer as signed distances at any points in nm, so that one scene serves every magnification."""

from typing import Protocol

import numpy as np

from lamella_synth.roughness import Roughness
from lamella_synth.shapes import intersect


class Pattern(Protocol):
    """A printed pattern; `distance` is negative inside its features (lines, wires or holes)."""

    holes: bool
    """Whether its features are holes in the surface rather than ridges on it."""
    pitch: float
    cd: float

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance in nm at the points (x, y), any shape."""

    def site(self, rng: np.random.Generator, kind: str) -> tuple[float, float]:
        """A place near the origin, in nm, where a defect of a kind can sit."""


class Lines:
    """Upright lines and spaces with rough edges; `width` nm of field are tabulated every `step` nm."""

    holes = False

    def __init__(
        self, rng: np.random.Generator, *, pitch: float, cd: float, rough: Roughness, width: float, step: float
    ) -> None:
        self.pitch, self.cd = pitch, cd
        count = int(width / pitch) + 4
        self.first = -(count // 2) * pitch + rng.uniform(-0.5, 0.5) * pitch
        self.grid = np.arange(-0.5 * width - 8 * step, 0.5 * width + 8 * step, step)
        bumps = rough.edges(rng, 2 * count, self.grid)
        middle = (self.first + pitch * np.arange(count))[:, None] + rng.normal(0, 0.01 * pitch, (count, 1))
        self.left = (middle - cd / 2 + bumps[:count]).astype(np.float32)
        self.right = (middle + cd / 2 + bumps[count:]).astype(np.float32)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance in nm at the points (x, y)."""
        points = len(self.grid)
        row = np.clip(np.rint((y - self.grid[0]) / (self.grid[1] - self.grid[0])), 0, points - 1).astype(np.int32)
        k = np.clip(np.floor((x - self.first) / self.pitch), 0, len(self.left) - 2).astype(np.int32)
        at = k * points + row
        left, right = self.left.ravel(), self.right.ravel()
        here = np.maximum(left.take(at) - x, x - right.take(at))
        there = np.maximum(left.take(at + points) - x, x - right.take(at + points))
        return np.minimum(here, there)

    def site(self, rng: np.random.Generator, kind: str) -> tuple[float, float]:
        """The middle of a space for a bridge, of a line for an opening, anywhere for the rest."""
        k = round(-self.first / self.pitch)
        if kind == "open":
            return self.first + k * self.pitch, 0.0
        if kind == "bridge":
            return self.first + (k + 0.5) * self.pitch, 0.0
        return rng.uniform(-0.5, 0.5) * self.pitch, 0.0

    def space(self, x: float) -> float:
        """The middle of the space nearest to x."""
        return self.first + (np.floor((x - self.first) / self.pitch) + 0.5) * self.pitch

    def lean(self, x: float, y: float, *, length: float, shift: float) -> None:
        """Let the two lines beside x fall against each other over `length` nm about y."""
        k = int(np.clip(np.floor((x - self.first) / self.pitch), 0, len(self.left) - 2))
        sway = shift * np.exp(-(((self.grid - y) / (0.5 * length)) ** 4))
        for line, way in ((k, 1), (k + 1, -1)):
            self.left[line] += (way * sway).astype(np.float32)
            self.right[line] += (way * sway).astype(np.float32)


class Holes:
    """A lattice of round holes (hexagonal or square), each with its own place, size and ovality."""

    holes = True

    def __init__(self, rng: np.random.Generator, *, pitch: float, cd: float, width: float, hexagonal: bool) -> None:
        self.pitch, self.cd, self.hexagonal = pitch, cd, hexagonal
        self.rise = pitch * (np.sqrt(0.75) if hexagonal else 1.0)
        self.half = int(0.75 * width / self.rise) + 4
        shape = (2 * self.half + 1, 2 * self.half + 1)
        self.place = rng.normal(0, 0.02 * pitch, (2, *shape)).astype(np.float32)
        self.radius = (cd / 2 * (1 + rng.normal(0, 0.03, shape))).astype(np.float32)
        self.oval = rng.normal(0, 0.03, (4, *shape)).astype(np.float32)

    def _lattice(self, x: np.ndarray, y: np.ndarray, j: np.ndarray) -> np.ndarray:
        shift = 0.5 * (j % 2) if self.hexagonal else 0.0
        i = np.rint(x / self.pitch - shift)
        row = np.clip(j.astype(np.int32) + self.half, 0, 2 * self.half)
        column = np.clip(i.astype(np.int32) + self.half, 0, 2 * self.half)
        at = row * (2 * self.half + 1) + column
        dx = x - (i + shift) * self.pitch - self.place[0].ravel().take(at)
        dy = y - j * self.rise - self.place[1].ravel().take(at)
        rho = np.maximum(np.hypot(dx, dy), 1e-3)
        cosine, sine = dx / rho, dy / rho
        a, b, c, d = (part.ravel().take(at) for part in self.oval)
        double = a * (cosine**2 - sine**2) + b * 2 * sine * cosine
        triple = c * cosine * (1 - 4 * sine**2) + d * sine * (3 - 4 * sine**2)
        return rho - self.radius.ravel().take(at) * (1 + double + triple)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance in nm at the points (x, y)."""
        j = np.floor(y / self.rise)
        return np.minimum(self._lattice(x, y, j), self._lattice(x, y, j + 1)).astype(np.float32)

    def site(self, rng: np.random.Generator, kind: str) -> tuple[float, float]:
        """A hole for a missing via, between two holes for a bridge, anywhere for the rest."""
        if kind == "missing-via":
            return 0.0, 0.0
        if kind == "bridge":
            return 0.5 * self.pitch, 0.0
        return rng.uniform(-0.5, 0.5) * self.pitch, rng.uniform(-0.5, 0.5) * self.pitch

    def close(self) -> None:
        """Take the hole at the origin away."""
        self.radius[self.half, self.half] = -self.pitch


class Routes:
    """Logic-like wiring: horizontal wires on tracks, cut at random places, here and there joined by a jog."""

    holes = False

    def __init__(
        self, rng: np.random.Generator, *, pitch: float, cd: float, rough: Roughness, width: float, step: float
    ) -> None:
        self.pitch, self.cd, self.step = pitch, cd, step
        self.count = int(width / pitch) + 4
        self.first = -(self.count // 2) * pitch
        self.grid = np.arange(-0.5 * width - 8 * step, 0.5 * width + 8 * step, step)
        self.ends = np.stack([self._wires(rng, width) for _ in range(self.count)]).astype(np.float32)
        self.edges = rough.edges(rng, 2 * self.count, self.grid)
        self.jogs = np.stack([self._joins(rng, width, k) for k in range(self.count)]).astype(np.float32)

    def _joins(self, rng: np.random.Generator, width: float, track: int) -> np.ndarray:
        """Distance along a track from the nearest wire that joins it to the next; none near the origin."""
        out = np.full(len(self.grid), 1e4)
        far = abs(self.first + track * self.pitch)
        for at in rng.uniform(-0.5, 0.5, rng.poisson(0.02 * width / self.pitch)) * width:
            if abs(at) + far > 3 * self.pitch:
                out = np.minimum(out, np.abs(self.grid - at) - self.cd / 2)
        return out

    def _wires(self, rng: np.random.Generator, width: float) -> np.ndarray:
        """Distance along a track from the nearest wire's end, negative on a wire."""
        out = np.full(len(self.grid), np.inf)
        at = -0.5 * width - rng.exponential(8 * self.pitch)
        while at < 0.5 * width:
            length, gap = self.pitch * (3 + rng.exponential(10)), self.pitch * (0.9 + rng.exponential(0.7))
            out = np.minimum(out, np.maximum(at - self.grid, self.grid - at - length))
            at += length + gap
        return np.minimum(out, 1e4)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance in nm at the points (x, y)."""
        points = len(self.grid)
        column = np.clip(np.rint((x - self.grid[0]) / self.step), 0, points - 1).astype(np.int32)
        low = np.clip(np.floor((y - self.first) / self.pitch), 0, self.count - 2).astype(np.int32)
        best: np.ndarray | None = None
        for k in (low, low + 1):
            at = k * points + column
            away = y - (self.first + k * self.pitch)
            over = away - self.cd / 2 - self.edges[: self.count].ravel().take(at)
            under = -away - self.cd / 2 - self.edges[self.count :].ravel().take(at)
            wire = intersect(self.ends.ravel().take(at), np.maximum(over, under), 0.4 * self.cd)
            best = wire if best is None else np.minimum(best, wire)
        assert best is not None
        between = np.abs(y - (self.first + (low + 0.5) * self.pitch)) - self.pitch / 2
        best = np.minimum(best, np.maximum(self.jogs.ravel().take(low * points + column), between))
        return best.astype(np.float32)

    def site(self, rng: np.random.Generator, kind: str) -> tuple[float, float]:
        """Between two wires for a bridge, on a wire for an opening, anywhere for the rest."""
        track = self.count // 2
        on = np.flatnonzero((self.ends[track] < -self.pitch) & (self.ends[track + 1] < -self.pitch))
        place = float(self.grid[on[np.abs(self.grid[on]).argmin()]]) if len(on) else 0.0
        if kind == "bridge":
            return place, self.first + (track + 0.5) * self.pitch
        return place, self.first + track * self.pitch
