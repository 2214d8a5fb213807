"""Contact sheets: every device and generation with its label map, every SEM defect at both magnifications."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lamella_synth.presets import DEVICES, device, preset
from lamella_synth.sem.presets import PRESETS
from lamella_synth.sem.review import review
from lamella_synth.sem.scene import CLASSES
from lamella_synth.tem.render import Micrograph, render

COLUMNS = ("haadf", "bright-field", "label", "in-family", "unseen")
"""What stands side by side in each row."""


def contact_sheet(*, seed: int = 0, size: int = 192, devices: tuple[str, ...] = DEVICES) -> Image.Image:
    """One row per device and generation, one column per entry of `COLUMNS`, each picture `size` pixels wide."""
    rows = [f"{family}-{letter.lower()}" for family in devices for letter in device(family).generations]
    strip, line = 150, max(14, size // 12)
    sheet = Image.new("RGB", (strip + len(COLUMNS) * size, line + len(rows) * size), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, title in enumerate(COLUMNS):
        pen.text((strip + column * size + 4, 1), title, fill="black", font=font)
    for k, name in enumerate(rows):
        made = preset(name)
        pen.text((4, line + k * size + 6), f"{name}\n{made.view_nm:g} nm\n{made.mode}", fill="black", font=font)
        for column, picture in enumerate(_pictures(name, seed, size)):
            sheet.paste(picture, (strip + column * size, line + k * size))
    return sheet


def _pictures(name: str, seed: int, size: int) -> list[Image.Image]:
    made = preset(name)

    def shot(mode: str, nuisance: str) -> Micrograph:
        return render(made, seed=seed, index=0, size=size, mode=mode, nuisance=nuisance)

    plain = shot("haadf", "none")
    grey = [plain, shot("bright-field", "none"), shot("preset", "in-family"), shot("preset", "unseen")]
    pictures = [Image.fromarray(each.image).convert("RGB") for each in grey]
    pictures.insert(2, Image.fromarray(coloured(plain.label, len(made.classes))))
    return pictures


def coloured(label: np.ndarray, classes: int) -> np.ndarray:
    """A label map (H, W) as (H, W, 3) uint8: muted colours for materials, red for the last class."""
    palette = [colorsys.hls_to_rgb(0.12 + 0.75 * k / classes, 0.35 + 0.35 * (k % 2), 0.45) for k in range(classes)]
    palette[-1] = (0.95, 0.1, 0.1)
    return (np.array(palette) * 255).astype(np.uint8)[label]


def defect_sheet(*, seed: int = 0, size: int = 192) -> Image.Image:
    """One row per SEM product and defect class: three defects, each at low and high magnification.

    A class that is rare may show fewer than three.
    """
    line, strip = max(14, size // 12), 110
    rows = [(name, kind) for name in PRESETS for kind in range(len(CLASSES))]
    sheet = Image.new("RGB", (strip + 6 * size, line + len(rows) * size), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column in range(6):
        pen.text((strip + column * size + 4, 1), ("low", "high")[column % 2], fill="black", font=font)
    for name, product in PRESETS.items():
        shown = dict.fromkeys(range(len(CLASSES)), 0)
        for index in range(60):
            shot = review(product, seed=seed, index=index, size=size)
            place = shown[shot.label]
            shown[shot.label] += 1
            if place < 3:
                top = line + rows.index((name, shot.label)) * size
                for column, pixels in enumerate((shot.low, shot.high)):
                    sheet.paste(Image.fromarray(pixels), (strip + (2 * place + column) * size, top))
    for k, (name, kind) in enumerate(rows):
        pen.text((4, line + k * size + 6), f"{name}\n{CLASSES[kind]}", fill="black", font=font)
    return sheet
