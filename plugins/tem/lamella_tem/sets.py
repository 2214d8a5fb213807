"""The perturbation sets this plugin ships: plain data, in the order in which an image comes to be."""

from typing import Any

Spec = dict[str, Any]

NAMES = (
    "deformation",
    "thickness-wedge",
    "curtaining",
    "amorphous-layer",
    "carbon",
    "metal-spots",
    "scan-jitter",
    "shot-noise",
    "detector-mtf",
    "gain-noise",
    "dark-current",
    "readout",
    "camera",
    "spikes",
    "display-stretch",
    "scale-bar",
)
"""Every perturbation of electron microscopy in this plugin, in physical order."""

GAUGE = ("stage-shift", "own-noise")
"""What sets an image up anew and takes it again; for `lamella gauge`."""

GENERIC = ("jitter", "blur")
"""What photographs are augmented with; for baselines alone."""

# What preparation does to the foil. Not every foil suffers everything.
_SAMPLE: list[Spec] = [
    {"name": "deformation", "p": 0.8},
    {"name": "thickness-wedge", "p": 0.5},
    {"name": "curtaining", "p": 0.4},
    {"name": "amorphous-layer", "p": 0.4},
    {"name": "carbon", "p": 0.3},
    {"name": "metal-spots", "p": 0.3},
]
# The paper's machine noise (shot, gain, dark current) and readout, as one detector in one kernel.
_MACHINE: list[Spec] = [{"name": "camera"}]
_POST: list[Spec] = [{"name": "display-stretch", "p": 0.5}, {"name": "scale-bar", "p": 0.5}]

SETS: dict[str, list[Spec]] = {
    "sample": _SAMPLE,
    "machine": _MACHINE,
    "post": _POST,
    "tem-strong": [
        *_SAMPLE,
        {"name": "scan-jitter", "p": 0.3},
        {"name": "shot-noise", "p": 0.8},
        {"name": "detector-mtf", "p": 0.5},
        {"name": "gain-noise", "p": 0.5},
        {"name": "dark-current", "p": 0.5},
        {"name": "readout", "p": 0.5},
        {"name": "spikes", "p": 0.3},
        *_POST,
    ],
    "weak": [
        {"name": "deformation", "shear": [-0.01, 0.01], "drift": [0.0, 0.005], "elastic": [0.0, 1.0]},
        {"name": "gain-noise", "pixel": [0.0, 0.003], "column": [0.0, 0.002], "quadrant": [0.0, 0.01]},
        {"name": "display-stretch", "amount": [0.0, 0.3], "gamma": [0.9, 1.1], "p": 0.5},
    ],
    # How often does a measurement come out the same? `lamella gauge`: set up anew, and the same image once more.
    "gauge-setup": [{"name": "stage-shift"}, {"name": "blur", "sigma": [0.1, 1.0]}],
    "gauge-repeat": [{"name": "own-noise"}],
    "natural": [{"name": "jitter", "p": 0.8}, {"name": "blur", "p": 0.5}],
}
