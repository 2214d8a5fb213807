"""What the SEM plugin offers. Light: targets are strings, imported when first needed."""

from typing import Any

from lamella import hookimpl

from lamella_sem.sets import SETS, TARGETS

LAMELLA_API = 1


@hookimpl
def lamella_modalities() -> dict[str, Any]:
    """SEM images at two magnifications."""
    return {"sem": "lamella_sem.modality:SemModality"}


@hookimpl
def lamella_backbones() -> dict[str, Any]:
    """A Vision Transformer of timm."""
    return {"vit": "lamella_sem.vit:vit"}


@hookimpl
def lamella_trainers() -> dict[str, Any]:
    """Pre-training and classification of pairs."""
    return {
        "mae-contrastive": "lamella_sem.mae_contrastive:MaeContrastive",
        "classify": "lamella_sem.classify:Classify",
    }


@hookimpl
def lamella_perturbations() -> dict[str, Any]:
    """What a second look at a defect changes."""
    return dict(TARGETS)


@hookimpl
def lamella_commands() -> dict[str, tuple[str, str]]:
    """Encoders for use elsewhere."""
    return {"sem-export": ("a run's encoder for timm and as ONNX", "lamella_sem.export_command:sem_export")}


@hookimpl
def lamella_sets() -> dict[str, list[dict[str, Any]]]:
    """The views of pre-training, and the milder ones of fine-tuning."""
    return SETS
