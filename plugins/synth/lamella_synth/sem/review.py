"""One defect under review: a scene imaged at low, then at high magnification."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from lamella.errors import DataError

from lamella_synth.seeds import stream
from lamella_synth.sem.formation import Column, image_scene
from lamella_synth.sem.presets import SemPreset
from lamella_synth.sem.scene import CLASSES, PATTERNS, lay_out


class Review(NamedTuple):
    """Two images of one defect."""

    high: np.ndarray
    """(H, W) uint8."""
    low: np.ndarray
    mask_high: np.ndarray
    """(H, W) bool, the defect's pixels."""
    mask_low: np.ndarray
    label: int
    """Index into `CLASSES`."""
    high_nm: float
    """nm per pixel."""
    low_nm: float
    centre_high: np.ndarray
    """(2,) nm, x and y of the image's middle, seen from the defect."""
    centre_low: np.ndarray
    groups: dict[str, str]
    """device, wafer, die, tool, pattern."""
    truth: dict[str, float]


def review(preset: SemPreset, *, seed: int, index: int, size: int = 224) -> Review:
    """Review `index` of a product under a seed: the same whatever else is rendered, and in which order.

    Both images are scanned from one scene. The defect is at most 25 % of the field off the middle at low, and 10 %
    at high magnification (plausible defaults without a firm source).

    Raises: DataError for a size below 32, a negative seed or index.
    """
    if size < 32 or size % 2 or seed < 0 or index < 0:
        raise DataError(
            f"synth SEM needs an even size from 32 and no negative seed or index, not {size}, {seed}, {index}"
        )
    key = (preset.hash, seed, index)
    rng = stream(*key, "scene")
    weight = np.array([preset.weights.get(name, 0.0) for name in CLASSES])
    label = int(rng.choice(len(CLASSES), p=weight / weight.sum()))
    kind = CLASSES[label]
    wafer, die, tool = (int(rng.integers(n)) for n in (preset.wafers, preset.dies, preset.tools))
    pattern = str(rng.choice([name for name in PATTERNS[kind] if name in preset.pitch_nm]))
    shift = stream(preset.hash, seed, "wafer", wafer).normal(0, 1, 3)
    pitch = float(rng.uniform(*preset.pitch_nm[pattern]))
    duty = float(np.clip(rng.uniform(*preset.duty) + 0.015 * shift[0], 0.3, 0.7))
    ler = float(rng.uniform(*preset.ler_nm) * np.exp(0.15 * shift[1]))
    field, ratio = float(rng.uniform(*preset.field_nm)), float(rng.uniform(*preset.ratio))
    low_nm, high_nm = field / size, field / size / ratio
    scene = lay_out(rng, kind=kind, pattern=pattern, pitch=pitch, duty=duty, ler=ler, width=field * 1.6 + 4 * pitch,
                    step=max(high_nm / 2, 1.0), key=(*key, "defect"))
    off_low, off_high = rng.uniform(-0.25, 0.25, 2) * field, rng.uniform(-0.1, 0.1, 2) * field / ratio
    column = _of_tool(preset, tool)
    high, mask_high = image_scene(scene, column, stream(*key, "high"), pixel=high_nm, size=size, centre=off_high)
    low, mask_low = image_scene(scene, column, stream(*key, "low"), pixel=low_nm, size=size, centre=off_low)
    groups = {"device": preset.name, "wafer": f"{preset.name}-{seed}-W{wafer + 1:02d}",
              "die": f"{preset.name}-{seed}-W{wafer + 1:02d}-D{die + 1:03d}", "tool": f"{preset.name}-T{tool + 1}",
              "pattern": pattern}
    truth = {"pitch": pitch, "cd": duty * pitch, "ler": ler}
    return Review(high, low, mask_high, mask_low, label, high_nm, low_nm, off_high, off_low, groups, truth)


def _of_tool(preset: SemPreset, tool: int) -> Column:
    """The recipe as one tool of the fleet carries it out."""
    own = stream(preset.hash, "tool", tool).normal(0, 1, 4)
    base = preset.column
    return replace(
        base, blur=base.blur * float(np.exp(0.12 * own[0])), dose=base.dose * float(np.exp(0.2 * own[1])),
        charging=base.charging * float(np.exp(0.3 * own[2])), jitter=base.jitter * float(np.exp(0.2 * own[3])),
    )
