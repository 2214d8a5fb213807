"""Constant tables, made once and kept on every device that asks for them."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_KEPT: dict[tuple[Hashable, torch.device], Tensor] = {}


def table(name: Hashable, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
    """The table called ``name`` on ``device``; ``make`` gives it on the CPU when it is first needed.

    >>> table("three", torch.device("cpu"), lambda: torch.arange(3))
    tensor([0, 1, 2])
    """
    if (name, device) in _KEPT:
        return _KEPT[name, device]
    home = torch.device("cpu")
    values = make() if device == home else table(name, home, make).to(device)
    if type(values) is Tensor:  # not the stand-in of a tracing mode
        _KEPT[name, device] = values
    return values
