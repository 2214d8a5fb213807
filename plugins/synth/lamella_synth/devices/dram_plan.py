"""DRAM capacitors from above: a hexagonal lattice of round electrodes in their high-k rings and a common plate."""

import numpy as np

from lamella_synth.roughness import Roughness
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section

TURN = 96
"""Points at which a hole's outline is tabulated."""


def draw(cut: Section) -> None:
    """Discs of mean diameter `cd` at the lattice constant `pitch`, every one of its own outline."""
    d, rng = cut.d, cut.rng
    places = _lattice(cut)
    outline = _outlines(cut, len(places))
    gone = [int(rng.choice(_central(cut, places))) for _ in cut.count("closed")]
    outline[gone] = -d["pitch"]
    distance, owner = _nearest(cut, places, outline)
    film = 0.35 * cut.surface(0, ler=1.0, length=6).take(cut.canvas.iy)

    cut.fill("plate")
    cut.fill("electrode", distance - d["high_k"] - d["top_electrode"] - film)
    cut.fill("high-k", distance - d["high_k"])
    cut.tint("high-k", "Al2O3", np.abs(distance - d["high_k"] / 2) - 0.4, 0.45)
    cut.fill("electrode", distance, objects=owner + 1)
    cut.fill("core", distance + d["wall"], objects=owner + 1)
    for k in gone:
        cut.lump("SiN", cx=places[k, 0], cy=places[k, 1], width=rng.uniform(0.35, 0.6) * d["cd"],
                 height=rng.uniform(0.35, 0.6) * d["cd"])
    _defects(cut, places)
    seen = np.abs(places).max(1) < cut.canvas.view / 2 - d["cd"]
    seen[gone] = False
    if seen.any():
        cut.record("hole cd", 2 * float(np.sqrt((outline[seen] ** 2).mean())))
        cut.record("hole cd uniformity", 3 * float(2 * np.sqrt((outline[seen] ** 2).mean(1)).std()))
    cut.record("hole pitch", d["pitch"])
    cut.record("wall thickness", d["wall"])
    cut.record("high-k thickness", d["high_k"])


def _lattice(cut: Section) -> np.ndarray:
    """Hole centres (n, 2) in nm, a little out of place, in a lattice turned by a few degrees."""
    pitch, rng, view = cut.d["pitch"], cut.rng, cut.canvas.view
    reach = int(view / pitch) + 3
    i, j = (a.ravel() for a in np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)))
    flat = np.stack([pitch * (i + 0.5 * (j % 2)), pitch * np.sqrt(0.75) * j], 1) + rng.uniform(0, pitch, 2)
    turn = np.deg2rad(rng.normal(0, 2.0))
    flat = flat @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    flat = flat[np.abs(flat).max(1) < view / 2 + 1.2 * pitch]
    return flat + rng.normal(0, cut.d["placement"], flat.shape)


def _outlines(cut: Section, count: int) -> np.ndarray:
    """Radii (count, TURN) in nm: size, ovality and roughness of every hole."""
    rng, radius = cut.rng, cut.d["cd"] / 2
    angle = np.linspace(0, 2 * np.pi, TURN, endpoint=False)
    out = np.full((count, TURN), radius) * (1 + rng.normal(0, 0.02, (count, 1)))
    for k in range(2, 10):
        size = radius * (0.035 if k == 2 else 0.045 / k)
        out += rng.normal(0, size, (count, 1)) * np.cos(k * angle + rng.uniform(0, 2 * np.pi, (count, 1)))
    return out


def _central(cut: Section, places: np.ndarray) -> np.ndarray:
    inside = np.flatnonzero(np.abs(places).max(1) < 0.4 * cut.canvas.view)
    return inside if len(inside) else np.array([0])


def _nearest(cut: Section, places: np.ndarray, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the nearest hole's outline, and that hole's number, (S, S) each."""
    distance = np.full_like(cut.x, 4 * cut.d["pitch"])
    owner = np.zeros(cut.x.shape, np.int32)
    # Beyond the films around a hole its distance does not matter.
    reach = 0.62 * cut.d["cd"] + cut.d["high_k"] + cut.d["top_electrode"] + 3
    for k, (cx, cy) in enumerate(places):
        window = cut.canvas.window(cx, cy, reach)
        dx, dy = cut.x[window] - np.float32(cx), cut.y[window] - np.float32(cy)
        turn = (np.arctan2(dy, dx) * np.float32(TURN / (2 * np.pi))) % TURN
        low = turn.astype(np.int32)
        part = turn - low
        ring = np.append(outline[k], outline[k, :1]).astype(np.float32)
        radius = ring.take(low % TURN) * (1 - part) + ring.take(low % TURN + 1) * part
        own = np.hypot(dx, dy) - radius
        nearer = own < distance[window]
        distance[window] = np.where(nearer, own, distance[window])
        owner[window] = np.where(nearer, k, owner[window])
    return distance, owner


def _defects(cut: Section, places: np.ndarray) -> None:
    d, rng = cut.d, cut.rng
    for _ in cut.count("bridge"):
        k = int(rng.choice(_central(cut, places)))
        apart = np.hypot(*(places - places[k]).T)
        other = int(rng.choice(np.flatnonzero((apart > 0) & (apart < 1.3 * d["pitch"]))))
        middle, way = (places[k] + places[other]) / 2, places[other] - places[k]
        cut.lump("electrode", cx=middle[0], cy=middle[1], width=d["pitch"] - d["cd"] + 3, height=rng.uniform(5, 9),
                 tilt=float(np.arctan2(way[1], way[0])))
    for _ in cut.count("void"):
        k = int(rng.choice(_central(cut, places)))
        cut.lump("void", cx=places[k, 0] + rng.normal(0, 1.5), cy=places[k, 1] + rng.normal(0, 1.5),
                 width=rng.uniform(5, 9), height=rng.uniform(5, 9), within="core")


DEVICE = Device(
    name="dram-plan",
    roles=("plate", "electrode", "high-k", "core"),
    materials={"plate": "poly-SiGe", "electrode": "TiN", "high-k": "ZrO2", "core": "poly-Si"},
    dims={"pitch": 52, "cd": 26, "wall": 5.0, "high_k": 6.0, "top_electrode": 3.0, "placement": 1.0},
    view_nm=230,
    defects=("closed", "bridge", "void"),
    draw=draw,
    rough=Roughness(1.0, 10, 0.7),
    generations={
        "A": Generation(),
        "B": Generation(dims={"pitch": 45, "cd": 23, "high_k": 5.2, "wall": 4.2, "placement": 1.5}, view_nm=215,
                        materials={"core": "SiO2"}, scope=Microscope(dose=320, gamma=0.55, black=0.08)),
        "C": Generation(dims={"pitch": 60, "cd": 33, "wall": 6}, view_nm=270, mode="bright-field",
                        scope=Microscope(dose=400, blur_nm=0.8)),
    },
)
