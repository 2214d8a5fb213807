"""DRAM cell capacitors, cut along a row of pillars: electrodes, high-k stack, plate, nitride supports, pads."""

import numpy as np

from lamella_synth.shapes import blob, intersect
from lamella_synth.tem.columns import Columns
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section


def draw(cut: Section) -> None:
    """Pillars of `cd` at mid height on metal pads; ZrO2 with a film of Al2O3 in it; two supports hold them."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    floor = d["floor"] * view + rng.normal(0, 0.02 * view)
    high = floor + 0.5 * view
    swell = d["bow"] * np.sin(np.pi * np.clip((floor - cut.grid) / high, 0, 1)) ** 2
    width = d["cd"] + swell + 0.02 * (floor - high / 2 - cut.grid)
    offset = rng.uniform(0, d["pitch"])
    pillars = cut.columns(pitch=d["pitch"], offset=offset, width=width, walk=0.8, lean=3.0)
    base = cut.surface(floor, ler=1.0)
    number = pillars.nearest()
    depth = floor + rng.normal(4, 0.8, len(pillars.centre))
    shut = [_not_open(pillars, rng, depth) for _ in cut.count("not-open")]
    body = intersect(pillars.lateral(), cut.y - depth.astype(np.float32)[number - 1], 4.0)
    film = cut.surface(0, ler=0.6, length=6).take(cut.canvas.iy)

    cut.fill("plate")
    around = np.minimum(body, cut.below(base))
    cut.fill("electrode", around - d["high_k"] - d["top_electrode"] - film)
    cut.fill("high-k", around - d["high_k"] - 0.5 * film)
    cut.tint("high-k", "Al2O3", np.abs(around - d["high_k"] / 2) - 0.4, 0.45)
    cut.fill("nitride", cut.below(base))
    supports = _supports(cut, view, floor)
    _pads(cut, offset, floor)
    cut.fill("electrode", body, objects=number)
    for k in shut:
        foot = np.where(number == k + 1, pillars.lateral(), 1e3)
        cut.flaw("oxide", intersect(foot, np.maximum(depth[k] - cut.y, cut.y - floor - 5.5), 1.0))
    _defects(cut, pillars, floor, supports)
    cut.record_columns("pillar", pillars, floor - 0.5 * view, floor)
    cut.record("high-k thickness", d["high_k"])
    cut.record("support thickness", d["support"])


def _supports(cut: Section, view: float, floor: float) -> list[float]:
    places = [floor - 0.30 * view, floor - 0.72 * view]
    for at in places:
        upper, lower = cut.surface(at - cut.d["support"] / 2, ler=1.2), cut.surface(at + cut.d["support"] / 2, ler=1.2)
        cut.fill("nitride", np.maximum(cut.below(upper), cut.above(lower)))
    return places


def _pads(cut: Section, offset: float, floor: float) -> None:
    d = cut.d
    cut.fill("oxide", cut.below(cut.surface(floor + 14, ler=1.0)))
    pads = cut.columns(pitch=d["pitch"], offset=offset, width=1.25 * d["cd"], walk=1.5, spread=0.04)
    shape = intersect(pads.lateral(), cut.below(cut.surface(floor + 5, ler=1.0)), 2.0)
    cut.fill("electrode", shape)
    cut.fill("metal", shape + 2.2)


def _not_open(pillars: Columns, rng: np.random.Generator, depth: np.ndarray) -> int:
    k = pillars.nearby(rng)
    depth[k] -= rng.uniform(9, 16)
    return k


def _defects(cut: Section, pillars: Columns, floor: float, supports: list[float]) -> None:
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    for _ in cut.count("bridge"):
        at = pillars.centre[pillars.nearby(rng)] + d["pitch"] / 2
        height = rng.uniform(supports[1] + 20, floor - 20)
        window = cut.canvas.window(at, height, 0.7 * d["pitch"])
        shape = blob(rng, cut.x[window], cut.y[window], cx=at, cy=height, width=d["pitch"] - 0.8 * d["cd"],
                     height=rng.uniform(6, 11))
        cut.flaw("electrode", np.maximum(shape, -pillars.lateral()[window]), window=window)
    for _ in cut.count("void"):
        at = pillars.centre[pillars.nearby(rng)] + d["pitch"] / 2
        cut.lump("void", cx=at, cy=rng.uniform(-0.45 * view, floor - 12), width=rng.uniform(5, 9),
                 height=rng.uniform(12, 26), within="plate")


DEVICE = Device(
    name="dram-capacitor",
    roles=("plate", "electrode", "high-k", "nitride", "oxide", "metal"),
    materials={"plate": "poly-SiGe", "electrode": "TiN", "high-k": "ZrO2", "nitride": "SiN", "oxide": "SiO2",
               "metal": "W"},
    dims={"pitch": 52, "cd": 22, "bow": 2.5, "high_k": 6.0, "top_electrode": 3.5, "support": 15,
          "floor": 0.30},
    view_nm=260,
    defects=("bridge", "void", "not-open"),
    draw=draw,
    generations={
        "A": Generation(),
        "B": Generation(dims={"pitch": 45, "cd": 19, "high_k": 5.2, "top_electrode": 3, "support": 12}, view_nm=235,
                        materials={"plate": "poly-Si"}, scope=Microscope(dose=360, gamma=0.55, black=0.07)),
        "C": Generation(dims={"pitch": 60, "cd": 28, "bow": 4, "floor": 0.56}, view_nm=300, mode="bright-field",
                        scope=Microscope(dose=400, blur_nm=0.9)),
    },
)
