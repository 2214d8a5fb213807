"""PNG, JPEG and BMP by Pillow, and 16-bit colour PNG, of which Pillow keeps 8 bits, by kornia_rs."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from lamella.data.formats.plausible import MOST_PER_BYTE
from lamella.errors import DataError

LARGEST = 1 << 30
"""Pixels of the largest image that is opened without a warning; Pillow's own limit is a slide of 9500²."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel by PNG's colour type."""
_ORIENTATION = 274
"""TIFF's tag of how the image was held."""


def read_raster(source: Path | bytes, name: str = "", *, palette_as_index: bool = False) -> np.ndarray:
    """The pixels of a file that Pillow knows, or of the bytes of one, as they are stored: never turned by EXIF.

    Args:
        name: what to call bytes in an error message.

    Raises:
        DataError: a header that promises too much, or grey of 16 bits with alpha.
        Exception: whatever Pillow raises.
    """
    from PIL import Image

    name, size = (name, len(source)) if isinstance(source, bytes) else (str(source), source.stat().st_size)
    depth, kind = _png(source)
    Image.MAX_IMAGE_PIXELS = LARGEST
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
        bits = depth * _SAMPLES.get(kind, 1) or {"RGB": 24, "RGBA": 32}.get(opened.mode, 1)
        if opened.width * opened.height * bits // 8 > MOST_PER_BYTE * size + 65536:
            raise DataError(f"{name}: its header promises {opened.width} × {opened.height} pixels; it is damaged")
        if depth == 16 and kind in (2, 4, 6):
            whole = source if isinstance(source, bytes) else source.read_bytes()
            return _deep(whole, name, kind, (opened.height, opened.width))
        stored = _stored(opened)
        return np.asarray(stored) if palette_as_index and stored.mode == "P" else pixels(stored)


def _stored(opened: Any) -> Any:
    """The image as it lies in the file: Pillow turns TIFF by its orientation, and no other format."""
    from PIL.Image import Transpose

    turned: int = opened.tag_v2.get(_ORIENTATION, 1) if opened.format == "TIFF" else 1
    back = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270,
    }.get(turned)  # fmt: skip
    return opened if back is None else opened.transpose(back)


def pixels(opened: Any) -> np.ndarray:
    """A Pillow image as an array: palettes become colours, an alpha channel beside grey is dropped."""
    if opened.mode in ("P", "PA", "CMYK"):
        return np.asarray(opened.convert("RGB"))
    return np.asarray(opened.convert("L") if opened.mode == "LA" else opened)


def _png(source: Path | bytes) -> tuple[int, int]:
    """Bits of a value, and the colour type, of a PNG file; 0 and 0 of another."""
    if isinstance(source, bytes):
        head = source[:26]
    else:
        with source.open("rb") as file:
            head = file.read(26)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 26:
        return 0, 0
    depth, kind = struct.unpack_from("BB", head, 24)
    return depth, kind


def _deep(encoded: bytes, name: str, kind: int, size: tuple[int, int]) -> np.ndarray:
    """A PNG of three or four 16-bit values a pixel as (H, W, 3 or 4) uint16; raises `DataError` for two."""
    from kornia_rs import io

    if kind == 4:
        raise DataError(f"{name}: grey of 16 bits with an alpha channel is not read; save it without alpha")
    return np.asarray(io.decode_image_png_u16(encoded, size, "rgb" if kind == 2 else "rgba"))
