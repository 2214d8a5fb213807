"""What the SAM plugin offers. Light: targets are strings, imported when first needed."""

from typing import Any

from lamella import hookimpl

LAMELLA_API = 1


@hookimpl
def lamella_backbones() -> dict[str, Any]:
    """Promptable networks."""
    return {
        "sam-nano": "lamella_sam.nano.network:sam_nano",
        "sam-vit-b": "lamella_sam.vit:sam_vit_b",
        "sam-vit-l": "lamella_sam.vit:sam_vit_l",
        "sam-vit-h": "lamella_sam.vit:sam_vit_h",
    }


@hookimpl
def lamella_trainers() -> dict[str, Any]:
    """Ways to adapt a promptable network, and a supervised network that sees the same prompts."""
    return {
        "sesami": "lamella_sam.sesami:Sesami",
        "prompted-supervised": "lamella_sam.prompt_channels:PromptedSupervised",
    }


@hookimpl
def lamella_datasets() -> dict[str, Any]:
    """Scenes to train the small foundation model on, and a set of several products with shared classes."""
    return {"sam-scenes": "lamella_sam.nano.scenes:sam_scenes", "joined": "lamella_sam.joined:joined"}


@hookimpl
def lamella_commands() -> dict[str, tuple[str, str]]:
    """Objects of images, annotation in rounds, and the weights of the small network."""
    return {
        "annotate": (
            "label images in rounds: suggest, correct, accept, retrain",
            "lamella_sam.annotate.command:annotate",
        ),
        "sam-nano": ("the weights of a training of sam-nano, as the plugin ships them", "lamella_sam.nano.ship:ship"),
        "segment": ("objects of images, by prompts or all of them", "lamella_sam.segment_command:segment"),
    }
