"""The small draws of ``streams`` on a CPU, as numpy does them: a fraction of torch's time for tensors of a few numbers.

Bit for bit what ``streams`` computes with torch, and ``fused_streams`` on a GPU; the same functions as there.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _33, _40 = (np.uint64(bits) for bits in (27, 30, 31, 33, 40))
_UNIT = np.float32(2.0**-24)


def _mix64(x: _Words) -> _Words:
    """As ``streams.mix64``."""
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


def _words(ids: Tensor) -> _Words:
    return ids.numpy().view(np.uint64)


def _word(value: int) -> np.uint64:
    """The 64-bit pattern of a signed integer."""
    return np.uint64(value & 0xFFFFFFFFFFFFFFFF)


def _next(ids: Tensor, step: int) -> _Words:
    return _mix64(_words(ids) + _word(step))


def words(ids: Tensor, step: int) -> Tensor:
    """(B,) int64: ``mix64(ids + step)``."""
    return torch.from_numpy(_next(ids, step).view(np.int64))


def _bits(ids: Tensor, step: int, shape: tuple[int, ...]) -> _Words:
    """(B, *shape): hashed words."""
    word = _next(ids, step).reshape(-1, *(1 for _ in shape))
    return _mix64(word + np.arange(math.prod(shape), dtype=np.uint64).reshape(1, *shape) * _GOLDEN if shape else word)


def root(key: Tensor, visit: Tensor, seed: int, view: int) -> Tensor:
    """(B,) int64: the ids of ``Streams.root``, from the words of seed and view."""
    ids = _mix64(_mix64(_words(key) + _word(seed)) + _words(visit) * _GOLDEN)
    return torch.from_numpy(_mix64(ids ^ _word(view)).view(np.int64))


def child(ids: Tensor, word: int) -> Tensor:
    """(B,) int64: ``mix64(ids ^ word)``."""
    return torch.from_numpy(_mix64(_words(ids) ^ _word(word)).view(np.int64))


def uniform(ids: Tensor, step: int, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) float32 in [low, high)."""
    unit = (_bits(ids, step, shape) >> _40).astype(np.float32) * _UNIT
    return torch.from_numpy(np.float32(low) + np.float32(high - low) * unit)


def several(ids: Tensor, first: int, ranges: tuple[tuple[float, float], ...]) -> tuple[Tensor, ...]:
    """For each range (B,) float32: what calls of `uniform` give, ``first`` being the number of the first."""
    steps = (number * int(_GOLDEN) for number in range(first, first + len(ranges)))
    return tuple(uniform(ids, step, low, high, ()) for step, (low, high) in zip(steps, ranges, strict=True))


def integers(ids: Tensor, step: int, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) int64 in [low, high)."""
    drawn = (_bits(ids, step, shape) >> _33) % np.uint64(high - low)
    return torch.from_numpy(drawn.astype(np.int64) + low)
