"""What may go wrong with an image without being a defect: where in the making of an image it acts."""

import numpy as np

from lamella_synth.tem.canvas import Phase


class Nuisance:
    """No nuisance at all; the groups ``in-family`` and ``unseen`` override what they disturb.

    Each instance belongs to one image. `applied` names what was drawn for it. Labels describe the specimen as it is
    imaged: they follow drift, and take no notice of dirt, stripes or overlays.
    """

    applied: tuple[str, ...] = ()

    def drift(self, rows: int) -> np.ndarray | None:
        """Sideways displacement of each sample row in units of the field's width, or None."""
        return None

    def relief(self, size: int) -> np.ndarray | None:
        """Factor (size, size) on the foil's thickness, or None."""
        return None

    def disturb(
        self, signal: np.ndarray, *, fractions: dict[Phase, np.ndarray], mode: str, pixel: float
    ) -> np.ndarray:
        """The expected signal (H, W) as the nuisance changes it."""
        return signal

    def record(self, signal: np.ndarray, *, white: float, dose: float) -> np.ndarray | None:
        """A detector of its own: the recorded signal (H, W), 1 at `white`; None for the usual detector."""
        return None

    def overlay(self, levels: np.ndarray, *, pixel: float) -> np.ndarray:
        """The displayed picture (H, W) in [0, 1] as the nuisance changes it."""
        return levels
