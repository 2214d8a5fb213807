"""A microscope: how sharp, how noisy, how its detector shades; and what each tool of a fleet makes of it."""

from dataclasses import dataclass, replace

import numpy as np

from lamella_synth.fields import cloud, mottle


@dataclass(frozen=True)
class Microscope:
    """Settings of an instrument; all values are plausible defaults without a firm source."""

    blur_nm: float = 0.45
    """Standard deviation of the probe or of the information limit, nm."""
    interface_nm: float = 0.35
    """Standard deviation of the transition between two materials as projected through the foil, nm."""
    dose: float = 700.0
    """Electrons per pixel at white."""
    excess: float = 1.6
    """Variance of the detected signal over that of the counted electrons."""
    readout: float = 3.0
    """Read-out noise, electrons."""
    flicker: float = 0.004
    """Slow change of the gain from scan line to scan line (scanning modes), relative."""
    shading: float = 0.04
    """Uneven illumination over the field, relative."""
    pattern: float = 0.006
    """Fixed gain pattern of the detector, relative."""
    gamma: float = 0.45
    """Exponent of the display in HAADF."""
    white: float = 1.18
    """Signal shown as white, relative to the brightest material; below 1 the brightest saturate."""
    black: float = 0.03
    """Display level of zero signal."""
    tails: float = 0.06
    """Share of the signal that is spread widely by scattering in the foil."""


def tool_of(fleet: Microscope, rng: np.random.Generator) -> Microscope:
    """One instrument of a fleet: every setting moved by its own few per cent.

    `rng` belongs to the tool, so that all its images share the same deviations.
    """
    a = rng.standard_normal(6)
    return replace(
        fleet,
        blur_nm=fleet.blur_nm * float(np.exp(0.12 * a[0])),
        dose=fleet.dose * float(np.exp(0.20 * a[1])),
        readout=fleet.readout * float(np.exp(0.15 * a[2])),
        gamma=fleet.gamma * float(np.exp(0.05 * a[3])),
        black=max(0.0, fleet.black + 0.012 * float(a[4])),
        shading=fleet.shading * float(np.exp(0.3 * a[5])),
    )


def fixed_pattern(scope: Microscope, rng: np.random.Generator, size: int) -> np.ndarray:
    """The gain (size, size) a tool's detector leaves in every image: shading, blotches, single pixels.

    `rng` belongs to the tool: every image of a tool carries the same pattern.
    """
    slow = cloud(rng, (size, size), size / 3)
    blotch = mottle(rng, (size, size), size / 12)
    pixel = rng.standard_normal((size, size), dtype=np.float32)
    return 1 + scope.shading * 0.5 * slow + scope.pattern * (0.7 * blotch + 0.5 * pixel)
