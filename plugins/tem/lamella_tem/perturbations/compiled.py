"""Compiled kernels: one pass over memory where a compiler is found, the plain function where none is."""

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from lamella import Streams
from lamella.contracts.streams import fused
from pydantic import Field
from torch import Tensor

Kernel = Annotated[
    Literal["auto", "eager", "compiled"],
    Field(description="compiled: one fused kernel; eager: none; auto: compiled on an accelerator"),
]


class Compiled:
    """A pointwise function of images that is compiled where that is wanted and possible.

    On a CPU the images go one by one, so that what lies between two steps stays in the cache; elsewhere all at
    once. Where compiling fails (no C++ compiler, no Triton), a warning says so once and the plain function goes
    on. Compiled, pixel noise is hashed instead of coming from one Mersenne twister per image: equal in
    distribution to the eager reference, not bit for bit.

    >>> double = Compiled(lambda x: 2 * x)
    >>> double.wanted("auto", torch.ones(2, 1)), double(torch.ones(2, 1), kernel="auto").flatten()
    (False, tensor([2., 2.]))
    """

    def __init__(self, function: Callable[..., Tensor], easier: Callable[..., Tensor] | None = None):
        """``easier`` does the same with less work for images that are ``easy``; both give what the first image is in
        shape and dtype."""
        self.function = function
        self._easier = self if easier is None else Compiled(easier)
        self.failure: str | None = None
        """Why the function could not be compiled; None where it could, or was never asked to."""
        self._compiled: Callable[..., Any] | None = None

    def wanted(self, kernel: str, tensor: Tensor) -> bool:
        """Whether a call with this ``tensor`` would be compiled."""
        asked = kernel == "compiled" or (kernel == "auto" and tensor.device.type in ("cuda", "xpu"))
        real = type(tensor) is Tensor  # not the stand-in of a tracing mode
        return asked and real and self.failure is None and not torch.compiler.is_compiling()

    def __call__(
        self,
        first: Tensor,
        *others: Tensor | Sequence[Tensor],
        shared: tuple[Any, ...] = (),
        kernel: str,
        easy: Tensor | None = None,
    ) -> Tensor:
        """``function(first, *others, *shared)`` for images (B, …) each and what all of them share.

        Args:
            others: each a tensor, or, on the CPU, a sequence of one (1, …) for each image.
            easy: (B,) bool, images for which the easier function will do; used on the CPU alone, where images go
                one by one and nothing waits when a value is read.
        """
        wanted = self.wanted(kernel, first)
        if first.device.type != "cpu" and not wanted:
            return self.function(first, *others, *shared)
        out = torch.empty_like(first, memory_format=torch.contiguous_format)
        if first.device.type != "cpu":
            return self._fill(out, (first, *others, *shared))
        light = [False] * len(first) if easy is None else easy.tolist()
        for i, is_light in enumerate(light):
            one = [image[i : i + 1] if isinstance(image, Tensor) else image[i] for image in (first, *others)]
            run = self._easier if is_light else self
            if wanted:
                run._fill(out[i : i + 1], (*one, *shared))
            else:
                out[i : i + 1] = run.function(*one, *shared)
        return out

    def _fill(self, out: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        """Compiled, straight into ``out``: fresh memory for every image would cost as much as the arithmetic."""
        if self.failure is None:
            if self._compiled is None:
                self._compiled = torch.compile(lambda out, *arguments: out.copy_(self.function(*arguments)))
            try:
                self._compiled(out, *arguments)
                return out
            except Exception as error:  # whatever a missing or broken tool chain raises
                self.failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                name = getattr(self.function, "__name__", "a kernel")
                warnings.warn(
                    f"{name} runs uncompiled, which is slower: {self.failure}", RuntimeWarning, stacklevel=3
                )
        return out.copy_(self.function(*arguments))


def gpu_kernels(kernel: str, image: Tensor) -> ModuleType | None:
    """``perturbations.fused_camera`` where ``image`` is on this process's GPU and Triton works there; else None."""
    if kernel == "eager" or fused(image) is None:
        return None
    from lamella_tem.perturbations import fused_camera

    return fused_camera


def noise_source(streams: Streams, rows: int, width: int, *, hashed: bool) -> Tensor:
    """What `uniform` makes (B, rows, W) uniform numbers from: the numbers, or two int32 words per row."""
    return streams.integers(0, 1 << 31, rows, 2).to(torch.int32) if hashed else streams.rand(rows, width)


def uniform(source: Tensor, width: int) -> Tensor:
    """(…, W) float32 in [0, 1): ``source`` itself, or its words (…, 2) hashed with the column's number.

    >>> uniform(torch.tensor([[1, 2]], dtype=torch.int32), 4).shape
    torch.Size([1, 4])
    """
    if source.dtype != torch.int32:
        return source
    column = torch.arange(width, dtype=torch.int32, device=source.device)
    x = _mix(_mix(column ^ source[..., :1]) + source[..., 1:])
    return ((x >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def uniform_pair(source: Tensor, other: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Two independent uniform numbers for every pixel, each as `uniform` gives; the hash of one is that of both."""
    if source.dtype != torch.int32:
        return source, other
    column = torch.arange(width, dtype=torch.int32, device=source.device)
    first = _mix(_mix(column ^ source[..., :1]) + source[..., 1:])
    second = _mix(first ^ other[..., :1])
    return tuple(((x >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24 for x in (first, second))  # type: ignore[return-value]


def _mix(x: Tensor) -> Tensor:
    """Scramble int32 values one to one ("lowbias32", C. Wellons' hash prospector)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261  # 0x846CA68B as int32
    return x ^ ((x >> 16) & 0xFFFF)
