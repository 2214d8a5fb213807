"""The camera and its shot noise on a GPU: one pass over memory, every random number hashed where it is used.

The arithmetic is that of ``camera`` and ``poisson``, written for Triton, which importing it needs. Equal to them in
distribution, and bit for bit but for rounding where both are given the same random numbers.
"""

import os

import torch
import triton
import triton.language as tl
from lamella import Streams
from lamella.contracts.fused_streams import mix32
from torch import Tensor

from lamella_tem.perturbations.fixed_pattern import SIDE, STEP, column_pattern, packed_patterns
from lamella_tem.perturbations.poisson import CORRECTION, LAST, MIDDLE, NORMAL, SPLIT, TERMS
from lamella_tem.perturbations.readout import EXACT_BITS

_DRAWN = (
    "dose", "pedestal", "gain", "column_gain", "dark", "spread", "reference", "hot", "glow", "column", "read", "row",
    "bits", "quadrants", "seam",
)  # fmt: skip
_NVIDIA = tl.constexpr(torch.version.cuda is not None and os.environ.get("TRITON_INTERPRET") != "1")
_WIDTH = tl.constexpr(19)  # numbers an image is drawn with
_BLOCK, _ROWS, _WARPS = 256, 16, 2

_SIDE, _SPLIT, _TERMS, _EXACT_BITS, _STEP = (
    tl.constexpr(value) for value in (SIDE, SPLIT, TERMS, float(EXACT_BITS), STEP)
)
_N0, _N1, _N2, _N3, _N4, _N5, _N6, _N7, _N8, _N9, _N10, _N11 = (tl.constexpr(c) for c in NORMAL)
_M0, _M1, _M2, _M3, _M4, _M5 = (tl.constexpr(c) for c in MIDDLE)
_C0, _C1, _C2, _C3 = (tl.constexpr(c) for c in CORRECTION)
_L0, _L1, _L2 = (tl.constexpr(c) for c in LAST)


@triton.jit
def _unit(x):  # type: ignore[no-untyped-def]
    """[0, 1) from the upper 23 bits of a word: as the fraction of a float, which is cheaper than a conversion."""
    return ((x >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0


@triton.jit
def _upper_half(word):  # type: ignore[no-untyped-def]
    """The upper 16 bits of a word as the signed number they are, likewise."""
    return (((word >> 16) ^ 0x8000) | 0x4B000000).to(tl.float32, bitcast=True) - 8421376.0


@triton.jit
def _quantile(t, tail):  # type: ignore[no-untyped-def]
    """Normal deviate at t = 2·unit − 1, with ``tail`` = 1 − t²."""
    if _NVIDIA:  # √(−ln tail) by the hardware's own log2 and root; Triton's are exact to the last bit, and slower
        x = tl.inline_asm_elementwise(
            "{ .reg .f32 a; lg2.approx.ftz.f32 a, $1; mul.ftz.f32 a, a, 0fBF317218; max.ftz.f32 a, a, 0f00000000;"
            " sqrt.approx.ftz.f32 $0, a; }",
            "=f,f", [tail], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        x = tl.sqrt(tl.maximum(-tl.log(tail), 0.0))
    p = ((((_N11 * x + _N10) * x + _N9) * x + _N8) * x + _N7) * x + _N6
    return t * ((((((p * x + _N5) * x + _N4) * x + _N3) * x + _N2) * x + _N1) * x + _N0)


@triton.jit
def _normal(unit):  # type: ignore[no-untyped-def]
    t = unit * 2.0 - 0.99999988079071044921875  # 1 − 2⁻²³: symmetric, in the open interval
    return _quantile(t, 1.0 - t * t)  # fused: rounded once


@triton.jit
def _of_many(rate, unit):  # type: ignore[no-untyped-def]
    rate = tl.maximum(rate, _SPLIT)
    inverse = tl.rsqrt(rate)
    s = tl.maximum(_normal(unit) * inverse, -1.35)
    middle = ((((_M5 * s + _M4) * s + _M3) * s + _M2) * s + _M1) * s + _M0
    quantile = rate * (1.0 + s + s * s * middle) + (((_C3 * s + _C2) * s + _C1) * s + _C0)
    return tl.floor(tl.maximum(quantile + ((_L2 * s + _L1) * s + _L0) * inverse * inverse, 0.0))


@triton.jit
def _of_few(rate, unit):  # type: ignore[no-untyped-def]
    rate = tl.minimum(tl.maximum(rate, 0.0), _SPLIT)
    scaled = unit * tl.exp(rate)
    power, total, factor = rate, rate + 1.0, 1.0
    count = (scaled >= 1.0).to(tl.float32)
    for k in tl.static_range(2, _TERMS + 1):
        count += (scaled >= total).to(tl.float32)
        power = power * rate
        factor = factor * (1.0 / k)
        total += power * factor
    return count


@triton.jit
def _counts(rate, unit, there):  # type: ignore[no-untyped-def]
    """Poisson counts; the sum over few electrons is carried out only where a pixel of the block has few."""
    count = _of_many(rate, unit)
    if tl.min(tl.where(there, rate, _SPLIT), 0) < _SPLIT:
        count = tl.where(rate < _SPLIT, _of_few(rate, unit), count)
    return count


@triton.jit
def _count(image, out, doses, pedestals, words, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    picture = tl.program_id(2)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dose, pedestal = tl.load(doses + picture), tl.load(pedestals + picture)
    finite = dose < float("inf")
    dose = tl.where(finite, dose, 1.0)
    first = tl.load(words + 2 * picture).to(tl.uint32)
    second = tl.load(words + 2 * picture + 1).to(tl.uint32)
    start = picture.to(tl.int64) * rows * width
    for i in range(ROWS):
        row = tl.program_id(1) * ROWS + i
        there = (column < width) & (row < rows)
        place = row * width + column
        seen = tl.load(image + start + place, mask=there, other=0.0)
        unit = _unit(mix32(mix32(place.to(tl.uint32) ^ first) + second))
        count = _counts(dose * (pedestal + (1.0 - pedestal) * seen), unit, there)
        shown = (count * (1.0 / dose) - pedestal) * (1.0 / (1.0 - pedestal))
        tl.store(out + start + place, tl.where(finite, shown, seen), mask=there)


@triton.jit
def _expose(  # type: ignore[no-untyped-def]
    image, out, drawn, words, offsets, row_noise, patterns, gain_columns, dark_columns, rows, height, width, low, high,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    picture = tl.program_id(2)
    d = drawn + picture * _WIDTH
    dose, pedestal, gain = tl.load(d), tl.load(d + 1), tl.load(d + 2)
    column_gain, dark, spread, reference = tl.load(d + 3), tl.load(d + 4), tl.load(d + 5), tl.load(d + 6)
    hot, glow, column_noise, read = tl.load(d + 7), tl.load(d + 8), tl.load(d + 9), tl.load(d + 10)
    row_spread, bits = tl.load(d + 11), tl.load(d + 12)
    seam_row, seam_column = tl.load(d + 17) * height, tl.load(d + 18) * width
    finite = dose < float("inf")
    dose = tl.where(finite, dose, 1.0)
    black = dose * pedestal
    span = dose - black
    counted, untouched = tl.where(finite, 1.0 / span, 0.0), tl.where(finite, 0.0, 1.0)
    gain, spread = gain * _STEP, spread * dark * _STEP
    offset = reference * dark + black
    hottest = _quantile(1.0 - 2.0 * hot, 4.0 * hot * (1.0 - hot)) / _STEP  # what a share ``hot`` of pixels exceeds
    glow, hottest = glow * _STEP, tl.where(hot > 0.0, hottest, float("inf"))
    levels = tl.floor(tl.exp2(bits) + 0.5) - 1.0
    first = tl.load(words + 3 * picture).to(tl.uint32)
    second = tl.load(words + 3 * picture + 1).to(tl.uint32)
    third = tl.load(words + 3 * picture + 2).to(tl.uint32)
    top, side = tl.load(offsets + 2 * picture).to(tl.int32), tl.load(offsets + 2 * picture + 1).to(tl.int32)

    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    on_detector = (side + column) & (_SIDE - 1)
    columns = 1.0 + column_gain * tl.load(gain_columns + on_detector)
    of_columns = column_noise * tl.load(dark_columns + on_detector) - offset
    left = column < seam_column
    start = picture.to(tl.int64) * rows * width
    for i in range(ROWS):
        row = tl.program_id(1) * ROWS + i
        there = inside & (row < rows)
        place = row * width + column
        seen = tl.load(image + start + place, mask=there, other=0.0)
        line = row % height
        word = tl.load(patterns + ((top + line) & (_SIDE - 1)) * _SIDE + on_detector).to(tl.uint32, bitcast=True)
        dark_noise = _upper_half(word << 16)
        quarter = d + tl.where(line < seam_row, 13, 15)
        sides = tl.where(left, 1.0 + tl.load(quarter), 1.0 + tl.load(quarter + 1))
        sensitivity = (1.0 + gain * _upper_half(word)) * columns * sides
        rate = (black + span * seen) * sensitivity + (dark + spread * dark_noise)
        bits_count = mix32(mix32(place.to(tl.uint32) ^ first) + second)
        electrons = _counts(rate, _unit(bits_count), there)
        electrons += read * _normal(_unit(mix32(bits_count ^ third)))
        electrons += row_spread * tl.load(row_noise + picture * height + line) + of_columns
        shown = electrons * counted + seen * sensitivity * untouched
        shown += tl.where(dark_noise > hottest, glow * (0.5 / _STEP + 2.0 * (dark_noise - hottest)), 0.0)
        rounded = (shown * levels + 12582912.0) - 12582912.0  # to even, up to 2²²
        shown = tl.where(bits < _EXACT_BITS, rounded * (1.0 / tl.maximum(levels, 1.0)), shown)
        tl.store(out + start + place, tl.minimum(tl.maximum(shown, low), high), mask=there)


def _grid(image: Tensor) -> tuple[int, int, int]:
    count, channels, height, width = image.shape
    return triton.cdiv(width, _BLOCK), triton.cdiv(channels * height, _ROWS), count


def count_electrons(image: Tensor, dose: Tensor, pedestal: Tensor, streams: Streams) -> Tensor:
    """What `ShotNoise` renders: images (B, C, H, W) float32 counted at ``dose`` and ``pedestal`` (B,)."""
    image, out = image.contiguous(), torch.empty_like(image, memory_format=torch.contiguous_format)
    words = streams.integers(0, 1 << 31, 2)
    _, channels, height, width = image.shape
    if image.numel():
        _count[_grid(image)](
            image, out, dose.contiguous(), pedestal.contiguous(), words, channels * height, width,
            ROWS=_ROWS, BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return out


def expose(
    image: Tensor, drawn: dict[str, Tensor], streams: Streams, detector: int, limits: tuple[float, float]
) -> Tensor:
    """What `Camera` renders: images (B, C, H, W) float32 with what it drew, within ``limits``."""
    image, out = image.contiguous(), torch.empty_like(image, memory_format=torch.contiguous_format)
    count, channels, height, width = image.shape
    numbers = torch.cat([drawn[name].reshape(count, -1) for name in _DRAWN], 1)
    words, device = streams.child("pixels").integers(0, 1 << 31, 3), image.device
    if image.numel():
        _expose[_grid(image)](
            image, out, numbers, words, drawn["offset"].contiguous(), streams.child("row").normal(height),
            packed_patterns(detector, device), column_pattern(detector, "gain", device),
            column_pattern(detector, "dark", device), channels * height, height, width, *limits,
            ROWS=_ROWS, BLOCK=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return out
