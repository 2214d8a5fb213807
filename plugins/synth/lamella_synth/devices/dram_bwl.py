"""DRAM buried word lines: gate trenches in silicon, lined with oxide and liner, filled with metal, capped."""

import numpy as np

from lamella_synth.shapes import intersect
from lamella_synth.tem.columns import Columns
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section


def draw(cut: Section) -> None:
    """Trenches of `cd` at mid depth and `depth`; metal recessed by `recess`; every third stands in isolation oxide."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    brim = -0.30 * view + rng.normal(0, 0.015 * view)
    width = d["cd"] + d["taper"] * np.clip((brim + d["depth"] / 2 - cut.grid) / d["depth"], -0.7, 0.7)
    lines = cut.columns(pitch=d["pitch"], offset=rng.uniform(0, 3 * d["pitch"]), width=width, walk=0.5, lean=1.2)
    number, count = lines.nearest() - 1, len(lines.centre)
    depth = brim + d["depth"] * (1 + rng.normal(0, 0.015, count))
    recess = brim + d["recess"] * (1 + rng.normal(0, 0.04, count))
    lateral = lines.lateral()
    trench = intersect(lateral, cut.y - depth.astype(np.float32)[number], 0.46 * d["cd"])
    surface = cut.surface(brim, ler=1.0)

    cut.fill("oxide")
    cut.fill("nitride", cut.below(cut.surface(brim - 0.10 * view, ler=1.2)))
    cut.fill("silicon", cut.below(surface))
    _isolation(cut, lines, depth, brim)
    cut.fill("oxide", intersect(trench, cut.below(surface)))
    inner = trench + d["gate_oxide"] + cut.surface(0, ler=0.5, length=6).take(cut.canvas.iy)
    dished = 0.12 * np.abs(lateral)
    level = cut.y - dished - recess.astype(np.float32)[number]
    cut.fill("nitride", intersect(inner, cut.below(surface)))
    cut.fill("liner", intersect(inner, -level - 0.8), objects=lines.nearest())
    cut.fill("metal", intersect(inner + d["liner"], -level), objects=lines.nearest())
    cut.tint("metal", "void", np.abs(lines.axis_distance()) - 0.4, rng.uniform(0.1, 0.4))
    _defects(cut, lines, inner, recess, depth)
    cut.record_columns("word line", lines, brim, brim + d["depth"])
    cut.record("trench depth", float(depth[lines.inside()].mean() - brim) if lines.inside().any() else float("nan"))
    cut.record("gate oxide thickness", d["gate_oxide"])
    cut.record("liner thickness", d["liner"])


def _isolation(cut: Section, lines: Columns, depth: np.ndarray, brim: float) -> None:
    """Isolation oxide around every third line, tapered and deeper than the trench."""
    width = 0.62 * cut.d["pitch"] * 1.25 - 0.05 * (cut.grid - brim)
    walls = cut.columns(pitch=3 * cut.d["pitch"], offset=lines.centre[0], width=width, walk=1.0)
    floor = cut.y - float(depth.mean()) - 26
    cut.fill("oxide", intersect(intersect(walls.lateral(), floor, 9.0), brim - cut.y))


def _defects(cut: Section, lines: Columns, inner: np.ndarray, recess: np.ndarray, depth: np.ndarray) -> None:
    d, rng = cut.d, cut.rng
    for _ in cut.count("void"):
        k = lines.nearby(rng)
        high = rng.uniform(7, 20)
        cut.lump("void", cx=lines.centre[k] + rng.normal(0, 1), cy=rng.uniform(recess[k] + high, depth[k] - 16),
                 width=rng.uniform(3.5, 6.5), height=high, within="metal")
    for _ in cut.count("under-recess"):
        # Metal that was not etched back stands above its neighbours' level.
        k, extra = lines.nearby(rng), rng.uniform(7, 15)
        own = np.where(lines.nearest() == k + 1, inner + 0.7 * d["liner"], 1e3)
        shape = np.maximum(own, np.maximum(recess[k] - extra - cut.y, cut.y - recess[k] - 2.0))
        cut.flaw("metal", shape)
    for _ in cut.count("oxide-loss"):
        k, side = lines.nearby(rng), rng.choice([-1, 1])
        cut.lump("liner", cx=lines.centre[k] + side * (d["cd"] / 2 - 0.4 * d["gate_oxide"]),
                 cy=rng.uniform(recess[k] + 8, depth[k] - 20), width=1.5 * d["gate_oxide"],
                 height=rng.uniform(6, 12), wobble=0.15, within="oxide")


DEVICE = Device(
    name="dram-bwl",
    roles=("silicon", "oxide", "nitride", "liner", "metal"),
    materials={"silicon": "Si", "oxide": "SiO2", "nitride": "SiN", "liner": "TiN", "metal": "W"},
    dims={"pitch": 44, "cd": 22, "taper": 5, "depth": 140, "recess": 48, "gate_oxide": 4.4, "liner": 2.2},
    view_nm=235,
    defects=("void", "under-recess", "oxide-loss"),
    draw=draw,
    generations={
        "A": Generation(scope=Microscope(dose=1200, gamma=0.42, white=1.0)),
        "B": Generation(dims={"pitch": 37, "cd": 18.5, "depth": 155, "recess": 58, "gate_oxide": 3.8, "liner": 1.9,
                              "taper": 4}, view_nm=225, materials={"metal": "Ru"},
                        scope=Microscope(dose=600, white=1.0, gamma=0.5, black=0.07, flicker=0.008)),
        "C": Generation(dims={"pitch": 54, "cd": 26, "depth": 120, "recess": 36, "gate_oxide": 5.6}, view_nm=240,
                        mode="bright-field", scope=Microscope(dose=240, blur_nm=0.8)),
    },
)
