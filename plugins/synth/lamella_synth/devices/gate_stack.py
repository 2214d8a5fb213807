"""Gate stack along the channel: replacement gates between spacers, grown source and drain, metal contacts."""

import numpy as np

from lamella_synth.shapes import intersect
from lamella_synth.tem.columns import Columns
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section


def draw(cut: Section) -> None:
    """Gates of length `lg` at the contacted pitch, lined with high-k and liner, capped; contacts between them."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    channel = 0.12 * view + rng.normal(0, 0.02 * view)
    crown = channel - d["gate_height"]
    flare = 0.05 * np.clip(channel - cut.grid, -10, 2 * d["gate_height"])
    offset = rng.uniform(0, d["pitch"])
    gates = cut.columns(pitch=d["pitch"], offset=offset, width=d["lg"] + flare, walk=0.5)
    room = d["pitch"] - d["lg"] - 2 * d["spacer"]
    drains = cut.columns(pitch=d["pitch"], offset=offset + d["pitch"] / 2, width=room + 5, walk=0.6, spread=0.06)
    plugs = cut.columns(pitch=d["pitch"], offset=offset + d["pitch"] / 2,
                        width=0.72 * room + 0.09 * (channel - cut.grid), walk=0.6)

    surface, top = cut.surface(channel, ler=0.8), cut.surface(crown, ler=1.2)
    cut.fill("oxide")
    cut.fill("silicon", cut.below(surface))
    _source_drain(cut, drains, surface)
    _contacts(cut, plugs, channel + 4.0, crown)
    wall = intersect(gates.lateral() - d["spacer"], cut.above(surface))
    cut.fill("nitride", intersect(wall, cut.y * -1 + crown - 4, 3.0))
    inner = intersect(gates.lateral(), cut.above(surface), 1.5)
    cut.fill("high-k", intersect(inner, cut.below(top)), objects=gates.nearest())
    cut.fill("liner", intersect(inner + d["high_k"], cut.below(top)), objects=gates.nearest())
    core = intersect(inner + d["high_k"] + d["liner"], cut.below(top))
    cut.fill("metal", core, objects=gates.nearest())
    cut.tint("metal", "void", np.abs(gates.axis_distance()) - 0.45, rng.uniform(0.1, 0.35))
    _defects(cut, gates, channel, crown)
    cut.record_columns("gate", gates, crown, channel)
    for name in ("spacer", "high_k", "liner"):
        cut.record(f"{name.replace('_', '-')} thickness", d[name])


def _source_drain(cut: Section, drains: Columns, surface: np.ndarray) -> None:
    d = cut.d
    deep = cut.y - (surface.mean() + d["sd_depth"])
    raised = surface.mean() - 5 - cut.y
    # Facets: the epitaxy narrows towards its foot and its crown.
    facet = 0.45 * np.abs(cut.y - surface.mean() - 0.35 * d["sd_depth"]) - 0.18 * d["sd_depth"]
    body = intersect(drains.lateral() + np.maximum(facet, -1.0), np.maximum(deep, raised), 6.0)
    cut.fill("source-drain", body, objects=drains.nearest())


def _contacts(cut: Section, plugs: Columns, foot: float, crown: float) -> None:
    landing = cut.y - cut.surface(foot, ler=2.0).take(cut.canvas.ix)
    shell = intersect(intersect(plugs.lateral(), landing, 3.0), cut.below(cut.surface(crown - 14, ler=1.0)))
    cut.fill("liner", shell)
    cut.fill("contact", shell + 1.8)


def _defects(cut: Section, gates: Columns, channel: float, crown: float) -> None:
    d, rng = cut.d, cut.rng
    for _ in cut.count("spacer-breach"):
        k, side = gates.nearby(rng), rng.choice([-1, 1])
        at = gates.centre[k] + side * (d["lg"] / 2 + 0.5 * d["spacer"])
        cut.lump("contact", cx=at, cy=rng.uniform(crown + 8, channel - 10), width=1.5 * d["spacer"],
                 height=rng.uniform(4, 8), within="nitride")
    for _ in cut.count("seam"):
        k = gates.nearby(rng)
        high = rng.uniform(9, 20)
        cut.lump("void", cx=gates.centre[k] + rng.normal(0, 0.6), cy=rng.uniform(crown + high, channel - 12),
                 width=rng.uniform(2.4, 4.0), height=high, within="metal")
    for _ in cut.count("epi-void"):
        at = gates.centre[gates.nearby(rng)] + d["pitch"] / 2
        cut.lump("void", cx=at + rng.normal(0, 3), cy=channel + rng.uniform(0.25, 0.8) * d["sd_depth"],
                 width=rng.uniform(4, 9), height=rng.uniform(3, 6), within="source-drain")


DEVICE = Device(
    name="gate-stack",
    roles=("silicon", "source-drain", "oxide", "nitride", "high-k", "liner", "metal", "contact"),
    materials={"silicon": "Si", "source-drain": "SiGe", "oxide": "SiO2", "nitride": "SiN", "high-k": "HfO2",
               "liner": "TiN", "metal": "W", "contact": "Co"},
    dims={"pitch": 54, "lg": 18, "spacer": 7, "gate_height": 62, "high_k": 1.9, "liner": 2.8, "sd_depth": 38},
    view_nm=165,
    defects=("spacer-breach", "seam", "epi-void"),
    draw=draw,
    generations={
        "A": Generation(),
        "B": Generation(dims={"pitch": 48, "lg": 15, "spacer": 6.2, "gate_height": 70}, view_nm=145,
                        materials={"contact": "Ru"}, scope=Microscope(dose=380, gamma=0.52, black=0.07)),
        "C": Generation(dims={"pitch": 78, "lg": 24, "spacer": 9, "sd_depth": 48}, materials={"contact": "W"},
                        view_nm=210, mode="bright-field", scope=Microscope(dose=250, blur_nm=0.6)),
    },
)
