"""A cross-section while it is drawn: roles instead of materials, defects, and the table of true dimensions."""

from collections.abc import Mapping

import numpy as np

from lamella_synth.roughness import Roughness
from lamella_synth.shapes import blob
from lamella_synth.tem.canvas import Canvas
from lamella_synth.tem.columns import Columns


class Section:
    """What a device's `draw` gets: the canvas, this specimen's dimensions, its random stream, its defects.

    `d` holds the dimensions of this specimen by name, in nm (angles in degrees). `materials` says which material
    plays each role; roles are the classes of the label map. `defects` counts the defects to draw by kind.
    """

    def __init__(
        self,
        canvas: Canvas,
        rng: np.random.Generator,
        *,
        dims: Mapping[str, float],
        materials: Mapping[str, str],
        defects: Mapping[str, int],
        rough: Roughness,
    ) -> None:
        self.canvas, self.rng, self.d = canvas, rng, dims
        self.materials, self.defects, self.rough = materials, dict(defects), rough
        self.x, self.y, self.grid = canvas.x, canvas.y, canvas.grid
        self.truth: dict[str, float] = {}
        self.owners: list[str] = [""]
        """The class of each numbered object; number 0 is no object."""

    # Surfaces and rows

    def surface(self, height: float, ler: float | None = None, length: float | None = None) -> np.ndarray:
        """A rough, roughly level surface at `height` nm, tabulated along the grid in x."""
        rough = Roughness(
            self.rough.ler_nm if ler is None else ler,
            self.rough.length_nm if length is None else length,
            self.rough.hurst,
        )
        return (height + rough.edges(self.rng, 1, self.grid)[0]).astype(np.float32)

    def below(self, surface: np.ndarray) -> np.ndarray:
        """Signed distance (S, S) of what lies under a surface."""
        return surface.take(self.canvas.ix) - self.y

    def above(self, surface: np.ndarray) -> np.ndarray:
        """Signed distance (S, S) of what lies over a surface."""
        return self.y - surface.take(self.canvas.ix)

    def columns(
        self, *, pitch: float, offset: float, width: np.ndarray | float, ler: float | None = None,
        spread: float = 0.02, walk: float = 0.0, lean: float = 0.0,
    ) -> Columns:
        """A row of upright structures; see `Columns`."""
        rough = self.rough if ler is None else Roughness(ler, self.rough.length_nm, self.rough.hurst)
        profile = np.broadcast_to(np.asarray(width, float), self.grid.shape)
        return Columns(
            self.canvas, self.rng, pitch=pitch, offset=offset, width=profile, rough=rough,
            spread=spread, walk=walk, lean=lean,
        )

    # Painting

    def fill(self, role: str, distance: np.ndarray | None = None, *, material: str | None = None,
             objects: np.ndarray | None = None) -> None:
        """Paint a role where `distance` is negative (everywhere without one), perhaps as numbered objects."""
        where = np.full_like(self.x, -self.canvas.view) if distance is None else distance
        instance: int | np.ndarray = 0
        if objects is not None:
            instance = np.where(objects > 0, objects + (len(self.owners) - 1), 0)
            self.owners += [role] * int(objects.max())
        self.canvas.paint((role, material or self.materials[role]), where, instance=instance)

    def tint(self, role: str, material: str, distance: np.ndarray, strength: float) -> None:
        """Thin a role with another material, without a change of label: a seam, a density deficit.

        `strength` is the share of the foil that the other material takes; below 0.5 no label changes.
        """
        window = (slice(None), slice(None))
        self.canvas.paint((role, material), distance, window=window, within=role, strength=strength, instance=None)

    def flaw(self, material: str, distance: np.ndarray, *, window: tuple[slice, slice] = (slice(None),) * 2,
             within: str | None = None, through: float = 1.0) -> None:
        """Paint a defect made of a material (or of a role's material) as an object of its own.

        `through` is the share of the foil that it takes; the rest is still the material of `within`.
        """
        look = self.materials.get(material, material)
        host = self.materials.get(within or "", look)
        n = len(self.owners)
        self.owners.append("defect")
        self.canvas.paint(("defect", host), distance, window=window, within=within, instance=n)
        if look != host:
            self.canvas.paint(("defect", look), distance, window=window, within="defect", instance=None,
                              strength=through)

    def lump(self, material: str, *, cx: float, cy: float, width: float, height: float, tilt: float = 0.0,
             wobble: float = 0.22, within: str | None = None) -> None:
        """Paint an irregular body as a defect: a void, residue, a particle; it seldom goes through the foil."""
        window = self.canvas.window(cx, cy, 0.8 * max(width, height))
        x, y = self.x[window], self.y[window]
        if x.size:
            distance = blob(self.rng, x, y, cx=cx, cy=cy, width=width, height=height, tilt=tilt, wobble=wobble)
            self.flaw(material, distance, window=window, within=within, through=self.rng.uniform(0.45, 1.0))

    def count(self, kind: str) -> range:
        """As many turns as there are defects of this kind to draw."""
        return range(self.defects.get(kind, 0))

    # Truth

    def record(self, quantity: str, nm: float) -> None:
        """Note a true dimension in nm; one that cannot be seen in this field (nan) is left out."""
        if np.isfinite(nm):
            self.truth[quantity] = float(nm)

    def record_columns(self, name: str, row: Columns, top: float, bottom: float) -> None:
        """Note CD top, mid and bottom (10, 50, 90 % of the height, ±4 %), pitch and roughness of a row.

        They are means over the sound columns that lie in the field from top to bottom. LER and LWR are 3σ of the edge
        and of the width, as usual in semiconductor metrology.
        """
        height = bottom - top
        which = row.sound & row.inside(top, bottom)
        for part, at in (("top", 0.1), ("mid", 0.5), ("bottom", 0.9)):
            middle = top + at * height
            self.record(f"{name} cd {part}", row.measure(middle - 0.04 * height, middle + 0.04 * height, which))
        ler, lwr = row.roughness(top + 0.1 * height, bottom - 0.1 * height, which)
        self.record(f"{name} ler", ler)
        self.record(f"{name} lwr", lwr)
        self.record(f"{name} pitch", row.pitch)
