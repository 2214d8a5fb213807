"""FinFET across the fins: silicon fins from a substrate, STI between them, and a wrapped metal gate."""

import numpy as np

from lamella_synth.shapes import intersect, union
from lamella_synth.tem.columns import Columns
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section


def draw(cut: Section) -> None:
    """Fins of `cd` at mid height, tapered; high-k and liner of even thickness; gate metal; a nitride cap."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    top = -0.16 * view + rng.normal(0, 0.02 * view)
    foot = top + d["height"]
    slope = 2 / np.tan(np.deg2rad(d["taper_deg"]))
    width = d["cd"] + slope * np.clip(cut.grid - (top + foot) / 2, -0.6 * d["height"], 2.2 * d["height"])
    # Fins flare out where the trench was filled: a steeper foot under the oxide.
    width = width + 0.10 * np.clip(cut.grid - foot, 0, None)
    fins = cut.columns(pitch=d["pitch"], offset=rng.uniform(0, d["pitch"]), width=width, walk=0.35, lean=0.8)
    bent = [_bend(cut, fins, top, foot) for _ in cut.count("bent-fin")]

    lateral = fins.lateral()
    tip = cut.surface(top, ler=1.0)
    fin = intersect(lateral, cut.below(tip), 0.42 * d["cd"])
    sti = cut.below(cut.surface(foot, ler=1.0)) - 0.10 * np.clip(8 - np.abs(lateral), 0, 8)
    ground = union(fin, sti, 1.5)
    film = cut.surface(0, ler=0.5, length=6).take(cut.canvas.iy)

    cut.fill("nitride")
    cut.fill("metal", cut.below(cut.surface(top - d["gate"], ler=1.5)))
    cut.fill("liner", ground - d["high_k"] - d["liner"] - film)
    cut.fill("high-k", ground - d["high_k"] - 0.5 * film)
    cut.fill("oxide", sti)
    bottom = cut.surface(foot + d["sti"], ler=2.0, length=20)
    silicon = union(fin, cut.below(bottom), 7.0)
    cut.fill("silicon", silicon, objects=np.where(cut.y < foot, fins.nearest(), 0))
    for k in bent:
        own = np.where(fins.nearest() == k + 1, fin, 1e3)
        cut.flaw("silicon", np.maximum(own, cut.y - (top + 0.55 * d["height"])))
    _gate_defects(cut, fins, top, foot)
    cut.record_columns("fin", fins, top, foot)
    cut.record("fin height", d["height"])
    cut.record("high-k thickness", d["high_k"])
    cut.record("liner thickness", d["liner"])


def _bend(cut: Section, fins: Columns, top: float, foot: float) -> int:
    k = fins.nearby(cut.rng)
    reach = cut.rng.choice([-1, 1]) * cut.rng.uniform(0.10, 0.2) * cut.d["pitch"]
    fins.reshape(k, lambda y: reach * np.clip((foot - y) / (foot - top), 0, 1.3) ** 2)
    return k


def _gate_defects(cut: Section, fins: Columns, top: float, foot: float) -> None:
    d, rng = cut.d, cut.rng
    wrap = d["high_k"] + d["liner"]
    for _ in cut.count("void"):
        gap = fins.centre[fins.nearby(rng)] + d["pitch"] / 2
        wide = np.clip(d["pitch"] - d["cd"] - 2 * wrap, 2.5, 9)
        if rng.random() < 0.5:  # a seam's end between two fins
            cut.lump("void", cx=gap, cy=rng.uniform(top + 6, foot - 14), width=0.6 * wide,
                     height=rng.uniform(6, 13), within="metal")
        else:
            cut.lump("void", cx=rng.uniform(-0.4, 0.4) * cut.canvas.view, cy=top - rng.uniform(0.35, 0.75) * d["gate"],
                     width=rng.uniform(5, 10), height=rng.uniform(3.5, 7), within="metal")
    for _ in cut.count("residue"):
        k, side = fins.nearby(rng), rng.choice([-1, 1])
        at = fins.centre[k] + side * (d["cd"] / 2 + wrap + 2.0)
        cut.lump(str(rng.choice(["nitride", "oxide", "liner"])), cx=at, cy=foot - wrap - rng.uniform(1, 4),
                 width=rng.uniform(5, 9), height=rng.uniform(4, 9), tilt=side * 0.5, within="metal")


DEVICE = Device(
    name="finfet",
    roles=("silicon", "oxide", "nitride", "high-k", "liner", "metal"),
    materials={"silicon": "Si", "oxide": "SiO2", "nitride": "SiN", "high-k": "HfO2", "liner": "TiN", "metal": "W"},
    dims={"pitch": 34, "cd": 8, "taper_deg": 87, "height": 46, "high_k": 1.9, "liner": 3.0, "gate": 34, "sti": 38},
    view_nm=140,
    defects=("bent-fin", "residue", "void"),
    draw=draw,
    generations={
        "A": Generation(scope=Microscope(dose=1400, gamma=0.41)),
        "B": Generation(
            dims={"pitch": 28, "cd": 6.5, "height": 52, "taper_deg": 88, "high_k": 1.7, "liner": 2.4, "gate": 30},
            materials={"metal": "Ru"}, view_nm=118,
            scope=Microscope(dose=800, gamma=0.5, black=0.07, blur_nm=0.55, readout=5),
        ),
        "C": Generation(
            dims={"pitch": 44, "cd": 10, "height": 40, "taper_deg": 85, "liner": 3.8, "sti": 50}, view_nm=170,
            mode="bright-field", scope=Microscope(dose=260, blur_nm=0.6, pattern=0.01),
        ),
    },
)
