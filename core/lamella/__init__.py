"""Lamella: data-efficient machine learning for electron micrographs.

Importing this package is cheap: every public name is loaded when it is first used, so that plugins and
the command line can say ``from lamella import hookimpl`` without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "hookimpl": "lamella.registry.hookspecs",
    "kornia": "lamella.contracts.kornia",
    "IGNORE": "lamella.contracts.batch",
    "Batch": "lamella.contracts.batch",
    "Streams": "lamella.contracts.streams",
    "About": "lamella.contracts.parameters",
    "Chain": "lamella.contracts.chain",
    "Perturbation": "lamella.contracts.perturbation",
    "Range": "lamella.contracts.parameters",
    "Warp": "lamella.contracts.warp",
    "per_image": "lamella.contracts.parameters",
    "within": "lamella.contracts.parameters",
    "Modality": "lamella.contracts.data",
    "Sample": "lamella.contracts.data",
    "AtStart": "lamella.contracts.model",
    "FromData": "lamella.contracts.model",
    "Loss": "lamella.contracts.model",
    "Mean": "lamella.contracts.model",
    "NeedsStart": "lamella.contracts.model",
    "PatchEncoder": "lamella.contracts.model",
    "PromptableBackbone": "lamella.contracts.model",
    "SegmentationBackbone": "lamella.contracts.model",
    "Step": "lamella.contracts.model",
    "Trainer": "lamella.contracts.model",
    "logits_of": "lamella.contracts.model",
    "build": "lamella.registry.registry",
    "names": "lamella.registry.registry",
    "ClassificationMetrics": "lamella.engine.classification",
    "SegmentationMetrics": "lamella.engine.metrics",
    "LamellaError": "lamella.errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from lamella.contracts.batch import IGNORE, Batch
    from lamella.contracts.chain import Chain
    from lamella.contracts.data import Modality, Sample
    from lamella.contracts.kornia import kornia
    from lamella.contracts.model import (
        AtStart,
        FromData,
        Loss,
        Mean,
        NeedsStart,
        PatchEncoder,
        PromptableBackbone,
        SegmentationBackbone,
        Step,
        Trainer,
        logits_of,
    )
    from lamella.contracts.parameters import About, Range, per_image, within
    from lamella.contracts.perturbation import Perturbation
    from lamella.contracts.streams import Streams
    from lamella.contracts.warp import Warp
    from lamella.engine.classification import ClassificationMetrics
    from lamella.engine.metrics import SegmentationMetrics
    from lamella.errors import LamellaError
    from lamella.registry.hookspecs import hookimpl
    from lamella.registry.registry import build, names


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lamella' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
