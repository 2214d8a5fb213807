"""Gate-all-around across the sheets: stacked silicon nanosheets, each wrapped by high-k, liner and gate metal."""

import numpy as np

from lamella_synth.shapes import intersect, union
from lamella_synth.tem.columns import Columns
from lamella_synth.tem.device import Device, Generation
from lamella_synth.tem.microscope import Microscope
from lamella_synth.tem.section import Section


def draw(cut: Section) -> None:
    """`sheets` sheets of `sheet` nm with `gap` nm between them, over a silicon base in shallow trench oxide."""
    d, rng, view = cut.d, cut.rng, cut.canvas.view
    count, step = round(d["sheets_count"]), d["sheet"] + d["gap"]
    base = 0.20 * view + rng.normal(0, 0.02 * view)
    heights = [base - d["gap"] - d["sheet"] / 2 - k * step for k in range(count)]
    crown = heights[-1] - d["sheet"] / 2
    width = d["width"] + 0.06 * (cut.grid - crown)
    stacks = cut.columns(pitch=d["pitch"], offset=rng.uniform(0, d["pitch"]), width=width, walk=0.6, spread=0.03)
    lateral, nearest = stacks.lateral(), stacks.nearest()

    bodies = [_sheet(cut, lateral, at) for at in heights]
    gone = _missing(cut, stacks, bodies, nearest)
    foot = union(intersect(lateral, cut.below(cut.surface(base, ler=0.6)), 2.0), base + d["sti"] - cut.y, 6.0)
    sti = cut.below(cut.surface(base + 7, ler=1.2))
    ground = union(foot, sti, 1.5)
    whole = np.minimum.reduce([*bodies, ground])
    cut.fill("oxide")
    cut.fill("metal", cut.below(cut.surface(crown - d["gate"], ler=1.5)))
    cut.fill("liner", whole - d["high_k"] - d["liner"])
    cut.fill("high-k", whole - d["high_k"])
    cut.fill("oxide", sti)
    cut.fill("silicon", foot)
    for k, body in enumerate(bodies):
        cut.fill("silicon", body, objects=nearest + k * len(stacks.centre))
    for shape in gone:
        cut.flaw("liner", shape + 0.5)
    _defects(cut, stacks, heights)
    for k, at in enumerate(heights, 1):
        cut.record(f"sheet {k} width", stacks.measure(at - 0.15 * d["sheet"], at + 0.15 * d["sheet"]))
    cut.record("sheet pitch", step)
    cut.record("sheet thickness", d["sheet"])
    cut.record("stack pitch", d["pitch"])
    for name in ("high_k", "liner"):
        cut.record(f"{name.replace('_', '-')} thickness", d[name])


def _sheet(cut: Section, lateral: np.ndarray, at: float) -> np.ndarray:
    half = cut.d["sheet"] / 2
    upper, lower = cut.surface(at - half, ler=0.5), cut.surface(at + half, ler=0.5)
    return intersect(lateral, np.maximum(cut.below(upper), cut.above(lower)), 0.7 * half)


def _missing(
    cut: Section, stacks: Columns, bodies: list[np.ndarray], nearest: np.ndarray
) -> list[np.ndarray]:
    """Take sheets away (or shorten them); return where they should have been."""
    lost = []
    for _ in cut.count("missing-sheet"):
        k, which = stacks.nearby(cut.rng), int(cut.rng.integers(len(bodies)))
        edge = stacks.centre[k] + cut.rng.choice([-1, 1]) * cut.rng.uniform(-0.1, 0.15) * cut.d["width"]
        side = (cut.x - edge) * (1 if edge > stacks.centre[k] else -1)
        own = np.where(nearest == k + 1, bodies[which], 1e3)
        cutter = np.where(nearest == k + 1, side, 1e3)
        stacks.sound[k] = False
        lost.append(np.maximum(own, -cutter))
        bodies[which] = np.where(nearest == k + 1, intersect(bodies[which], side, 1.5), bodies[which])
    return lost


def _defects(cut: Section, stacks: Columns, heights: list[float]) -> None:
    d, rng = cut.d, cut.rng
    for _ in cut.count("residue"):
        at = float(rng.choice(heights)) + (d["sheet"] + d["gap"]) / 2
        cut.lump("SiGe", cx=stacks.centre[stacks.nearby(rng)] + rng.normal(0, 0.25) * d["width"], cy=at,
                 width=rng.uniform(7, 12), height=0.62 * d["gap"], wobble=0.15, within="liner")
    for _ in cut.count("void"):
        at = stacks.centre[stacks.nearby(rng)] + d["pitch"] / 2 + rng.normal(0, 2)
        cut.lump("void", cx=at, cy=rng.uniform(heights[-1], heights[0]), width=rng.uniform(3.5, 6),
                 height=rng.uniform(6, 12), within="metal")


DEVICE = Device(
    name="gaa",
    roles=("silicon", "oxide", "high-k", "liner", "metal"),
    materials={"silicon": "Si", "oxide": "SiO2", "high-k": "HfO2", "liner": "TiN", "metal": "W"},
    dims={"pitch": 58, "width": 28, "sheet": 6, "gap": 10.5, "sheets_count": 3, "high_k": 1.8, "liner": 2.2,
          "gate": 20, "sti": 42},
    view_nm=125,
    defects=("missing-sheet", "residue", "void"),
    draw=draw,
    generations={
        "A": Generation(),
        "B": Generation(dims={"pitch": 46, "width": 20, "sheet": 5.2, "gap": 9.5, "sheets_count": 4}, view_nm=120,
                        materials={"metal": "Co"}, scope=Microscope(dose=380, gamma=0.55, black=0.06)),
        "C": Generation(dims={"pitch": 80, "width": 46, "sheet": 7, "gap": 12, "liner": 3}, view_nm=150,
                        mode="bright-field", scope=Microscope(dose=260, blur_nm=0.5)),
    },
)
