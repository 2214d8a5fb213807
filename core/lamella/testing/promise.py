"""What a contract test raises, and how it says in which value two results differ."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lamella.contracts.kornia import KorniaComponent


class BrokenPromise(AssertionError):
    """A component does not do what its kind promises; the message says which promise, with what values."""

    def __init__(self, who: str, promise: str, seen: str, where: object = ""):
        """``who`` broke the ``promise``, as was ``seen``; ``where`` names the case."""
        at = f" [{where}]" if str(where) else ""
        super().__init__(f"{who} must {promise}: {seen}{at}")


def name_of(component: Any) -> str:
    """What to call a component in a message."""
    if isinstance(component, KorniaComponent):
        return f"kornia {component.target.rpartition(':')[2]}"
    if isinstance(component, partial):
        return " ".join(str(part) for part in component.args) or name_of(component.func)
    return getattr(component, "__name__", type(component).__name__)


def difference(found: Tensor | None, wanted: Tensor | None, *, tolerance: float = 0.0) -> str:
    """Where two tensors differ, in words; empty where they do not (nan equals nan).

    >>> difference(torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.25]))
    '1 of 2 values differ, by up to 0.25; the first at (1): 0.5 instead of 0.25'
    """
    if found is None or wanted is None:
        return "" if found is wanted else f"{_kind(found)} instead of {_kind(wanted)}"
    if found.shape != wanted.shape or found.dtype != wanted.dtype or found.device != wanted.device:
        return f"{_kind(found)} instead of {_kind(wanted)}"
    a, b = found.detach().to(torch.float64), wanted.detach().to(torch.float64)
    gap = torch.where(a.isnan() & b.isnan() | (a == b), torch.zeros_like(a), (a - b).abs())
    bad = ~(gap <= tolerance)
    if not bad.any():
        return ""
    at = tuple(bad.nonzero()[0].tolist())
    place = ", ".join(str(i) for i in at)
    return (
        f"{int(bad.sum())} of {bad.numel()} values differ, by up to {gap.max().item():.3g}; "
        f"the first at ({place}): {a[at].item():.6g} instead of {b[at].item():.6g}"
    )


def first(bad: Tensor, values: Tensor) -> str:
    """How many of ``bad`` (bool) hold and the first of ``values`` at which they do, in words."""
    at = tuple(bad.nonzero()[0].tolist())
    place = ", ".join(str(i) for i in at)
    return f"{int(bad.sum())} of {bad.numel()} values, the first at ({place}): {values[at].item():.6g}"


def _kind(value: Tensor | None) -> str:
    if value is None:
        return "None"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
