"""What processes that train together have to agree on."""

import torch
from torch import Tensor


def world_size() -> int:
    """How many processes train together; 1 where there is one alone."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


def summed(x: Tensor) -> Tensor:
    """``x`` summed over all processes, in place and without gradient; as it is where there is one alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x


def averaged(x: Tensor) -> Tensor:
    """``x`` as the mean over all processes, in place and without gradient."""
    return summed(x).div_(world_size())
