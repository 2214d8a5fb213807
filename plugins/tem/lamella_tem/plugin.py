"""What the TEM plugin offers. Light: targets are strings, imported when first needed."""

from typing import Any

from lamella import hookimpl

from lamella_tem.sets import GAUGE, GENERIC, NAMES, SETS

LAMELLA_API = 1


def _target(name: str) -> str:
    module = name.replace("-", "_")
    return f"lamella_tem.perturbations.{module}:{''.join(part.title() for part in name.split('-'))}"


@hookimpl
def lamella_modalities() -> dict[str, Any]:
    """TEM images."""
    return {"tem": "lamella_tem.modality:TemModality"}


@hookimpl
def lamella_backbones() -> dict[str, Any]:
    """DeepLabV3+."""
    return {"deeplabv3plus": "lamella_tem.deeplab:DeepLabV3Plus"}


@hookimpl
def lamella_losses() -> dict[str, Any]:
    """Segmentation losses."""
    return {"cross-entropy": "lamella_tem.losses:cross_entropy", "dice": "lamella_tem.losses:dice"}


@hookimpl
def lamella_trainers() -> dict[str, Any]:
    """Ways to train a segmentation."""
    return {
        "supervised": "lamella_tem.supervised:Supervised",
        "cutmix": "lamella_tem.baselines:cutmix_supervised",
        "cutmix-consistency": "lamella_tem.baselines:cutmix_consistency",
        "unimatch": "lamella_tem.baselines:unimatch",
        "weak-to-strong": "lamella_tem.weak_to_strong:WeakToStrong",
        "anchored": "lamella_tem.anchored:anchored",
    }


@hookimpl
def lamella_perturbations() -> dict[str, Any]:
    """What sample, microscope and post-processing do to an image."""
    return {name: _target(name) for name in (*NAMES, *GAUGE, *GENERIC)}


@hookimpl
def lamella_commands() -> dict[str, tuple[str, str]]:
    """A contact sheet of perturbations, the noise of your own images, and what the plugin's weights are made with."""
    return {
        "perturb": ("every perturbation of a set on an image of yours", "lamella_tem.perturb_command:perturb"),
        "noise": ("the dose of your own images, and a perturbation set of it", "lamella_tem.noise_command:noise"),
        "tem-start": ("the network of a training, as the plugin ships it", "lamella_tem.starts.ship_command:ship"),
    }


@hookimpl
def lamella_sets() -> dict[str, list[dict[str, Any]]]:
    """Perturbation sets by family, and all together in physical order."""
    return SETS
