"""From material fractions to the signal a perfect detector would see, in HAADF or bright field."""

import numpy as np
from scipy.ndimage import gaussian_filter

from lamella_synth.fields import cells, cloud, mottle, wave
from lamella_synth.materials import Material, material
from lamella_synth.tem.canvas import Phase
from lamella_synth.tem.microscope import Microscope

HAADF, BRIGHT_FIELD = "haadf", "bright-field"


class Texture:
    """What happens inside materials: grains, mottled fill, amorphous speckle; drawn once per image."""

    def __init__(self, rng: np.random.Generator, size: int, pixel: float) -> None:
        self.rng, self.pixel = rng, pixel
        self.speckle = cloud(rng, (size, size), max(0.5, 0.28 / pixel))
        self.blotch = mottle(rng, (size, size), max(4.0, 9.0 / pixel))
        self.strain = cloud(rng, (size, size), 26 / pixel)
        at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(pixel)
        # Grains of a film are seen through a warped lattice: their boundaries are neither straight nor alike.
        self.x = at[None] + 1.2 * cloud(rng, (size, size), 2.5 / pixel)
        self.y = at[:, None] + 1.2 * cloud(rng, (size, size), 2.5 / pixel)

    def of(self, what: Material, mode: str) -> np.ndarray | float:
        """Relative brightness (size, size) of a material about its mean.

        Orientation shows in bright field (diffraction) more strongly than in HAADF (channelling);
        metal fills are porous besides, which HAADF shows.
        """
        depth = what.depth * (1.0 if mode == BRIGHT_FIELD else 0.75 if what.texture == "mottled" else 0.4)
        if what.texture == "none":
            return 1.0
        if what.texture == "amorphous":
            return 1 + depth * (self.speckle + 0.35 * self.blotch)
        if what.texture == "single":
            # A crystal near a zone axis diffracts: darker in bright field, and brighter in HAADF by channelling.
            tilt = self.rng.uniform(-1, 0.2) * depth if mode == BRIGHT_FIELD else self.rng.uniform(0.04, 0.22)
            return 1 + tilt + 0.22 * depth * self.strain + 0.012 * self.speckle
        value, edge = cells(self.rng, self.x, self.y, what.grain_nm * self.rng.uniform(0.85, 1.2))
        wall = np.exp(-((edge / 0.7) ** 2))
        grains = depth * value - 0.35 * depth * wall
        if what.texture == "grains":
            return 1 + grains + 0.5 * depth * self.speckle
        return 1 + 0.8 * grains + depth * (0.42 * self.blotch + 0.18 * self.speckle)


def thickness(rng: np.random.Generator, size: int) -> np.ndarray:
    """Foil thickness (size, size) relative to the usual: a bent wedge with slow waves on it."""
    t = np.linspace(-1, 1, size, dtype=np.float32)
    slope, bend = rng.normal(0, 0.05, 2), rng.normal(0, 0.025, 3)
    plane = slope[0] * t[None] + slope[1] * t[:, None]
    bowl = bend[0] * t[None] ** 2 + bend[1] * t[:, None] ** 2 + bend[2] * t[None] * t[:, None]
    lines = 0.006 * wave(rng, size, size / 18)[None] * np.ones((size, 1), np.float32)
    return 1 + plane + bowl + lines + 0.015 * cloud(rng, (size, size), size / 6)


def signal(
    fractions: dict[Phase, np.ndarray], *, mode: str, pixel: float, scope: Microscope, rng: np.random.Generator,
    foil: float = 1.0, relief: np.ndarray | None = None,
) -> np.ndarray:
    """Expected signal (size, size): HAADF relative to silicon, bright field as transmission in [0, 1].

    `foil` is the foil's thickness relative to the usual, `relief` (size, size) a factor on it. Source: the
    contrast of `Material`, linear in thickness for HAADF, exponential for bright field; fractions add up incoherently.
    """
    size = next(iter(fractions.values())).shape[0]
    texture = Texture(rng, size, pixel)
    thick = foil * thickness(rng, size)
    if relief is not None:
        thick = thick * relief
    share: dict[str, np.ndarray] = {}
    for (_, name), fraction in fractions.items():
        share[name] = share[name] + fraction if name in share else fraction
    total = np.zeros((size, size), np.float32)
    for name, fraction in share.items():
        what = material(name)
        if mode == HAADF:
            bright = what.haadf * thick
        else:
            bright = np.float32(what.bright_field) ** thick
        total += fraction * bright * texture.of(what, mode)
    return _blurred(total, pixel=pixel, scope=scope, rng=rng)


def _blurred(image: np.ndarray, *, pixel: float, scope: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Probe, interface width (uneven over the field: edges are not all seen end-on) and wide tails."""
    sharp = gaussian_filter(image, scope.blur_nm / pixel, truncate=3)
    soft = gaussian_filter(sharp, 2.2 * scope.interface_nm / pixel, truncate=3)
    uneven = np.clip(0.5 + 0.35 * cloud(rng, image.shape, image.shape[0] / 9), 0, 1)
    mixed = sharp + uneven * (soft - sharp)
    half = mixed.reshape(mixed.shape[0] // 2, 2, -1, 2).mean((1, 3))
    wide = gaussian_filter(half, 2.0 / pixel, truncate=2).repeat(2, 0).repeat(2, 1)
    return mixed + np.float32(scope.tails) * (wide - mixed)
