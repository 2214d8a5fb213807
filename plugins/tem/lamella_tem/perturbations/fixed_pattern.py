"""What stays the same from frame to frame of one detector: drawn once, shifted for every image."""

import torch
from lamella import Streams
from torch import Tensor

from lamella_tem.perturbations.tables import table

SIDE = 1024
"""Rows and columns of a detector's pattern; it repeats beyond (a power of two)."""
STEP = 1.0 / 4096.0
"""Of a packed pattern, in standard deviations."""


def pattern(detector: int, kind: str, device: torch.device) -> Tensor:
    """The fixed pattern (1024, 1024) float32 of a detector's pixels: white, normal, mean 0 and variance 1.

    ``kind`` tells the patterns of one detector apart ("gain", "dark").

    >>> pattern(0, "gain", torch.device("cpu")).std().round(decimals=3)
    tensor(1.)
    """
    name = f"{kind} of pixels"
    return table((detector, name), device, lambda: _white(detector, name, SIDE, SIDE))


def column_pattern(detector: int, kind: str, device: torch.device) -> Tensor:
    """The same for a detector's columns: (1024,) float32, mean 0 and variance 1."""
    name = f"{kind} of columns"
    return table((detector, name), device, lambda: _white(detector, name, SIDE))


def _white(detector: int, name: str, *shape: int) -> Tensor:
    noise = Streams(torch.tensor([detector], dtype=torch.int64)).child(f"detector: {name}").normal(*shape)[0]
    return (noise - noise.mean()) / noise.std()


def packed_patterns(detector: int, device: torch.device) -> Tensor:
    """Gain and dark pattern of the pixels in one int32 (1024, 1024), so that one look-up gives both.

    >>> gain, dark = unpacked(packed_patterns(0, torch.device("cpu")))
    >>> (gain - pattern(0, "gain", gain.device)).abs().max() < 2e-4
    tensor(True)
    """

    def pack() -> Tensor:
        home = torch.device("cpu")
        gain, dark = (
            (pattern(detector, kind, home) / STEP).round().clamp(-32768, 32767).to(torch.int32)
            for kind in ("gain", "dark")
        )
        return (gain << 16) | (dark & 0xFFFF)

    return table((detector, "gain and dark"), device, pack)


def packed_windows(detector: int, offset: Tensor, height: int, width: int) -> list[Tensor]:
    """The packed patterns (1, H, W) under each image on the CPU, which begin at ``offset`` (B, 2), below 1024.

    They are views where they fit into four copies of the detector side by side, else look-ups.

    >>> offset = torch.tensor([[1020, 1000], [3, 5]])
    >>> window = packed_windows(0, offset, 16, 40)[0]
    >>> torch.equal(window, shifted(packed_patterns(0, offset.device), offset[:1], 16, 40))
    True
    """
    home = torch.device("cpu")
    packed = packed_patterns(detector, home)
    if max(height, width) > SIDE:
        return list(shifted(packed, offset, height, width).split(1))
    fourfold = table((detector, "gain and dark, fourfold"), home, lambda: packed.repeat(2, 2))
    return [fourfold[None, y : y + height, x : x + width] for y, x in offset.tolist()]


def unpacked(words: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and dark pattern, float32, from packed words of any shape."""
    gain, dark = words >> 16, (words << 16) >> 16
    return gain.to(torch.float32) * STEP, dark.to(torch.float32) * STEP


def offsets(streams: Streams) -> Tensor:
    """(B, 2) int64: where on its detector each image lies, row and column of its first pixel."""
    return streams.integers(0, SIDE, 2)


def shifted(pattern: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """The part (B, H, W) of a pattern (1024, 1024) that begins at ``offset`` (B, 2), wrapped around."""
    rows, columns = _index(offset[:, 0], height), _index(offset[:, 1], width)  # (B, H), (B, W)
    return pattern.flatten()[rows.unsqueeze(2) * SIDE + columns.unsqueeze(1)]


def shifted_columns(pattern: Tensor, offset: Tensor, width: int) -> Tensor:
    """The part (B, W) of a column pattern (1024,) that begins at ``offset``'s column."""
    return pattern[_index(offset[:, 1], width)]


def _index(first: Tensor, count: int) -> Tensor:
    """(B, count): ``count`` successive positions from ``first`` (B,), wrapped around."""
    return (first.unsqueeze(1) + torch.arange(count, device=first.device)) & (SIDE - 1)
