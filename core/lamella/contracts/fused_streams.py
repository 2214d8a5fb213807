"""The draws of `Streams` on a GPU, one kernel each: what torch would spread over a dozen launches and more.

Small draws equal those of ``streams`` bit for bit, as everywhere. Importing it needs Triton.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
_EXACT = {"enable_fp_fusion": False}
"""A fused multiply-add would round once where the CPU rounds twice."""


@triton.jit
def mix64(x):  # type: ignore[no-untyped-def]
    """As ``streams.mix64``; ``x`` uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def mix32(x):  # type: ignore[no-untyped-def]
    """As ``streams._mix32``; ``x`` uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _unsigned(x):  # type: ignore[no-untyped-def]
    return x.to(tl.int64).to(tl.uint64, bitcast=True)


@triton.jit(do_not_specialize=["count", "seed", "view"])
def _root(key, visit, out, count, seed, view, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = image < count
    x = mix64(_unsigned(tl.load(key + image, mask=there, other=0)) + _unsigned(seed))
    x = mix64(x + _unsigned(tl.load(visit + image, mask=there, other=0)) * 0x9E3779B97F4A7C15)
    tl.store(out + image, mix64(x ^ _unsigned(view)).to(tl.int64, bitcast=True), mask=there)


@triton.jit(do_not_specialize=["count", "word"])
def _child(ids, out, count, word, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = image < count
    x = mix64(_unsigned(tl.load(ids + image, mask=there, other=0)) ^ _unsigned(word))
    tl.store(out + image, x.to(tl.int64, bitcast=True), mask=there)


@triton.jit(do_not_specialize=["count", "each", "step", "low", "span"])
def _drawn(ids, out, count, each, step, low, span, WHOLE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = place < count * each
    word = mix64(_unsigned(tl.load(ids + place // each, mask=there, other=0)) + _unsigned(step))
    bits = mix64(word + (place % each).to(tl.uint64) * 0x9E3779B97F4A7C15)
    if WHOLE:
        value = low + ((bits >> 33).to(tl.int64) % span.to(tl.int64))
    else:
        value = low + span * ((bits >> 40).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08)
    tl.store(out + place, value, mask=there)


@triton.jit(do_not_specialize=["count", "first"])
def _several(ids, bounds, out, count, first, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    number = tl.program_id(1)
    image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = image < count
    step = (first + number).to(tl.uint64) * 0x9E3779B97F4A7C15
    bits = mix64(mix64(_unsigned(tl.load(ids + image, mask=there, other=0)) + step))
    unit = (bits >> 40).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    value = tl.load(bounds + 2 * number) + tl.load(bounds + 2 * number + 1) * unit
    tl.store(out + number * count + image, value, mask=there)


@triton.jit
def _unit(ids, image, step, index):  # type: ignore[no-untyped-def]
    """Uniform in [0, 1) for each pixel ``index`` of an image, as ``Streams._hashed``."""
    word = mix64(_unsigned(tl.load(ids + image)) + _unsigned(step))
    x = mix32(index ^ word.to(tl.uint32))
    x = mix32(x + (word >> 32).to(tl.uint32))
    return (x >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08


@triton.jit(do_not_specialize=["each", "step", "other"])
def _pixels(ids, out, each, step, other, NORMAL: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    image = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    index = place.to(tl.uint32)
    value = _unit(ids, image, step, index)
    if NORMAL:  # Box and Muller
        radius = tl.sqrt(tl.maximum(-2.0 * tl.log(1.0 - value), 0.0))
        value = radius * tl.cos(6.283185307179586 * _unit(ids, image, other, index))
    tl.store(out + image.to(tl.int64) * each + place, value, mask=place < each)


def root(key: Tensor, visit: Tensor, seed: int, view: int) -> Tensor:
    """(B,) int64: the ids of ``Streams.root``, from the words of seed and view."""
    out = torch.empty_like(key, memory_format=torch.contiguous_format)
    _root[(triton.cdiv(len(key), _BLOCK),)](
        key.contiguous(), visit.contiguous(), out, len(key), seed, view, BLOCK=_BLOCK
    )
    return out


def child(ids: Tensor, word: int) -> Tensor:
    """(B,) int64: ``mix64(ids ^ word)``."""
    out = torch.empty_like(ids, memory_format=torch.contiguous_format)
    _child[(triton.cdiv(len(ids), _BLOCK),)](ids.contiguous(), out, len(ids), word, BLOCK=_BLOCK)
    return out


def uniform(ids: Tensor, step: int, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) float32 in [low, high)."""
    return _small(ids, step, float(low), float(high - low), shape, torch.float32)


def several(ids: Tensor, first: int, ranges: tuple[tuple[float, float], ...]) -> tuple[Tensor, ...]:
    """For each range (B,) float32: what calls of `uniform` give, ``first`` being the number of the first."""
    out = torch.empty(len(ranges), len(ids), dtype=torch.float32, device=ids.device)
    bounds = _bounds(ranges, ids.device)
    _several[(triton.cdiv(len(ids), _BLOCK), len(ranges))](
        ids.contiguous(), bounds, out, len(ids), first, BLOCK=_BLOCK, **_EXACT
    )
    return out.unbind(0)


@cache
def _bounds(ranges: tuple[tuple[float, float], ...], device: torch.device) -> Tensor:
    return torch.tensor([(low, high - low) for low, high in ranges], dtype=torch.float32).to(device)


def integers(ids: Tensor, step: int, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) int64 in [low, high)."""
    return _small(ids, step, low, high - low, shape, torch.int64)


def _small(
    ids: Tensor, step: int, low: float, span: float, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    out = torch.empty(len(ids), *shape, dtype=dtype, device=ids.device)
    if out.numel():
        _drawn[(triton.cdiv(out.numel(), _BLOCK),)](
            ids.contiguous(), out, len(ids), math.prod(shape), step, low, span,
            WHOLE=dtype == torch.int64, BLOCK=_BLOCK, **_EXACT,
        )  # fmt: skip
    return out


def pixels(ids: Tensor, step: int, other: int | None, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) float32: uniform in [0, 1), or standard normal where a second step is given."""
    out = torch.empty(len(ids), *shape, dtype=torch.float32, device=ids.device)
    if out.numel():
        each = math.prod(shape)
        _pixels[(triton.cdiv(each, _BLOCK), len(ids))](
            ids.contiguous(), out, each, step, other or 0, NORMAL=other is not None, BLOCK=_BLOCK
        )
    return out
