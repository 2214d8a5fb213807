"""Random numbers that belong to an image, whatever batch, worker, process or order it comes in.

An id of 64 bits names a stream. Small draws (`uniform`, `integers`) are an integer hash of the id and are
equal on every device. Noise for every pixel (`rand`, `normal`) is exact within one device type and equal in
distribution across types: on the CPU each image has its own Mersenne twister, elsewhere (and inside
``torch.compile``) every pixel is hashed, which needs neither a loop over images nor a host sync. On a GPU
with Triton a draw is one kernel (``fused_streams``); without it, some dozens of torch's. On a CPU numpy makes the
small draws (``host_streams``).
"""

import hashlib
import math
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from lamella.contracts import host_streams

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    """The 64-bit pattern of ``value`` as the signed integer that torch's int64 holds."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's shift of int64 drags the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """Scramble int64 values one to one (the finaliser of SplitMix64; wraps around).

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _mix32(x: Tensor) -> Tensor:
    """Scramble int32 values one to one.

    Source: "lowbias32", Chris Wellons' hash prospector (bias 0.107 of the ideal's 0).
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261  # 0x846CA68B as int32
    return x ^ ((x >> 16) & 0xFFFF)


def _word(name: str) -> int:
    """A fixed 64-bit number for a name: the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _quick(ids: Tensor) -> ModuleType | None:
    """What makes small draws where ``ids`` lie with the least ado; None where torch's own operations have to."""
    if on_host(ids):
        return host_streams if type(ids) is Tensor else None
    return fused(ids)


def on_host(ids: Tensor) -> bool:
    """Whether the host may read values of ``ids``: it waits for no device, and nothing is being traced."""
    return ids.device.type == "cpu" and not torch.compiler.is_compiling()


def fused(ids: Tensor) -> ModuleType | None:
    """The kernels of ``fused_streams`` for ids on this process's GPU; None elsewhere and while torch is tracing."""
    if ids.device.type != "cuda" or type(ids) is not Tensor or torch.compiler.is_compiling():
        return None
    return _kernels() if ids.device.index == torch.cuda.current_device() else None


@cache
def _kernels() -> ModuleType | None:
    """``fused_streams`` where Triton is and works, which it is asked once."""
    try:
        from lamella.contracts import fused_streams

        fused_streams.child(torch.zeros(1, dtype=torch.int64, device="cuda"), 1)
    except ImportError:
        return None
    except Exception as error:  # whatever a broken tool chain raises
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        warnings.warn(f"random numbers come without Triton, which is slower: {reason}", RuntimeWarning, stacklevel=4)
        return None
    return fused_streams


class Streams:
    """A batch of independent random streams, one per image.

    What a stream yields depends on its id and on the calls made so far, never on the rest of the batch.

    >>> a, b = Streams(torch.tensor([5, 6])), Streams(torch.tensor([6]))
    >>> bool(a.uniform(0, 1)[1] == b.uniform(0, 1)[0])
    True
    """

    def __init__(self, ids: Tensor):
        """``ids``: (B,) int64 on the device where the numbers are wanted."""
        self.ids = ids
        self._calls = 0

    @classmethod
    def root(cls, seed: int, key: Tensor, visit: Tensor, view: str) -> "Streams":
        """The streams of (run seed, sample key (B,), visit (B,), view name)."""
        if (kernels := _quick(key)) is not None:
            return cls(kernels.root(key, visit, _signed(_word(f"seed {seed}")), _signed(_word(view))))
        ids = mix64(key + _signed(_word(f"seed {seed}")))
        ids = mix64(ids + visit * _signed(_GOLDEN))
        return cls(mix64(ids ^ _signed(_word(view))))

    @classmethod
    def drawn(cls, count: int) -> "Streams":
        """``count`` streams whose ids come from torch's generator on the CPU."""
        return cls(torch.randint(-(1 << 62), 1 << 62, (count,), dtype=torch.int64))

    def __len__(self) -> int:
        return self.ids.shape[0]

    def child(self, name: str) -> "Streams":
        """Streams for a named part; they depend on this stream's id and the name alone."""
        if (kernels := _quick(self.ids)) is not None:
            return Streams(kernels.child(self.ids, _signed(_word(name))))
        return Streams(mix64(self.ids ^ _signed(_word(name))))

    def to(self, device: torch.device) -> "Streams":
        """The same streams from their beginning, on another device."""
        return Streams(self.ids.to(device, non_blocking=True))

    def _step(self) -> int:
        """What tells the next call from those before."""
        self._calls += 1
        return _signed(self._calls * _GOLDEN)

    def _next(self) -> Tensor:
        if _quick(self.ids) is host_streams:
            return host_streams.words(self.ids, self._step())
        return mix64(self.ids + self._step())

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) int64: hashed words, equal on every device."""
        index = torch.arange(math.prod(shape), device=self.ids.device).view(1, *shape)
        return mix64(self._next().view(-1, *(1 for _ in shape)) + index * _signed(_GOLDEN))

    def uniform(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
        """(B, *shape) float32 in [low, high), equal on every device; meant for parameters, not pixels."""
        kernels = _quick(self.ids)
        if kernels is not None and not isinstance(low, Tensor) and not isinstance(high, Tensor):
            return kernels.uniform(self.ids, self._step(), low, high, shape)
        if kernels is not None:
            return low + (high - low) * kernels.uniform(self.ids, self._step(), 0.0, 1.0, shape)
        unit = _shift(self._bits(shape), 40).to(torch.float32) * 2.0**-24
        return low + (high - low) * unit

    def uniforms(self, *ranges: tuple[float, float]) -> tuple[Tensor, ...]:
        """(B,) float32 for each range [low, high): what as many calls of `uniform` give, for one on a GPU."""
        if (kernels := _quick(self.ids)) is None:
            return tuple(self.uniform(low, high) for low, high in ranges)
        first = self._calls + 1
        self._calls += len(ranges)
        drawn: tuple[Tensor, ...] = kernels.several(self.ids, first, ranges)
        return drawn

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [low, high), equal on every device."""
        if (kernels := _quick(self.ids)) is not None:
            return kernels.integers(self.ids, self._step(), low, high, shape)
        return low + _shift(self._bits(shape), 33) % (high - low)

    def rand(self, *shape: int) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1): noise for every pixel."""
        if on_host(self.ids):
            return self._each(shape, "uniform_")
        if (kernels := fused(self.ids)) is not None:
            return kernels.pixels(self.ids, self._step(), None, shape)
        return self._hashed(shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal: noise for every pixel."""
        if on_host(self.ids):
            return self._each(shape, "normal_")
        if (kernels := fused(self.ids)) is not None:
            return kernels.pixels(self.ids, self._step(), self._step(), shape)
        radius = torch.sqrt(-2.0 * torch.log1p(-self._hashed(shape)))
        return radius * torch.cos((2.0 * math.pi) * self._hashed(shape))

    def _each(self, shape: tuple[int, ...], fill: str) -> Tensor:
        out = torch.empty(len(self), *shape)
        generator = torch.Generator()
        for image, seed in zip(out, self._next().tolist()):
            generator.manual_seed(seed)
            getattr(image, fill)(generator=generator)
        return out

    def _hashed(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32 in [0, 1): each pixel's index hashed with the two halves of the image's word."""
        word = self._next().view(-1, *(1 for _ in shape))
        index = torch.arange(math.prod(shape), dtype=torch.int32, device=self.ids.device).view(1, *shape)
        x = _mix32(index ^ word.to(torch.int32))
        x = _mix32(x + _shift(word, 32).to(torch.int32))
        return ((x >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24
