"""The figures that stand first in tables and reports, with what they are called there."""

from collections.abc import Iterable, Mapping
from typing import Any

HEADLINE = {
    "miou_pooled": "mIoU pooled",
    "miou_per_image": "mIoU per image",
    "boundary_miou": "boundary mIoU",
    "accuracy": "accuracy",
    "macro_recall": "mean recall",
    "ece": "calibration error",
    "recall_at_1": "retrieval recall@1",
    "knn_accuracy": "kNN accuracy",
    "probe_accuracy": "linear probe",
}


def named(sets: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Of `HEADLINE` what any of some sets' figures has.

    >>> named([{"accuracy": 0.5, "nll": 1.2}])
    {'accuracy': 'accuracy'}
    """
    sets = list(sets)
    return {name: title for name, title in HEADLINE.items() if any(name in figures for figures in sets)}
