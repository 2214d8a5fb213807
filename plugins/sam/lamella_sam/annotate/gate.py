"""The gate: a model is promoted only when it beats zero-shot and the round before on the locked set."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

COLLAPSE = 0.5
"""A class whose IoU falls below this share of what it was has collapsed."""


class Verdict(NamedTuple):
    """Whether a candidate is promoted, and why not."""

    promoted: bool
    reasons: list[str]
    """What speaks against it; empty where it is promoted."""
    alarms: list[str]
    """Classes that have collapsed."""


def judge(
    candidate: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], *, figure: str = "miou_pooled"
) -> Verdict:
    """Compare a candidate's figures on the locked set with those of zero-shot and of the round before.

    It must be better than each in ``figure``, and no class may collapse: lose half of its IoU against any of them
    that told the class at all (IoU of 0.05 or more).

    Args:
        candidate: figures as of `SegmentationMetrics`.
        others: figures by name, as ``{"zero-shot": …, "round 1": …}``.
    """
    reasons, alarms = [], []
    for name, figures in others.items():
        ours, theirs = _number(candidate[figure]), _number(figures[figure])
        if not ours > theirs:
            reasons.append(f"{figure} {ours:.4f} does not beat {theirs:.4f} of {name}")
        for label, before in figures["iou"].items():
            now = _number(candidate["iou"][label])
            if _number(before) >= 0.05 and now < COLLAPSE * _number(before):
                alarms.append(f"class {label} collapsed: IoU {now:.4f}, with {name} {_number(before):.4f}")
    return Verdict(not reasons and not alarms, reasons + alarms, alarms)


def _number(value: Any) -> float:
    """A figure; one that is missing counts as 0."""
    return 0.0 if value is None or math.isnan(value) else float(value)
