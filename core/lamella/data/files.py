"""Reading image and mask files: PNG, JPEG and TIFF, in the bit depth they have."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from lamella.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LARGEST = 1 << 30
"""Pixels of the largest image that is opened without a warning; Pillow's own limit is a slide of 9500²."""
_MASK_ENDING = re.compile(r"[_-](mask|masks|label|labels|seg|segmentation|gt|annot|annotation)$", re.IGNORECASE)


def image_stem(mask_stem: str) -> str:
    """The stem of the image a mask belongs to: its own, without an ending like ``_mask`` or ``-label``.

    >>> image_stem("spot3_0d_3_mask"), image_stem("spot3_0d_3")
    ('spot3_0d_3', 'spot3_0d_3')
    """
    return _MASK_ENDING.sub("", mask_stem)


def readable(name: str) -> str:
    """A file name as text that can be printed and written: bytes that are no UTF-8 as ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W) or (H, W, C), uint8, uint16 or float32.

    Raises:
        DataError: missing, empty, truncated, of an unknown kind, a stack, or holding NaN.
    """
    return checked(_read(path), str(path))


def checked(image: np.ndarray, name: str) -> np.ndarray:
    """Decoded pixels as `read_image` gives them, without an alpha channel; raises as `read_image`."""
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3)) or image.size == 0:
        raise DataError(f"{name}: an image of shape {image.shape} is neither (H, W) nor (H, W, channels)")
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype.kind == "f":
        if not np.isfinite(image).all():
            raise DataError(f"{name}: the image holds NaN or infinite values")
        return image.astype(np.float32)
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.kind in "iu" and image.min() >= 0 and image.max() <= 65535:
        return image.astype(np.uint16)
    raise DataError(f"{name}: pixels of type {image.dtype} from {image.min()} to {image.max()} are not supported")


def pixels(opened: Any) -> np.ndarray:
    """A Pillow image as an array: palettes become colours, an alpha channel beside grey is dropped."""
    if opened.mode in ("P", "PA"):
        return np.asarray(opened.convert("RGB"))
    return np.asarray(opened.convert("L") if opened.mode == "LA" else opened)


def read_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) values or (H, W, 3 or 4) colours; palettes are read as their indices.

    Raises:
        DataError: as `read_image`.
    """
    return _read(path, palette_as_index=True)


def _read(path: Path, *, palette_as_index: bool = False) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: files of type {path.suffix or 'none'} are not read; use {', '.join(SUFFIXES)}")
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            return np.asarray(tifffile.imread(path))
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = LARGEST
        with Image.open(path) as opened:
            return np.asarray(opened) if palette_as_index and opened.mode == "P" else pixels(opened)
    except MemoryError:
        raise
    except Exception as error:  # Pillow and tifffile raise a dozen kinds on damaged files
        raise DataError(f"{path}: the file cannot be read; it may be damaged or cut short ({error})") from error
