"""The field of view in nm, on which materials are painted one over the other."""

import numpy as np

from lamella_synth.fields import wave

OVER = 2
"""Samples per pixel and direction; each sample is anti-aliased by its distance from the edge."""

Phase = tuple[str, str]
"""What a sample is: (class of the label map, material of the contrast)."""


class Canvas:
    """Material fractions on a square field, painted by signed distance.

    `x` and `y` (S, S) are the sample positions in nm, y downwards, the origin in the middle, S = OVER·size. The
    specimen is a little turned; it bows (y displaced as a function of x alone) and leans (x as a function of y
    alone), so that horizontal and vertical dimensions stay what they are; `drift` (S,), in field widths, adds to
    the lean.
    """

    def __init__(
        self, rng: np.random.Generator, *, size: int, view_nm: float, turn_deg: float = 0.35, bow_nm: float = 0.6,
        drift: np.ndarray | None = None,
    ) -> None:
        self.size, self.view, self.pixel = size, float(view_nm), float(view_nm) / size
        points = size * OVER
        along = ((np.arange(points) + 0.5) * (self.pixel / OVER) - self.view / 2).astype(np.float32)
        turn = np.deg2rad(rng.normal(0, turn_deg))
        lean = wave(rng, points, points / 2) * np.float32(bow_nm)
        bow = wave(rng, points, points / 2) * np.float32(bow_nm)
        if drift is not None:
            lean = lean + (drift * view_nm).astype(np.float32)
        self.x = (along[None] * np.cos(turn) + (along * np.sin(turn) + lean)[:, None]).astype(np.float32)
        self.y = (along[:, None] * np.cos(turn) + (bow - along * np.sin(turn))[None]).astype(np.float32)
        margin = 0.1 * self.view + 6 * bow_nm
        step = self.pixel / (2 * OVER)
        self.grid = np.arange(-self.view / 2 - margin, self.view / 2 + margin, step)
        """Positions in nm, finer than the samples, at which edges are tabulated."""
        self.ix = self._place(self.x)
        self.iy = self._place(self.y)
        self.phases: dict[Phase, np.ndarray] = {}
        self.instance = np.zeros((points, points), np.uint16)

    def _place(self, position: np.ndarray) -> np.ndarray:
        index = (position - self.grid[0]) / (self.grid[1] - self.grid[0])
        return np.clip(np.rint(index), 0, len(self.grid) - 1).astype(np.int32)

    def window(self, cx: float, cy: float, radius: float) -> tuple[slice, slice]:
        """The samples within about `radius` nm of a point, as slices; empty outside the field."""
        per = OVER / self.pixel
        reach = radius + 0.02 * self.view

        def along(c: float) -> slice:
            low, high = np.floor((c + self.view / 2 - reach) * per), np.ceil((c + self.view / 2 + reach) * per)
            return slice(*(int(np.clip(end, 0, self.size * OVER)) for end in (low, high)))

        return along(cy), along(cx)

    def paint(
        self,
        phase: Phase,
        distance: np.ndarray,
        *,
        window: tuple[slice, slice] = (slice(None), slice(None)),
        within: str | None = None,
        strength: float = 1.0,
        instance: int | np.ndarray | None = 0,
    ) -> None:
        """Lay a phase over what is there, where `distance` (nm, in `window`) is negative.

        `within` confines it to the samples of one class, `strength` is the share it takes there. `instance`
        numbers the object (0 = none), as one number or one per sample; None leaves the objects as they are.
        """
        cover = np.clip(0.5 - distance * np.float32(OVER / self.pixel), 0, 1).astype(np.float32)
        if strength != 1.0:
            cover *= np.float32(strength)
        if within is None:
            painted = cover
            keep = 1 - cover
            for other in self.phases.values():
                other[window] *= keep
        else:
            # Only what belongs to the class changes hands; the rest of the sample stays as it is.
            painted = np.zeros_like(cover)
            for (name, _), fraction in self.phases.items():
                if name == within:
                    part = fraction[window] * cover
                    fraction[window] -= part
                    painted += part
        if phase not in self.phases:
            self.phases[phase] = np.zeros_like(self.x)
        self.phases[phase][window] += painted
        if instance is not None:
            place = self.instance[window]
            np.copyto(place, np.broadcast_to(instance, place.shape), where=painted > 0.5, casting="unsafe")

    def fractions(self) -> dict[Phase, np.ndarray]:
        """Fractions per pixel (size, size) of every phase; they add up to 1 where everything was painted."""
        return {phase: shrink(fraction) for phase, fraction in self.phases.items()}


def shrink(samples: np.ndarray) -> np.ndarray:
    """The mean of each pixel's samples: (OVER·H, OVER·W) to (H, W)."""
    rows = samples[0::OVER].copy()
    for k in range(1, OVER):
        rows += samples[k::OVER]
    out = rows[:, 0::OVER].copy()
    for k in range(1, OVER):
        out += rows[:, k::OVER]
    return out / np.float32(OVER**2)


def label_map(fractions: dict[Phase, np.ndarray], classes: tuple[str, ...]) -> np.ndarray:
    """The class with the largest fraction in each pixel, as uint8 indices into `classes`."""
    shape = next(iter(fractions.values())).shape
    share = np.zeros((len(classes), *shape), np.float32)
    for (name, _), fraction in fractions.items():
        share[classes.index(name)] += fraction
    return share.argmax(0).astype(np.uint8)
