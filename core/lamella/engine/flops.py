"""What training costs: floating-point operations, counted over the first steps of a run."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode


class Flops:
    """Counts the operations of the first ``steps`` steps of a run, forward, probes and backward alike.

    Matrix products, convolutions and attention count, as in `torch.utils.flop_counter`; pointwise work does not.

    >>> import torch
    >>> flops = Flops(2)
    >>> for _ in range(3):
    ...     with flops.step():
    ...         _ = torch.ones(4, 4) @ torch.ones(4, 4)
    >>> flops.per_step
    128.0
    """

    def __init__(self, steps: int):
        self.steps, self._counted, self._total = steps, 0, 0

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


class _Counted:
    def __init__(self, flops: Flops):
        self.flops = flops
        self.mode = FlopCounterMode(display=False) if flops._counted < flops.steps else None

    def __enter__(self) -> None:
        if self.mode is not None:
            self.mode.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.mode is not None:
            self.mode.__exit__(*error)
            self.flops.add(self.mode.get_total_flops())
