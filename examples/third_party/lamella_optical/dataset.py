"""The dataset that the plugin registers."""

from io import BytesIO
from typing import Annotated, Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Picture
from pydantic import Field

from lamella_optical.modality import BRIGHT_FIELD, DARK_FIELD
from lamella_optical.surface import CLASSES, PIXEL_NM, surface

FEATURES = Features(
    {
        "image": Image(),
        "label": Image(),
        "classes": List(ClassLabel(names=list(CLASSES))),
        "pixel_nm": List(Value("float32"), length=2),
        "illumination": Value("float32"),
        "name": Value("string"),
        "lot": Value("string"),
    }
)


def optical_wafer(
    *,
    count: Annotated[int, Field(ge=1, description="number of images")] = 64,
    seed: Annotated[int, Field(ge=0, description="another seed gives other images")] = 0,
    size: Annotated[int, Field(ge=64, description="side of the images, pixels")] = 128,
    illumination: Annotated[Literal["bright-field", "dark-field"], Field(description="of all images")] = "bright-field",
) -> Dataset:
    """Colour images of synthetic wafer surfaces: lines and pads on an oxide, with particles and scratches.

    Columns: ``image`` (8 bit, RGB), ``label`` (class ids), ``classes`` (those present; the names are the set's),
    ``pixel_nm`` (y, x), ``illumination`` (+1 bright field, −1 dark field: the modality's metadata), ``name``, and
    the group ``lot``. Image i depends on (seed, i, size, illumination) alone. No real product looks like this.
    """
    # from_list keeps nothing on disk. from_generator would, and would not notice a change in surface.py.
    return Dataset.from_list([_row(seed, index, size, illumination) for index in range(count)], features=FEATURES)


def _row(seed: int, index: int, size: int, illumination: str) -> dict[str, Any]:
    dark_field = illumination == "dark-field"
    shot = surface(seed, index, size, dark_field=dark_field)
    return {
        "image": _png(shot.image),
        "label": _png(shot.label),
        "classes": np.unique(shot.label).tolist(),
        "pixel_nm": [PIXEL_NM, PIXEL_NM],
        "illumination": DARK_FIELD if dark_field else BRIGHT_FIELD,
        "name": f"{illumination}-s{seed}-{index:05d}",
        "lot": shot.lot,
    }


def _png(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels as the bytes that ``datasets.Image`` stores."""
    buffer = BytesIO()
    Picture.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
