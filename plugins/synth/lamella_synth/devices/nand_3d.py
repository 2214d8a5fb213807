"""3D NAND: word-line tiers of metal and oxide, pierced by channel holes with their charge-trap stack."""

import numpy as np

from lamella_synth.fields import wave
from lamella_synth.shapes import intersect
from lamella_synth.tem.columns import Columns
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section


def draw(cut: Section) -> None:
    """Tiers of height `tier`, a share `metal` of it metal; tapered, bowed holes with their films, poly and core."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    phase = rng.uniform(0, d["tier"])
    # Where along the hole this field lies: near the top it is wide, further down it has narrowed.
    depth = rng.uniform(0, 1)
    axis = (cut.grid / view + 0.5) * 0.25 + depth * 0.75
    width = d["cd"] * (1.06 - d["taper"] * axis + 0.05 * np.exp(-(((axis - 0.2) / 0.12) ** 2)))
    ripple = 0.8 * np.tanh(4 * np.cos(2 * np.pi * (cut.grid - phase) / d["tier"]))
    holes = cut.columns(pitch=d["pitch"], offset=rng.uniform(0, d["pitch"]), width=width + ripple,
                        walk=2.0, lean=5.0, spread=0.025)
    lateral = holes.lateral()
    number = holes.nearest()

    cut.fill("oxide")
    levels = _tiers(cut, phase, lateral)
    cut.fill("oxide", lateral)
    stack = (("nitride", d["block"]), ("oxide", d["trap"]), ("poly", d["tunnel"]), ("oxide", d["channel"]))
    film = cut.surface(0, ler=0.9, length=10).take(cut.canvas.iy)
    reach = 0.0
    for k, (role, thick) in enumerate(stack):
        reach += thick
        cut.fill(role, lateral + reach + (0.4 * film if k < 3 else film), objects=number)
    if rng.random() < 0.6:
        _core_seam(cut, holes, reach)
    _defects(cut, holes, levels)
    cut.record_columns("hole", holes, -0.45 * view, 0.45 * view)
    cut.record("tier pitch", d["tier"])
    for name in ("block", "trap", "tunnel", "channel"):
        cut.record(f"{name} thickness", d[name])


def _tiers(cut: Section, phase: float, lateral: np.ndarray) -> list[float]:
    """Paint the word lines; return the heights of their middles."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    first = -int(0.6 * view / d["tier"]) - 2
    count = 2 * -first + 1
    middle = phase + (first + np.arange(count)) * d["tier"] + rng.normal(0, 0.5, count)
    half = d["metal"] * d["tier"] / 2 * (1 + rng.normal(0, 0.015, count))
    upper = (middle - half)[:, None] + cut.rough.edges(rng, count, cut.grid)
    lower = (middle + half)[:, None] + cut.rough.edges(rng, count, cut.grid)
    # Tungsten grows from both faces and meets in a seam of low density.
    seam = middle[:, None] + 0.8 * np.stack([wave(rng, len(cut.grid), 60) for _ in middle])
    tier = np.clip(np.rint((cut.y - phase) / d["tier"]) - first, 0, count - 1).astype(np.int32)
    at = tier * np.int32(len(cut.grid)) + cut.canvas.ix
    shape = np.maximum(upper.astype(np.float32).take(at) - cut.y, cut.y - lower.astype(np.float32).take(at))
    shape = intersect(shape, -lateral - 0.6, 4.0)
    cut.fill("metal", shape, material=cut.materials["liner"])
    cut.fill("metal", shape + 2.2)
    gap = np.abs(cut.y - seam.astype(np.float32).take(at)) - 0.7
    cut.tint("metal", "void", gap, rng.uniform(0.12, 0.4))
    return [float(place) for place in middle if abs(place) < 0.42 * view]


def _core_seam(cut: Section, holes: Columns, reach: float) -> None:
    """A thin low-density line down the core oxide of every hole: its fill closed from both sides."""
    cut.tint("oxide", "void", np.maximum(np.abs(holes.axis_distance()) - 1.4, holes.lateral() + reach), 0.3)


def _defects(cut: Section, holes: Columns, levels: list[float]) -> None:
    d, rng = cut.d, cut.rng
    wide = holes.right - holes.left
    for _ in cut.count("metal-void"):
        k, side = holes.nearby(rng), rng.choice([-1, 1])
        at = holes.centre[k] + side * (wide[k].mean() / 2 + rng.uniform(9, 20))
        cut.lump("void", cx=at, cy=float(rng.choice(levels)) + rng.normal(0, 1.5), width=rng.uniform(10, 24),
                 height=rng.uniform(6, 11), within="metal")
    for _ in cut.count("notch"):
        k, side = holes.nearby(rng), rng.choice([-1, 1])
        at = float(rng.choice(levels))
        row = int(np.argmin(np.abs(cut.grid - at)))
        edge = holes.right[k, row] if side > 0 else holes.left[k, row]
        cut.lump("nitride", cx=edge + side * 2.5, cy=at + rng.normal(0, 3), width=rng.uniform(10, 15),
                 height=rng.uniform(9, 16), wobble=0.12, within="metal")
    for _ in cut.count("channel-void"):
        k, side = holes.nearby(rng), rng.choice([-1, 1])
        inset = d["block"] + d["trap"] + d["tunnel"] + d["channel"] / 2
        at = rng.uniform(-0.4, 0.4) * cut.canvas.view
        row = int(np.argmin(np.abs(cut.grid - at)))
        edge = holes.right[k, row] - inset if side > 0 else holes.left[k, row] + inset
        cut.lump("void", cx=edge, cy=at, width=1.1 * d["channel"], height=rng.uniform(14, 30), wobble=0.12,
                 within="poly")


DEVICE = Device(
    name="nand-3d",
    roles=("metal", "oxide", "nitride", "poly"),
    materials={"metal": "W", "liner": "TiN", "oxide": "SiO2", "nitride": "SiN", "poly": "poly-Si"},
    dims={"tier": 52, "metal": 0.52, "pitch": 152, "cd": 94, "taper": 0.16, "block": 7, "trap": 6.5, "tunnel": 6,
          "channel": 9},
    view_nm=330,
    defects=("metal-void", "notch", "channel-void"),
    draw=draw,
    generations={
        "A": Generation(scope=Microscope(blur_nm=0.8, dose=2600, gamma=0.34, white=1.0)),
        "B": Generation(dims={"tier": 44, "pitch": 136, "cd": 84, "taper": 0.2, "channel": 7.5, "block": 6},
                        materials={"liner": "TaN"}, view_nm=300,
                        scope=Microscope(dose=1500, gamma=0.4, black=0.06, blur_nm=1.0)),
        "C": Generation(dims={"tier": 60, "metal": 0.48, "cd": 100, "pitch": 165}, view_nm=380, mode="bright-field",
                        scope=Microscope(dose=240, blur_nm=1.1)),
    },
)
