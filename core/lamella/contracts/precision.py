"""Arithmetic that stays in float32 whatever precision a run has."""

import torch
from torch import Tensor


def in_float32(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``x``: for noise, long sums and differences of products.

    >>> import torch
    >>> x = torch.ones(2, 2)
    >>> with torch.autocast("cpu"), in_float32(x):
    ...     (x @ x).dtype
    torch.float32
    """
    return torch.autocast(x.device.type, enabled=False)
