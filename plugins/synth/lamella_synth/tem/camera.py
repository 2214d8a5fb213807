"""From the expected signal to the 8-bit picture that is stored."""

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from lamella_synth.tem.contrast import HAADF
from lamella_synth.tem.microscope import Microscope


def expose(
    signal: np.ndarray, *, white: float, mode: str, scope: Microscope, gain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The recorded signal (H, W), 1 at `white`: gain pattern, detection noise with excess, blur, read-out.

    Noise is normal with a variance linear in the signal (photon transfer); its excess factor stands for a
    scintillator's spread of pulse heights. Source: photon-transfer line of EMVA 1288.
    """
    electrons = np.maximum(signal / white, 0) * gain * scope.dose
    if mode == HAADF:
        drift = gaussian_filter1d(rng.standard_normal(signal.shape[0]), 2.0) * 3.0
        electrons = electrons * (1 + scope.flicker * drift[:, None])
    noise = rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(electrons * scope.excess)
    # Light spreads in the scintillator: some of the noise is shared with the neighbours.
    noise = 0.72 * noise + 0.55 * gaussian_filter(noise, 0.8, truncate=2.5)
    noise += scope.readout * rng.standard_normal(signal.shape, dtype=np.float32)
    return (electrons + noise) / scope.dose


def display(
    recorded: np.ndarray, *, mode: str, scope: Microscope, darkest: float, rng: np.random.Generator
) -> np.ndarray:
    """Levels (H, W) in [0, 1] as the operator set them: black level, contrast, and gamma in HAADF.

    `darkest` is the transmission of the darkest material in view; bright field is stretched down to it.
    """
    contrast, offset = rng.normal(1, 0.03), rng.normal(0, 0.012)
    if mode == HAADF:
        # A small pedestal keeps the power's slope at zero finite, as display software does.
        foot, g = 0.008, scope.gamma
        level = (np.maximum(recorded + foot, 0) ** g - foot**g) / ((1 + foot) ** g - foot**g)
        level = scope.black + (0.94 - scope.black) * level
    else:
        low = 0.72 * darkest - 0.08
        level = scope.black + (0.90 - scope.black) * (recorded - low) / (0.95 - low)
    return np.clip(contrast * level + offset, 0, 1)


def quantise(levels: np.ndarray) -> np.ndarray:
    """Levels in [0, 1] as uint8."""
    return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
