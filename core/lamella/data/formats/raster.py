"""PNG, JPEG and BMP by Pillow, and 16-bit colour PNG, of which Pillow keeps 8 bits, by kornia_rs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from lamella.data.formats.plausible import MOST_PER_BYTE
from lamella.errors import DataError

LARGEST = 1 << 30
"""Pixels of the largest image that is opened without a warning; Pillow's own limit is a slide of 9500²."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel by PNG's colour type."""


def read_raster(path: Path, *, palette_as_index: bool = False) -> np.ndarray:
    """The pixels of a file that Pillow knows; raises what Pillow raises, and `DataError`."""
    from PIL import Image

    depth, kind = _png(path)
    Image.MAX_IMAGE_PIXELS = LARGEST
    with Image.open(path) as opened:
        bits = depth * _SAMPLES.get(kind, 1) or {"RGB": 24, "RGBA": 32}.get(opened.mode, 1)
        if opened.width * opened.height * bits // 8 > MOST_PER_BYTE * path.stat().st_size + 65536:
            raise DataError(f"{path}: its header promises {opened.width} × {opened.height} pixels; it is damaged")
        if depth == 16 and kind in (2, 4, 6):
            return _deep(path, kind, (opened.height, opened.width))
        return np.asarray(opened) if palette_as_index and opened.mode == "P" else pixels(opened)


def pixels(opened: Any) -> np.ndarray:
    """A Pillow image as an array: palettes become colours, an alpha channel beside grey is dropped."""
    if opened.mode in ("P", "PA", "CMYK"):
        return np.asarray(opened.convert("RGB"))
    return np.asarray(opened.convert("L") if opened.mode == "LA" else opened)


def _png(path: Path) -> tuple[int, int]:
    """Bits of a value, and the colour type, of a PNG file; 0 and 0 of another."""
    with path.open("rb") as file:
        head = file.read(26)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 26:
        return 0, 0
    depth, kind = struct.unpack_from("BB", head, 24)
    return depth, kind


def _deep(path: Path, kind: int, size: tuple[int, int]) -> np.ndarray:
    """A PNG of three or four 16-bit values a pixel as (H, W, 3 or 4) uint16; raises `DataError` for two."""
    from kornia_rs import io

    if kind == 4:
        raise DataError(f"{path}: grey of 16 bits with an alpha channel is not read; save it without alpha")
    return np.asarray(io.decode_image_png_u16(path.read_bytes(), size, "rgb" if kind == 2 else "rgba"))
