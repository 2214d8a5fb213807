"""One image of a preset: draw the section, form the contrast, expose it, and keep the truth."""

from typing import NamedTuple

import numpy as np
from lamella.errors import DataError

from lamella_synth.materials import material
from lamella_synth.presets import Preset
from lamella_synth.seeds import stream
from lamella_synth.tem.camera import display, expose, quantise
from lamella_synth.tem.canvas import OVER, Canvas, Phase, label_map
from lamella_synth.tem.contrast import HAADF, signal
from lamella_synth.tem.device import vary
from lamella_synth.tem.in_family import InFamily
from lamella_synth.tem.microscope import fixed_pattern, tool_of
from lamella_synth.tem.nuisance import Nuisance
from lamella_synth.tem.section import Section
from lamella_synth.tem.unseen import Unseen

MODES = ("preset", "haadf", "bright-field")
NUISANCES = ("none", "in-family", "unseen")


class Micrograph(NamedTuple):
    """An image of known truth."""

    image: np.ndarray
    """(H, W) uint8."""
    label: np.ndarray
    """(H, W) uint8, indices into the preset's classes."""
    instance: np.ndarray
    """(H, W) uint16, 0 = none: repeated structures and defects."""
    pixel_nm: float
    mode: str
    groups: dict[str, str]
    """device, generation, lot, tool, specimen."""
    truth: dict[str, float]
    """True dimensions in nm by quantity."""
    nuisances: tuple[str, ...]
    """What disturbs this image without being a defect."""


def render(
    preset: Preset, *, seed: int, index: int, size: int = 256, mode: str = "preset", nuisance: str = "none",
    exposure: int = 0,
) -> Micrograph:
    """Image `index` of a preset under a seed: the same whatever else is rendered, and in which order.

    `size` is the side in pixels; the field of view is the preset's, so that pixels of a larger image are smaller.
    A preset's tools are the same under every seed; lots and specimens are new under a new seed.

    A nuisance leaves the specimen as it is: with and without it, an image has the same structures and defects.
    Another `exposure` is the same specimen at the same place and display, taken once more: other noise alone.

    Raises: DataError for a mode or nuisance that is unknown, a size below 32, a negative seed, index or exposure, or
        another exposure of an image with a nuisance.
    """
    if nuisance not in NUISANCES:
        raise DataError(f"synth nuisance {nuisance!r} is unknown; allowed are {', '.join(NUISANCES)}")
    if mode not in MODES:
        raise DataError(f"synth mode {mode!r} is unknown; allowed are {', '.join(MODES)}")
    if size < 32 or size % 2:
        raise DataError(f"synth size {size} cannot be drawn; allowed are even numbers from 32")
    if seed < 0 or index < 0:
        raise DataError(f"synth seed {seed} and index {index} must not be negative")
    if exposure < 0 or (exposure and nuisance != "none"):
        raise DataError(f"synth exposure {exposure}: a number from 0, and 0 alone for images with a nuisance")
    mode = preset.mode if mode == "preset" else mode
    key = (preset.hash, seed, index)
    whose = stream(*key, "groups")
    lot, specimen, tool = (int(whose.integers(n)) for n in (preset.lots, preset.specimens, preset.tools))
    groups = {
        "device": preset.device.name, "generation": preset.generation,
        "lot": f"{preset.generation}{seed}-L{lot + 1:02d}", "tool": f"{preset.generation}-T{tool + 1}",
        "specimen": f"{preset.generation}{seed}-L{lot + 1:02d}-S{specimen + 1}",
    }
    trouble = _trouble(nuisance, stream(*key, "nuisance", nuisance))
    section = _drawn(preset, key, groups, size, trouble)
    fractions = section.canvas.fractions()
    label = label_map(fractions, preset.classes)
    image = _exposed(preset, key, groups, fractions, mode, trouble, exposure)
    return Micrograph(image, label, _objects(section, label, preset), preset.view_nm / size, mode, groups,
                      section.truth, trouble.applied)


def _trouble(nuisance: str, rng: np.random.Generator) -> Nuisance:
    if nuisance == "in-family":
        return InFamily(rng)
    return Unseen(rng) if nuisance == "unseen" else Nuisance()


def _drawn(preset: Preset, key: tuple[str, int, int], groups: dict[str, str], size: int, trouble: Nuisance) -> Section:
    rng = stream(*key, "section")
    canvas = Canvas(rng, size=size, view_nm=preset.view_nm, drift=trouble.drift(size * OVER))
    dims = vary(
        preset.dims,
        stream(preset.hash, key[1], "lot", groups["lot"]),
        stream(preset.hash, key[1], "specimen", groups["specimen"]),
        stream(*key, "place"),
        spreads=(0.025, 0.012, 0.012),
    )
    section = Section(
        canvas, rng, dims=dims, materials=preset.materials, rough=preset.rough,
        defects=_defects(preset, stream(*key, "defects")),
    )
    preset.device.draw(section)
    return section


def _defects(preset: Preset, rng: np.random.Generator) -> dict[str, int]:
    """How many defects of each kind: none in some images, mostly one, sometimes two or three."""
    count = 0 if rng.random() > preset.defect_rate else 1 + int(rng.poisson(0.5))
    chosen = [str(kind) for kind in rng.choice(preset.device.defects, size=min(count, 3))]
    return {kind: chosen.count(kind) for kind in sorted(set(chosen))}


def _exposed(
    preset: Preset, key: tuple[str, int, int], groups: dict[str, str], fractions: dict[Phase, np.ndarray], mode: str,
    trouble: Nuisance, exposure: int,
) -> np.ndarray:
    """The picture (size, size) uint8 of a specimen on its tool."""
    own = stream(*key, "image")
    foil = float(stream(preset.hash, key[1], "foil", groups["specimen"]).normal(1.0, 0.09))
    scope = tool_of(preset.scope, stream(preset.hash, "tool", groups["tool"]))
    size = next(iter(fractions.values())).shape[0]
    pixel = preset.view_nm / size
    gain = fixed_pattern(scope, stream(preset.hash, "pattern", groups["tool"], size), size)
    clean = signal(
        fractions, mode=mode, pixel=pixel, scope=scope, rng=own, foil=foil, relief=trouble.relief(size)
    )
    clean = trouble.disturb(clean, fractions=fractions, mode=mode, pixel=pixel)
    brightest = max(material(name).haadf for name in preset.materials.values())
    white = scope.white * brightest if mode == HAADF else 1.02
    recorded = trouble.record(clean * gain, white=white, dose=scope.dose)
    if recorded is None:
        recorded = expose(clean, white=white, mode=mode, scope=scope, gain=gain, rng=own)
        if exposure:
            again = stream(*key, "exposure", exposure)
            recorded = expose(clean, white=white, mode=mode, scope=scope, gain=gain, rng=again)
    seen = [material(name).bright_field for (_, name), part in fractions.items() if part.mean() > 0.01]
    levels = display(recorded, mode=mode, scope=scope, darkest=min(seen), rng=own)
    return quantise(trouble.overlay(levels, pixel=pixel))


def _objects(section: Section, label: np.ndarray, preset: Preset) -> np.ndarray:
    """Objects per pixel, numbered from 1 without gaps: of the samples in a pixel, one whose class is the label's."""
    classes = {name: k for k, name in enumerate(preset.classes)}
    owner = np.array([classes.get(name, -1) for name in section.owners])
    instance = np.zeros(label.shape, np.uint16)
    for row in range(OVER):
        for column in range(OVER):
            sample = section.canvas.instance[row::OVER, column::OVER]
            instance = np.where((instance == 0) & (owner[sample] == label), sample, instance)
    _, flat = np.unique(np.append(instance.ravel(), 0), return_inverse=True)
    return flat[:-1].reshape(instance.shape).astype(np.uint16)
