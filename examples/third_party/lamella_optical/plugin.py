"""What the plugin registers. Light: targets are strings that are imported when they are first needed."""

from typing import Any

from lamella import hookimpl

LAMELLA_API = 1


@hookimpl
def lamella_modalities() -> dict[str, str]:
    """Colour images of an optical microscope."""
    return {"optical": "lamella_optical.modality:OpticalModality"}


@hookimpl
def lamella_datasets() -> dict[str, str]:
    """Synthetic wafer surfaces."""
    return {"optical-wafer": "lamella_optical.dataset:optical_wafer"}


@hookimpl
def lamella_perturbations() -> dict[str, str]:
    """What lamp and lens do to an image."""
    return {
        "illumination-gradient": "lamella_optical.illumination_gradient:IlluminationGradient",
        "chromatic-shift": "lamella_optical.chromatic_shift:ChromaticShift",
    }


@hookimpl
def lamella_sets() -> dict[str, list[dict[str, Any]]]:
    """Both perturbations in the order in which light meets them."""
    return {"optical": [{"name": "illumination-gradient"}, {"name": "chromatic-shift"}]}
