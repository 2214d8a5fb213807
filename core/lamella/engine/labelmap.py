"""Label maps on the disk, with the classes as values and the pixel size beside them, and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from lamella.contracts.batch import IGNORE
from lamella.data.formats.raster import LARGEST
from lamella.engine.pictures import UNKNOWN, colours
from lamella.errors import ConfigError

_LARGEST = 2**32 - 1
_OURS = "lamella contact sheet"
"""What a sheet has as its EXIF software."""


def save_image(image: Image.Image, path: Path, pixel_nm: tuple[float, float] = (math.nan, math.nan)) -> None:
    """Write a PNG so that it is there whole or not at all, with its pixel size (nm, y and x) where that is known.

    The size stands in a text ``pixel_nm`` and, where it fits, in pHYs as pixels per metre.
    """
    told = PngImagePlugin.PngInfo()
    if not math.isnan(pixel_nm[0]):
        told.add_text("pixel_nm", f"{pixel_nm[0]!r} {pixel_nm[1]!r}")
        per_metre = [round(1e9 / size) for size in (pixel_nm[1], pixel_nm[0])]
        if all(0 < count <= _LARGEST for count in per_metre):
            told.add(b"pHYs", b"".join(count.to_bytes(4, "big") for count in per_metre) + b"\x01")
    _whole(path, partial(image.save, format="PNG", pnginfo=told))


def check_sheet(path: Path) -> None:
    """Raise `ConfigError` where a path is taken by anything but a sheet of `save_sheet`."""
    if path.exists() and not _is_sheet(path):
        raise ConfigError(f"{path} exists, and is no sheet that lamella wrote; choose another name, or move it away")


def save_sheet(image: Image.Image, path: Path) -> None:
    """Write a contact sheet, as JPEG where its name ends so and else as PNG, whole or not at all.

    It replaces earlier sheets alone; raises `ConfigError` as `check_sheet`.
    """
    check_sheet(path)
    told = Image.Exif()
    told[ExifTags.Base.Software] = _OURS
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    _whole(path, partial(image.save, format=kind, exif=told))


def _is_sheet(path: Path) -> bool:
    Image.MAX_IMAGE_PIXELS = LARGEST
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            return "exif" in opened.info and opened.getexif().get(ExifTags.Base.Software) == _OURS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save_label(label: np.ndarray, path: Path, classes: Sequence[str], pixel_nm: tuple[float, float]) -> None:
    """Write class ids (H, W), 255 for none, as a palette PNG or, by the name's ending, as a TIFF for ImageJ in nm."""
    if path.suffix == ".png":
        palette = Image.fromarray(label)
        shades = colours(classes)
        if (label == IGNORE).any():  # as many colours as values, or the PNG has fewer bits than they need
            shades += [UNKNOWN] * (IGNORE + 1 - len(shades))
        palette.putpalette([channel for colour in shades for channel in colour])
        save_image(palette, path, pixel_nm)
        return
    import tifffile

    beside = path.with_name(f".{path.name}.tmp")
    known = not math.isnan(pixel_nm[0])
    told = {"unit": "nm", "Labels": [",".join(classes)]} if known else {}
    resolution = (1 / pixel_nm[1], 1 / pixel_nm[0]) if known else None
    tifffile.imwrite(beside, label, imagej=True, resolution=resolution, metadata=told)
    beside.replace(path)
