"""Presets: one product generation of one device each, frozen by a hash."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from typing import Any

from lamella.errors import DataError

from lamella_synth.roughness import Roughness
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.version import RENDERER

DEVICES = (
    "finfet", "gate-stack", "gaa", "dram-bwl", "dram-capacitor", "dram-plan", "nand-3d", "multilayer",
)
"""The device families, each a module of `lamella_synth.devices`."""

ALIASES = {
    "device-a": "finfet-a",
    "device-b": "finfet-b",
    "pair-2-a": "dram-bwl-a",
    "pair-2-b": "dram-bwl-b",
    "pair-3-a": "nand-3d-a",
    "pair-3-b": "nand-3d-b",
    "dev-1": "gaa-a",
    "dev-2": "multilayer-a",
    "demo-finfet": "finfet-c",
}
"""Names of what a preset is used for: A → B pairs of one family each, development devices that belong to none of
the pairs, a demonstration. An alias has the hash, hence the images, of what it stands for."""

WITH_SMALL_OBJECTS = ("gaa", "dram-capacitor", "dram-plan", "dram-bwl")
"""Families in which small repeated structures are counted (sheets, pillars, holes, word lines)."""


@dataclass(frozen=True)
class Preset:
    """One product generation: everything that fixes its images but the seed and the index."""

    name: str
    device: Device
    generation: str
    dims: dict[str, float]
    materials: dict[str, str]
    view_nm: float
    mode: str
    scope: Microscope
    rough: Roughness
    defect_rate: float = 0.8
    """Share of the images that have any defect; they have one or a few."""
    lots: int = 6
    tools: int = 3
    specimens: int = 4
    """Specimens per lot."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the label map, ``defect`` last."""
        return self.device.classes

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change whenever the preset or the renderer does."""
        facts: dict[str, Any] = {
            "renderer": RENDERER, "device": self.device.name, "roles": self.device.roles,
            "defects": self.device.defects, "generation": self.generation, "dims": self.dims,
            "materials": self.materials, "view_nm": self.view_nm, "mode": self.mode, "scope": asdict(self.scope),
            "rough": asdict(self.rough), "defect_rate": self.defect_rate,
            "groups": (self.lots, self.tools, self.specimens),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def names() -> list[str]:
    """All preset names: device-generation in the order of the devices, then what they are used for.

    >>> "device-a" in names()
    True
    """
    return modules() + list(ALIASES)


def modules(*, small_objects: bool = False) -> list[str]:
    """The device modules, each a family and a generation; on request only those with small objects to detect.

    >>> len(modules()), len(modules(small_objects=True))
    (24, 12)
    """
    families = WITH_SMALL_OBJECTS if small_objects else DEVICES
    return [f"{family}-{letter.lower()}" for family in families for letter in device(family).generations]


@cache
def device(name: str) -> Device:
    """A device family by name (its module is imported on first use)."""
    found = import_module(f"lamella_synth.devices.{name.replace('-', '_')}").DEVICE
    assert isinstance(found, Device)
    return found


@cache
def preset(name: str) -> Preset:
    """A preset by name or alias.

    Raises: DataError for a name that is neither.
    """
    own = ALIASES.get(name, name)
    family, _, letter = own.rpartition("-")
    if family not in DEVICES or letter.upper() not in device(family).generations:
        raise DataError(f"synth preset {name!r} is unknown; known are {', '.join(names())}")
    return _make(name, device(family), letter.upper())


def _make(name: str, family: Device, letter: str) -> Preset:
    made: Generation = family.generations[letter]
    return Preset(
        name=name, device=family, generation=letter,
        dims={**family.dims, **made.dims}, materials={**family.materials, **made.materials},
        view_nm=made.view_nm or family.view_nm, mode=made.mode, scope=made.scope, rough=made.rough or family.rough,
    )
