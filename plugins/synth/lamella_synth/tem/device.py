"""What a device is: roles, materials, dimensions, defects, and how to draw a cross-section of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lamella_synth.roughness import Roughness
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section

DEFECT = "defect"
"""The class of every defect, last in the list of classes."""


@dataclass(frozen=True)
class Generation:
    """What a product generation changes in a device: some dimensions, materials, the view, the microscope."""

    dims: Mapping[str, float] = field(default_factory=dict)
    materials: Mapping[str, str] = field(default_factory=dict)
    view_nm: float | None = None
    mode: str = "haadf"
    """How its images are usually taken: ``haadf`` or ``bright-field``."""
    scope: Microscope = field(default_factory=Microscope)
    rough: Roughness | None = None


@dataclass(frozen=True)
class Device:
    """A family of structures; its generations change numbers and materials, never the classes.

    The dimensions are plausible defaults without a firm source; a preset overrides them.
    """

    name: str
    roles: tuple[str, ...]
    """The classes of the label map, in order, without the defect class."""
    materials: Mapping[str, str]
    """The material that plays each role."""
    dims: Mapping[str, float]
    """Nominal dimensions in nm; a name ending in ``_deg`` is an angle, ``pitch`` varies ten times less."""
    view_nm: float
    """Side of the field of view, nm."""
    defects: tuple[str, ...]
    draw: Callable[[Section], None]
    rough: Roughness = field(default_factory=Roughness)
    generations: Mapping[str, Generation] = field(default_factory=lambda: {"A": Generation()})

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the label map: the roles, then the defect class."""
        return (*self.roles, DEFECT)


def vary(dims: Mapping[str, float], *streams: np.random.Generator, spreads: tuple[float, ...]) -> dict[str, float]:
    """Dimensions after process variation: one log-normal factor per stream (lot, specimen, place).

    Angles move by 20 degrees times the spread instead. The spreads are plausible defaults without a source.
    """
    out = dict(dims)
    for rng, spread in zip(streams, spreads):
        for name, step in zip(out, rng.standard_normal(len(out)) * spread):
            if name.endswith("_deg"):
                out[name] += 20.0 * step
            else:
                out[name] *= float(np.exp(step * (0.1 if "pitch" in name else 1.0)))
    return out
