"""The perturbations this plugin offers and the sets it ships: plain data, in the order in which an image is made."""

from typing import Any

TARGETS: dict[str, str] = {
    "reframe": "lamella_sem.perturbations.reframe:Reframe",
    "flip": "lamella_sem.perturbations.flip:Flip",
    "charging": "lamella_sem.perturbations.charging:Charging",
    "defocus": "lamella_sem.perturbations.defocus:Defocus",
    "sem-scan-jitter": "lamella_sem.perturbations.scan_jitter:SemScanJitter",
    "sem-shot-noise": "lamella_sem.perturbations.shot_noise:SemShotNoise",
    "sem-intensity": "lamella_sem.perturbations.intensity:SemIntensity",
}
"""Every perturbation of this plugin, in physical order."""

SETS: dict[str, list[dict[str, Any]]] = {
    "sem-views": [
        {"name": "reframe"},
        {"name": "flip"},
        {"name": "charging", "p": 0.3},
        {"name": "defocus", "p": 0.3},
        {"name": "sem-scan-jitter", "p": 0.3},
        {"name": "sem-shot-noise", "p": 0.5},
        {"name": "sem-intensity", "p": 0.8},
    ],
    "sem-fine-tuning": [
        {"name": "reframe", "zoom": [0.85, 1.0], "shift": [0.0, 0.05]},
        {"name": "flip"},
        {"name": "sem-intensity", "p": 0.5, "contrast": [0.85, 1.15], "brightness": [-0.05, 0.05]},
    ],
}
