"""What training costs: floating-point operations, counted over the first steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


class Flops:
    """Counts the operations of the first ``steps`` steps of a run, forward, probes and backward alike.

    A run that goes on says how many of them were ``counted`` before, and with what mean.

    Matrix products, convolutions and attention count, as in `torch.utils.flop_counter`; pointwise work and
    interpolation do not. What a network computes otherwise on a CPU counts as it does there: compare runs of one
    kind of device.

    >>> import torch
    >>> flops = Flops(2)
    >>> for _ in range(3):
    ...     with flops.step():
    ...         _ = torch.ones(4, 4) @ torch.ones(4, 4)
    >>> flops.per_step
    128.0
    """

    def __init__(self, steps: int, counted: int = 0, mean: float | None = None):
        self.steps, self._counted, self._total = steps, counted if mean is not None else 0, (mean or 0.0) * counted

    def step(self) -> _Counted:
        """A context for one step; after the first ``steps`` it does nothing."""
        return _Counted(self)

    @property
    def per_step(self) -> float | None:
        """Operations of one step on this process, the mean of those counted; None where none was."""
        return self._total / self._counted if self._counted else None

    def add(self, operations: int) -> None:
        """Count one step."""
        self._counted += 1
        self._total += operations


def convolution_backward(
    gradient: Sequence[int],
    image: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    out_shape: Any = None,
) -> int:
    """Operations of a convolution's backward from shapes: a forward's for the image's gradient, one for the weight's.

    torch's own count takes every channel with every other and so counts depthwise convolutions many times over.
    """
    places = prod(image[2:]) if transposed else prod(gradient[2:])
    forward = 2 * image[0] * places * prod(weight)  # weight has 1/groups of the channels
    return forward * (int(wanted[0]) + int(wanted[1]))


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(query, key, value)
    return count


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    count: int = sdpa_backward_flop_count(gradient, query, key, value)
    return count


_aten = torch.ops.aten
_OURS = {
    _aten.convolution_backward: convolution_backward,
    # torch counts attention by the names alone that it has on a GPU.
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _Counted:
    def __init__(self, flops: Flops):
        self.flops = flops
        self.mode = FlopCounterMode(display=False, custom_mapping=_OURS) if flops._counted < flops.steps else None

    def __enter__(self) -> None:
        if self.mode is not None:
            self.mode.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.mode is not None:
            self.mode.__exit__(*error)
            self.flops.add(self.mode.get_total_flops())
