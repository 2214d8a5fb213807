"""What processes that train together have to agree on."""

import torch
from torch import Tensor


def summed(x: Tensor) -> Tensor:
    """``x`` summed over all processes, in place and without gradient; as it is where there is one alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x
