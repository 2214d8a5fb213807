"""What the plugin registers; nothing is imported until it is used."""

from lamella import hookimpl

LAMELLA_API = 1


@hookimpl
def lamella_datasets() -> dict[str, str]:
    """Synthetic images by name."""
    return {"synth-tem": "lamella_synth.dataset:synth_tem", "synth-sem": "lamella_synth.sem.dataset:synth_sem"}


@hookimpl
def lamella_commands() -> dict[str, tuple[str, str]]:
    """Commands by name."""
    return {
        "synth": ("write synthetic TEM or SEM images with their truth", "lamella_synth.command:synth"),
        "gallery": ("write a contact sheet of every synthetic device", "lamella_synth.command:gallery"),
    }
