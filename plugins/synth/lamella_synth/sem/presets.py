"""SEM presets: which patterns, pitches, defects and microscope a product shows at inspection."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lamella.errors import DataError

from lamella_synth.sem.formation import Column
from lamella_synth.version import RENDERER


@dataclass(frozen=True)
class SemPreset:
    """A product at a review microscope; the values are plausible defaults without a firm source."""

    name: str
    pitch_nm: Mapping[str, tuple[float, float]]
    """Range of pitches for each pattern (lines, holes, routes)."""
    weights: Mapping[str, float]
    """How often each defect class occurs, relative."""
    duty: tuple[float, float] = (0.42, 0.58)
    """Range of CD over pitch."""
    ler_nm: tuple[float, float] = (1.5, 4.5)
    field_nm: tuple[float, float] = (2600.0, 4200.0)
    """Range of the low-magnification field; review tools show 5–15 µm on four times as many pixels."""
    ratio: tuple[float, float] = (3.0, 8.0)
    """Range of the ratio between the two magnifications."""
    column: Column = field(default_factory=Column)
    tools: int = 3
    wafers: int = 8
    dies: int = 40

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change whenever the preset or the renderer does."""
        facts = {key: value for key, value in asdict(self).items() if key != "name"}
        text = json.dumps({"renderer": RENDERER, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_COMMON = {"none": 3, "particle": 3, "residue": 2, "bridge": 2, "open": 1.5, "missing-via": 1.5, "scratch": 1,
           "collapse": 1}

PRESETS = {
    "sem-a": SemPreset(
        "sem-a", {"lines": (90, 140), "holes": (110, 170), "routes": (120, 180)}, _COMMON,
    ),
    "sem-b": SemPreset(
        "sem-b", {"lines": (80, 110), "holes": (100, 140), "routes": (110, 150)},
        {**_COMMON, "none": 2, "residue": 3, "collapse": 0.6}, duty=(0.36, 0.5), ler_nm=(2.5, 6),
        field_nm=(2200.0, 3400.0),
        column=Column(ridge=0.40, floor=0.33, bloom=0.34, reach_nm=8, dose=65, blur=1.0, charging=0.12, jitter=0.4),
    ),
    "sem-c": SemPreset(
        "sem-c", {"lines": (150, 200), "holes": (170, 200), "routes": (120, 150)},
        {**_COMMON, "open": 3, "bridge": 3}, ratio=(4.0, 10.0), field_nm=(3400.0, 5200.0),
        column=Column(ridge=0.34, floor=0.48, bloom=0.42, shadow=0.1, dose=140, blur=0.6, charging=0.05),
    ),
}
"""Products by name; ``sem-a`` to ``sem-b`` is the A → B pair, ``sem-c`` the development product."""


def sem_preset(name: str) -> SemPreset:
    """A SEM preset by name.

    Raises: DataError for an unknown name.

    >>> sem_preset("sem-a").ratio
    (3.0, 8.0)
    """
    if name not in PRESETS:
        raise DataError(f"synth SEM preset {name!r} is unknown; known are {', '.join(PRESETS)}")
    return PRESETS[name]
