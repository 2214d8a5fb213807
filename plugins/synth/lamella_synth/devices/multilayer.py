"""A stack of thin films: interfaces that inherit roughness from below, pinholes, hillocks, voids."""

import numpy as np

from lamella_synth.roughness import Roughness
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section

FILMS = ("oxide", "nitride", "barrier", "metal", "barrier", "oxide", "high-k", "nitride")
"""The films from the substrate up; film k is t<k> nm thick."""


def draw(cut: Section) -> None:
    """Films of thickness t1, t2 … on silicon, the last one topped by oxide."""
    d, view = cut.d, cut.canvas.view
    level = cut.surface(0.36 * view + cut.rng.normal(0, 0.02 * view), ler=0.6, length=25)
    cut.fill("oxide")
    surfaces = [level]
    for k, _ in enumerate(FILMS, 1):
        # A film follows its substrate and adds a little of its own; thick films smooth it out.
        own = cut.surface(-d[f"t{k}"], ler=d["ler"], length=8)
        surfaces.append(0.85 * (surfaces[-1] - surfaces[-1].mean()) + surfaces[-1].mean() + own)
    for k in range(len(FILMS), 0, -1):
        cut.fill(FILMS[k - 1], cut.below(surfaces[k]))
        seen = np.abs(cut.grid) < view / 2
        thick = (surfaces[k - 1] - surfaces[k])[seen]
        if (surfaces[k][seen] > -view / 2).all():
            cut.record(f"film {k} {FILMS[k - 1]} thickness", float(thick.mean()))
            cut.record(f"film {k} {FILMS[k - 1]} roughness", float(3 * surfaces[k][seen].std()))
    cut.fill("silicon", cut.below(level))
    _defects(cut, surfaces)


def _defects(cut: Section, surfaces: list[np.ndarray]) -> None:
    rng, view, d = cut.rng, cut.canvas.view, cut.d

    def spot(film: int) -> tuple[float, float, float]:
        at = rng.uniform(-0.42, 0.42) * view
        low, high = (float(np.interp(at, cut.grid, surfaces[film - k])) for k in (1, 0))
        return at, (low + high) / 2, low - high

    for _ in cut.count("void"):
        film = int(rng.choice([1, 4, 6]))
        at, middle, thick = spot(film)
        size = min(0.75 * thick, rng.uniform(5, 11))
        cut.lump("void", cx=at, cy=middle + 0.2 * thick, width=1.4 * size, height=size, within=FILMS[film - 1])
    for _ in cut.count("pinhole"):
        film = int(rng.choice([2, 3, 5, 7]))
        at, middle, thick = spot(film)
        filler = (*FILMS, "oxide")[film]
        cut.lump(filler, cx=at, cy=middle, width=rng.uniform(3.5, 8), height=1.7 * d[f"t{film}"], wobble=0.12,
                 within=FILMS[film - 1])
    for _ in cut.count("hillock"):
        film = int(rng.choice([3, 4, 7]))
        at, middle, thick = spot(film)
        cut.lump(FILMS[film - 1], cx=at, cy=middle - 0.5 * thick, width=rng.uniform(9, 18),
                 height=rng.uniform(4, 8), wobble=0.1, within=(*FILMS, "oxide")[film])


DEVICE = Device(
    name="multilayer",
    roles=("silicon", "oxide", "nitride", "barrier", "metal", "high-k"),
    materials={"silicon": "Si", "oxide": "SiO2", "nitride": "SiN", "barrier": "TiN", "metal": "W", "high-k": "HfO2"},
    dims={"t1": 16, "t2": 7, "t3": 4, "t4": 26, "t5": 4, "t6": 18, "t7": 5, "t8": 12, "ler": 0.9},
    view_nm=140,
    defects=("void", "pinhole", "hillock"),
    draw=draw,
    rough=Roughness(0.9, 8, 0.6),
    generations={
        "A": Generation(),
        "B": Generation(
            dims={"t1": 22, "t2": 5, "t3": 2.6, "t4": 18, "t5": 2.6, "t6": 26, "t7": 7, "t8": 9, "ler": 1.4},
            materials={"metal": "Co", "barrier": "TaN"}, view_nm=125, scope=Microscope(dose=350, black=0.08),
        ),
        "C": Generation(
            dims={"t1": 30, "t4": 40, "t6": 12, "t8": 25}, materials={"metal": "Cu", "high-k": "ZrO2"},
            view_nm=190, mode="bright-field", scope=Microscope(dose=240, blur_nm=0.7),
        ),
    },
)
