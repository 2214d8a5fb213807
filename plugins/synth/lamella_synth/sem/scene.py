"""One place on a wafer: a pattern with at most one defect, as layers at any points in nm."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lamella_synth.fields import wave
from lamella_synth.roughness import Roughness
from lamella_synth.seeds import stream
from lamella_synth.sem.patterns import Holes, Lines, Pattern, Routes
from lamella_synth.shapes import blob

CLASSES = ("none", "bridge", "open", "particle", "missing-via", "scratch", "residue", "collapse")
"""The defect classes, ``none`` first."""
PATTERNS = {
    "none": ("lines", "holes", "routes"), "bridge": ("lines", "holes", "routes"), "open": ("lines", "routes"),
    "particle": ("lines", "holes", "routes"), "missing-via": ("holes",), "scratch": ("lines", "holes", "routes"),
    "residue": ("lines", "holes", "routes"), "collapse": ("lines",),
}
"""On which patterns a defect occurs."""


class Layers(NamedTuple):
    """A scene at some points; distances in nm, negative inside."""

    feature: np.ndarray
    """The pattern as it is, with bridges, openings, missing holes, fallen lines."""
    particle: np.ndarray | None
    film: np.ndarray | None
    """Residue or a scratch: what lies on (or is missing from) the surface."""
    defect: np.ndarray
    """The defect's body; positive everywhere where there is none. A collapse covers both lines and what is between."""


@dataclass
class Scene:
    """A pattern and its defect; `at` evaluates both at any points, and gives the same at equal points."""

    pattern: Pattern
    original: Pattern
    kind: str
    site: tuple[float, float]
    size: tuple[float, float]
    """Width and height of the defect, nm."""
    key: tuple[int | str, ...]
    """Names the random outline of the defect."""
    turned: bool
    """Whether the pattern runs the other way: x and y change places."""

    def at(self, x: np.ndarray, y: np.ndarray) -> Layers:
        """The layers at the points (x, y) in nm; the defect's middle is at the origin."""
        if self.turned:
            x, y = y, x
        x, y = x + np.float32(self.site[0]), y + np.float32(self.site[1])
        feature = self.pattern.distance(x, y)
        if self.kind == "none":
            return Layers(feature, None, None, np.full_like(feature, 1e4))
        if self.kind == "missing-via":
            near = np.hypot(x - self.site[0], y - self.site[1]) - self.pattern.pitch
            return Layers(feature, None, None, np.maximum(self.original.distance(x, y), near))
        body = self._body(x, y)
        if self.kind == "collapse":
            return Layers(feature, None, None, body)
        if self.kind == "bridge":
            return Layers(np.minimum(feature, body), None, None, np.maximum(body, -feature))
        if self.kind == "open":
            return Layers(np.maximum(feature, -body), None, None, np.maximum(body, feature))
        if self.kind == "particle":
            return Layers(feature, body, None, body)
        return Layers(feature, None, body, body)

    def _body(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        rng = stream(*self.key, "outline")
        cx, cy = self.site
        if self.kind != "scratch":
            wobble = {"residue": 0.3, "collapse": 0.03}.get(self.kind, 0.15)
            tilt = 0.0 if self.kind == "collapse" else rng.uniform(-0.4, 0.4)
            # Far from the body a coarse distance will do; its outline is worked out near it.
            body = np.hypot(x - np.float32(cx), y - np.float32(cy)) - np.float32(0.6 * max(self.size))
            near = body < 1.2 * max(self.size)
            body[near] = blob(rng, x[near], y[near], cx=cx, cy=cy, width=self.size[0], height=self.size[1], tilt=tilt,
                              wobble=wobble)
            return body
        turn = rng.uniform(0, np.pi)
        along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        length, wide = self.size
        bend = 0.06 * length * wave(rng, 257, 50)
        half = wide / 2 * (1 + 0.25 * wave(rng, 257, 6))
        bend -= bend[128]
        t = np.clip(np.rint((along / length + 0.5) * 256), 0, 256).astype(np.int32)
        return np.maximum(np.abs(across - bend.take(t)) - half.take(t), np.abs(along) - length / 2).astype(np.float32)


def lay_out(
    rng: np.random.Generator, *, kind: str, pattern: str, pitch: float, duty: float, ler: float, width: float,
    step: float, key: tuple[int | str, ...],
) -> Scene:
    """Draw a scene with a defect of a kind: the pattern over `width` nm, tabulated every `step` nm.

    `pitch` is in nm, `duty` is CD over pitch, `ler` the edge roughness (3σ, nm). Sizes of defects are plausible
    defaults without a firm source: 0.4–2.5 pitches.
    """
    seed = int(rng.integers(2**62))
    changed = _pattern(stream("pattern", seed), pattern, pitch, duty, ler, width, step)
    # Only a missing hole needs the pattern as it was meant.
    original = _pattern(stream("pattern", seed), pattern, pitch, duty, ler, width, step) if changed.holes else changed
    gap = pitch * (1 - duty)
    cd = pitch * duty
    size = {
        "none": (pitch, pitch),
        "bridge": (1.5 * (cd if changed.holes else gap), rng.uniform(0.35, 0.8) * pitch),
        "open": (1.5 * cd, rng.uniform(0.3, 0.8) * pitch),
        "particle": tuple(rng.uniform(0.5, 1.8) * pitch * rng.uniform(0.8, 1.25, 2)),
        "missing-via": (cd, cd),
        "scratch": (rng.uniform(3, 7) * pitch, rng.uniform(0.2, 0.5) * pitch),
        "residue": tuple(rng.uniform(0.8, 2.4) * pitch * rng.uniform(0.7, 1.4, 2)),
        "collapse": (1.2 * pitch, rng.uniform(2.5, 5) * pitch),
    }[kind]
    site = changed.site(rng, kind)
    if kind == "bridge" and changed.holes:
        size = (1.35 * gap, rng.uniform(0.4, 0.7) * cd)
    if pattern == "routes" and kind in ("bridge", "open"):
        size = size[1], size[0]
    if kind == "missing-via":
        assert isinstance(changed, Holes)
        changed.close()
    if kind == "collapse":
        assert isinstance(changed, Lines)
        site = changed.space(site[0]), 0.0
        changed.lean(*site, length=size[1], shift=0.52 * gap)
    return Scene(changed, original, kind, site, (float(size[0]), float(size[1])), key, bool(rng.random() < 0.3))


def _pattern(
    rng: np.random.Generator, name: str, pitch: float, duty: float, ler: float, width: float, step: float
) -> Pattern:
    rough = Roughness(ler, 0.3 * pitch, 0.65)
    if name == "lines":
        return Lines(rng, pitch=pitch, cd=duty * pitch, rough=rough, width=width, step=step)
    if name == "routes":
        return Routes(rng, pitch=pitch, cd=duty * pitch, rough=rough, width=width, step=step)
    return Holes(rng, pitch=pitch, cd=duty * pitch, width=width, hexagonal=bool(rng.random() < 0.6))
