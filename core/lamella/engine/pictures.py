"""Image, label, prediction and difference side by side, as an engineer would put them on a slide."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lamella.contracts.batch import IGNORE

PALETTE = (
    "#4c6a92", "#e0a458", "#5b8e7d", "#bc4b51", "#8f6aae", "#c9c27b", "#3b9fbf", "#a05c34",
    "#7f7f7f", "#d88fb5", "#9acd4e", "#2f4858", "#f2d13e", "#1f7a4d", "#6b2d5c", "#f4b6a8",
    "#b4d9ea", "#6f6a2a", "#e8741a", "#5a4fd6", "#cfe6bd", "#8c1d40", "#e2c1f2", "#00b894",
)  # fmt: skip
"""Colours of classes 0, 1, …; they repeat after the 24th. The class ``defect`` is always `DEFECT`."""
DEFECT = "#ff2d2d"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
UNKNOWN = (40, 40, 40)
_GAP, _HEAD, _SIDE = 6, 22, 256
_FOOT = 24
"""Room below a strip for its scale bars, so that they cover nothing of the micrographs."""


def colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """The colour of every class."""
    codes = [DEFECT if name == "defect" else PALETTE[i % len(PALETTE)] for i, name in enumerate(classes)]
    return [(int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)) for code in codes]


def label_picture(label: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Class ids (H, W) as colours (H, W, 3) uint8; ignored pixels nearly black."""
    table = np.full((256, 3), UNKNOWN, np.uint8)
    table[: len(classes)] = colours(classes)
    return table[np.asarray(label, np.uint8)]


def difference_picture(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The grey image (H, W, 3) dimmed, with every wrong pixel in red."""
    wrong = (label != prediction) & (label != IGNORE)
    out = (image * 0.45).astype(np.uint8)
    out[wrong] = (255, 60, 40)
    return out


def overlay_picture(image: np.ndarray, label: np.ndarray, classes: Sequence[str], strength: float = 0.45) -> np.ndarray:
    """The image (H, W, 3) with the classes' colours laid over it."""
    mixed = image * (1 - strength) + label_picture(label, classes) * strength
    return mixed.astype(np.uint8)


def row(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    classes: Sequence[str],
    *,
    name: str = "",
    pixel_nm: float = math.nan,
) -> Image.Image:
    """One sample as a strip: image with a scale bar below, label, prediction, difference.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) classes, or None where there are none.
        prediction: (H, W) classes.
        pixel_nm: nm per pixel along x; nan draws no bar.
    """
    panels = [(name or "image", image)]
    if label is not None:
        panels.append(("label", label_picture(label, classes)))
    panels.append(("prediction", label_picture(prediction, classes)))
    if label is not None:
        counted = label != IGNORE
        share = float((label != prediction)[counted].mean()) if counted.any() else math.nan
        panels.append((f"difference ({share:.1%} wrong)", difference_picture(image, label, prediction)))
    else:
        panels.append(("overlay", overlay_picture(image, prediction, classes)))
    return panel_row(panels, pixel_nm=pixel_nm)


def panel_row(panels: Sequence[tuple[str, np.ndarray]], *, pixel_nm: float = math.nan) -> Image.Image:
    """Titled pictures (H, W, 3) uint8 of one size side by side; below the first, a micrograph, is its scale bar.

    Args:
        pixel_nm: nm per pixel along x; nan draws no bar.
    """
    size = panels[0][1].shape[:2]
    scale = _SIDE / max(size)
    width, height = (max(1, round(n * scale)) for n in (size[1], size[0]))
    measured = 0 < pixel_nm < math.inf  # nan is neither
    foot = _FOOT if measured else 0
    strip = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, _HEAD + height + foot), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for place, (title, pixels) in enumerate(panels):
        left = place * (width + _GAP)
        smooth = Image.Resampling.LANCZOS if place == 0 else Image.Resampling.NEAREST
        strip.paste(Image.fromarray(pixels).resize((width, height), smooth), (left, _HEAD))
        draw.text((left + 1, 3), _short(title, width, font), fill="black", font=font)
    if measured:
        _scale_bar(draw, font, pixel_nm / scale, width, (0, strip.height))
    return strip


def sample_row(
    views: Mapping[str, np.ndarray],
    label: int | None,
    probabilities: Sequence[float],
    classes: Sequence[str],
    *,
    name: str = "",
    pixel_nm: Mapping[str, float],
) -> Image.Image:
    """A classified sample as a strip: its views with scale bars below, its class, and the probability of every class.

    Args:
        views: (H, W, 3) uint8 by the name of the view.
        probabilities: of every class.
        pixel_nm: nm per pixel along x by view; nan draws no bar.
    """
    measured = [view for view in views if 0 < pixel_nm[view] < math.inf]
    foot = _FOOT if measured else 0
    strip = Image.new("RGB", ((len(views) + 1) * (_SIDE + _GAP) - _GAP, _HEAD + _SIDE + foot), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for place, (view, pixels) in enumerate(views.items()):
        scale = _SIDE / max(pixels.shape[:2])
        width, height = (max(1, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0]))
        left = place * (_SIDE + _GAP)
        strip.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS), (left, _HEAD))
        if view in measured:
            _scale_bar(draw, font, pixel_nm[view] / scale, width, (left, strip.height))
        draw.text((left + 1, 3), _short(f"{name} {view}".strip(), _SIDE, font), fill="black", font=font)
    left, best = len(views) * (_SIDE + _GAP), max(range(len(classes)), key=lambda k: probabilities[k])
    verdict = "" if label is None else " (right)" if label == best else f" (is {classes[label]})"
    draw.text((left + 1, 3), _short(classes[best] + verdict, _SIDE, font), fill="black", font=font)
    step = _SIDE // max(len(classes), 1)
    for k, (title, share, colour) in enumerate(zip(classes, probabilities, colours(classes))):
        top = _HEAD + k * step
        draw.rectangle((left + 92, top + 2, left + 92 + round(share * (_SIDE - 130)), top + step - 4), fill=colour)
        draw.text((left + 1, top), _short(title, 84, font), fill="black", font=font)
        draw.text((left + _SIDE - 34, top), f"{share:.2f}", fill="black", font=font)
    return strip


def _short(title: str, width: int, font: Font) -> str:
    """The title with as much of its middle left out as ``width`` pixels ask for: both ends tell things apart."""
    short, kept = title, len(title)
    while kept > 8 and font.getlength(short) > width:
        kept -= 1
        short = f"{title[: (kept + 1) // 2]}…{title[len(title) - kept // 2 :]}"
    return short


def with_scale_bar(picture: np.ndarray, pixel_nm: float) -> Image.Image:
    """A picture (H, W, 3) with a scale bar; as it is where the pixel size (nm along x) is unknown or it is small."""
    image = Image.fromarray(picture)
    if 0 < pixel_nm < math.inf and image.width >= 64 and image.height >= 48:
        _scale_bar(ImageDraw.Draw(image), ImageFont.load_default(12), pixel_nm, image.width, (6, image.height - 4))
    return image


def _scale_bar(draw: ImageDraw.ImageDraw, font: Font, nm: float, width: int, corner: tuple[int, int]) -> None:
    """A 1-2-5 bar of at most a quarter of the width, white on a dark ground; ``corner`` is its lower left."""
    most = 0.25 * width * nm
    power = 10 ** math.floor(math.log10(most))
    length = max((m * power for m in (1, 2, 5) if m * power <= most), default=power / 2)
    pixels = round(length / nm)
    text = f"{length:g} nm" if length < 1000 else f"{length / 1000:g} um"  # the font has no µ
    left, bottom = corner
    draw.rectangle((left, bottom - 22, left + max(pixels, 7 * len(text)) + 8, bottom), fill=(0, 0, 0))
    draw.rectangle((left + 4, bottom - 6, left + 4 + pixels, bottom - 3), fill="white")
    draw.text((left + 4, bottom - 21), text, fill="white", font=font)


def stack(strips: Sequence[Image.Image], classes: Sequence[str]) -> Image.Image:
    """Strips under each other, with a legend of the classes below."""
    width = max(strip.width for strip in strips)
    font, entries, x, y = ImageFont.load_default(12), [], 4, 4
    for name, colour in zip(classes, colours(classes)):
        need = 30 + 7 * len(name)
        if x + need > width:
            x, y = 4, y + 20
        entries.append((x, y, name, colour))
        x += need
    height = sum(strip.height + _GAP for strip in strips)
    sheet = Image.new("RGB", (width, height + y + 22), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + _GAP
    draw = ImageDraw.Draw(sheet)
    for x, y, name, colour in entries:
        draw.rectangle((x, top + y + 1, x + 14, top + y + 13), fill=colour)
        draw.text((x + 19, top + y), name, fill="black", font=font)
    return sheet
