"""What each material looks like: HAADF and bright-field contrast, and the texture it has inside."""

from dataclasses import dataclass
from typing import Literal

from lamella.errors import DataError


@dataclass(frozen=True)
class Material:
    """One material as a micrograph shows it.

    Source: HAADF intensity goes as ρ·Σ n·Z^1.7/A relative to Si (Z-contrast after Pennycook); bright field as
    exp(−0.15·ρ/ρ_Si) for a foil of usual thickness. Grain sizes and texture depths are plausible defaults
    without a firm source.
    """

    haadf: float
    """Scattered intensity relative to silicon, per thickness."""
    bright_field: float
    """Transmission of a foil of usual thickness, 0–1."""
    texture: Literal["amorphous", "single", "grains", "mottled", "none"]
    grain_nm: float = 0.0
    """Mean grain diameter in nm; 0 where there are no grains."""
    depth: float = 0.0
    """How much grains differ in bright field (half width, relative); HAADF shows about a third of it."""


MATERIALS: dict[str, Material] = {
    "void": Material(0.02, 1.0, "none"),
    "carbon": Material(0.48, 0.88, "amorphous", depth=0.04),
    "SiO2": Material(0.78, 0.87, "amorphous", depth=0.035),
    "Si": Material(1.0, 0.86, "single", depth=0.18),
    "poly-Si": Material(1.0, 0.86, "grains", grain_nm=16.0, depth=0.20),
    "SiN": Material(1.1, 0.82, "amorphous", depth=0.045),
    "Al2O3": Material(1.24, 0.79, "amorphous", depth=0.04),
    "SiGe": Material(1.6, 0.83, "single", depth=0.14),
    "poly-SiGe": Material(1.6, 0.83, "grains", grain_nm=12.0, depth=0.10),
    "TiN": Material(2.5, 0.72, "grains", grain_nm=3.5, depth=0.09),
    "ZrO2": Material(3.8, 0.69, "grains", grain_nm=6.0, depth=0.10),
    "Co": Material(5.6, 0.55, "mottled", grain_nm=14.0, depth=0.22),
    "Cu": Material(5.9, 0.56, "mottled", grain_nm=34.0, depth=0.22),
    "HfO2": Material(9.2, 0.54, "grains", grain_nm=5.0, depth=0.09),
    "Ru": Material(10.4, 0.45, "mottled", grain_nm=11.0, depth=0.20),
    "TaN": Material(14.6, 0.41, "grains", grain_nm=3.0, depth=0.08),
    "W": Material(21.0, 0.29, "mottled", grain_nm=12.0, depth=0.24),
}
"""Contrast by material; Si, SiO2 and SiN are nearly equal, and so are Co and Cu: the ambiguity is real."""


def material(name: str) -> Material:
    """Look a material up by name.

    Raises: DataError for a name that is not in `MATERIALS`.
    """
    if name not in MATERIALS:
        raise DataError(f"material {name!r} is unknown; known are {', '.join(MATERIALS)}")
    return MATERIALS[name]
