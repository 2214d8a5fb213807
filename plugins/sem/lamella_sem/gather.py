"""Tensors of all processes side by side, with the gradient that every process has for this one's part."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(own: Tensor) -> Tensor:
    """``own`` (V, B, …) of every process, joined along the second dimension in the order of ranks.

    In the backward the gradients that all processes have are summed, and each takes its own part: the derivative of
    the sum of their losses. ``torch.distributed.nn`` has the same for one dimension.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return own
    return _Gather.apply(own)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size(), 1)[dist.get_rank()]
