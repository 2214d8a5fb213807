"""The hooks a plugin can implement. Light: importing this costs pluggy and nothing else.

A hook returns names and targets. A target is a class, a function, or a string ``"package.module:Name"`` that
is imported when it is first needed. Plugins say which version of these hooks they were written for with
``LAMELLA_API = 1``.
"""

from typing import Any

import pluggy

from lamella.errors import RegistryError

API = 1
"""The version of the hooks below."""

hookspec = pluggy.HookspecMarker("lamella")
hookimpl = pluggy.HookimplMarker("lamella")

KINDS = {
    "backbone": "lamella_backbones",
    "perturbation": "lamella_perturbations",
    "loss": "lamella_losses",
    "trainer": "lamella_trainers",
    "modality": "lamella_modalities",
    "dataset": "lamella_datasets",
}
"""Each kind of component and the hook that registers it."""


def check_kind(kind: str, *others: str) -> None:
    """Raise `RegistryError` unless ``kind`` is one of `KINDS`, or of ``others`` that will do as well."""
    known = (*KINDS, *others)
    if kind not in known:
        import difflib

        close = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the kinds are {', '.join(known)}"
        raise RegistryError(f"there is no kind {kind!r}; {hint}")


@hookspec
def lamella_backbones() -> dict[str, Any]:
    """Networks: segmentation, patch encoder or promptable, by name."""
    return {}


@hookspec
def lamella_perturbations() -> dict[str, Any]:
    """Perturbations and warps, by name."""
    return {}


@hookspec
def lamella_losses() -> dict[str, Any]:
    """Loss functions (positional tensors, keyword-only parameters) or classes, by name."""
    return {}


@hookspec
def lamella_trainers() -> dict[str, Any]:
    """Ways to learn, by name."""
    return {}


@hookspec
def lamella_modalities() -> dict[str, Any]:
    """Imaging techniques, by name."""
    return {}


@hookspec
def lamella_datasets() -> dict[str, Any]:
    """Functions that return a ``datasets.Dataset``, by name."""
    return {}


@hookspec
def lamella_sets() -> dict[str, list[dict[str, Any]]]:
    """Perturbation sets: a list of specs ``{"name": …, parameter: …}`` by set name."""
    return {}


@hookspec
def lamella_commands() -> dict[str, tuple[str, str]]:
    """Commands of ``lamella``: ``{name: (one line of help, "module:function")}``."""
    return {}
