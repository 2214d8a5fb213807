"""Contact sheets: many images on one picture, each small and with its name; and such sheets on the disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont

from lamella.contracts.data import Sample
from lamella.data.formats.raster import LARGEST
from lamella.data.grey import grey
from lamella.engine.pictures import overlay_picture
from lamella.engine.whole import whole
from lamella.errors import ConfigError

_SIDE, _HEAD, _GAP = 160, 16, 4
_OURS = "lamella contact sheet"
"""What a sheet has as its EXIF software."""


def contact_sheet(samples: Sequence[Sample], classes: Sequence[str], *, columns: int = 6) -> Image.Image:
    """The samples in rows, grey values stretched from percentile 0.5 to 99.5, with their labels laid over the half.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("a contact sheet needs at least one sample")
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, rows * (step + _HEAD) - _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, sample in enumerate(samples):
        left, top = place % columns * step, place // columns * (step + _HEAD)
        sheet.paste(_small(sample, classes), (left, top + _HEAD))
        draw.text((left + 1, top + 1), _short(sample.name), fill="black", font=font)
    return sheet


def check_sheet(path: Path) -> None:
    """Raise `ConfigError` where a path is taken by anything but a sheet that `save_sheet` wrote."""
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
    with whole(path) as beside:
        image.save(beside, format=kind, exif=told)


def _is_sheet(path: Path) -> bool:
    Image.MAX_IMAGE_PIXELS = LARGEST
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            return "exif" in opened.info and opened.getexif().get(ExifTags.Base.Software) == _OURS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _small(sample: Sample, classes: Sequence[str]) -> Image.Image:
    """The image in a square of `_SIDE`; its lower right half shows the label, where there is one."""
    step = max(max(sample.image.shape[:2]) // (2 * _SIDE), 1)  # a huge image is thinned out before it is stretched
    thinned = grey(sample.image[::step, ::step]).astype(np.float32)
    low, high = np.percentile(thinned, (0.5, 99.5))
    stretched = (np.clip((thinned - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    picture = np.repeat(stretched[..., None], 3, axis=2)
    if isinstance(sample.label, np.ndarray):
        label = sample.label[::step, ::step]
        y, x = np.mgrid[: label.shape[0], : label.shape[1]]
        half = (y / label.shape[0] + x / label.shape[1]) > 1
        picture = np.where(half[..., None], overlay_picture(picture, label, classes), picture)
    image = Image.fromarray(picture)
    scale = _SIDE / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"
