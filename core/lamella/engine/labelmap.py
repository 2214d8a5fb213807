"""Label maps on the disk, with the classes as values and the pixel size beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from lamella.contracts.batch import IGNORE
from lamella.engine.pictures import UNKNOWN, colours
from lamella.engine.whole import whole

_LARGEST = 2**32 - 1


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
    with whole(path) as beside:
        image.save(beside, format="PNG", pnginfo=told)


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

    known = not math.isnan(pixel_nm[0])
    told = {"unit": "nm", "Labels": [",".join(classes)]} if known else {}
    resolution = (1 / pixel_nm[1], 1 / pixel_nm[0]) if known else None
    with whole(path) as beside:
        tifffile.imwrite(beside, data=label, imagej=True, resolution=resolution, metadata=told)
