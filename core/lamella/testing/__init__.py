"""The contracts as tests that anybody runs on a component of their own, one line each.

>>> from lamella.testing import perturbation_contract
>>> import lamella
>>> flip = lamella.kornia("kornia.augmentation:RandomHorizontalFlip")
>>> test_flip = perturbation_contract(flip, reduced=True)

`lamella.testing.no_sync.no_sync` refuses host–device syncs in any other test. The contracts need hypothesis
(``pip install lamella[test]``), which is why nothing else in Lamella imports this room.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "BrokenPromise": "lamella.testing.promise",
    "backbone_contract": "lamella.testing.backbone",
    "dataset_contract": "lamella.testing.dataset",
    "loss_contract": "lamella.testing.loss",
    "modality_contract": "lamella.testing.modality",
    "perturbation_contract": "lamella.testing.perturbation",
    "trainer_contract": "lamella.testing.trainer",
}

__all__ = [
    "BrokenPromise",
    "backbone_contract",
    "dataset_contract",
    "loss_contract",
    "modality_contract",
    "perturbation_contract",
    "trainer_contract",
]

if TYPE_CHECKING:
    from lamella.testing.backbone import backbone_contract
    from lamella.testing.dataset import dataset_contract
    from lamella.testing.loss import loss_contract
    from lamella.testing.modality import modality_contract
    from lamella.testing.perturbation import perturbation_contract
    from lamella.testing.promise import BrokenPromise
    from lamella.testing.trainer import trainer_contract


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lamella.testing' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
