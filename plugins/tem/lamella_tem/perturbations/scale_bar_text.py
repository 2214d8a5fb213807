"""The lengths a scale bar can have, and their labels as distance fields that can be drawn at any size."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lamella_tem.perturbations.tables import table

HEIGHT = 48
"""Rows of a label's field."""

DECADES = range(-2, 7)
LENGTHS_NM = tuple(m * 10.0**k for k in DECADES for m in (1, 2, 3, 5))
"""Every length in nm, ascending; the 3s are for rulers alone."""


def label(length_nm: float) -> str:
    """A length as it is written below a bar: nm below 1 µm, µm from there on.

    >>> label(0.5), label(20.0), label(5000.0)
    ('0.5 nm', '20 nm', '5 µm')
    """
    return f"{length_nm:g} nm" if length_nm < 1000 else f"{length_nm / 1000:g} µm"


def lengths(device: torch.device) -> Tensor:
    """`LENGTHS_NM` as (36,) float32."""
    return table("scale bar lengths", device, lambda: torch.tensor(LENGTHS_NM, dtype=torch.float32))


def fields(device: torch.device) -> Tensor:
    """The labels' signed distances (36, 48, N) float32, in pixels of the field, > 0 inside."""
    return table("scale bar labels", device, _stacked)


def widths(device: torch.device) -> Tensor:
    """(36,) float32: how many columns of its field each label takes."""
    return table("scale bar widths", device, lambda: torch.tensor([float(f.shape[1]) for f in _fields()]))


def _stacked() -> Tensor:
    widest = max(field.shape[1] for field in _fields())
    room = [((0, 0), (0, widest - field.shape[1])) for field in _fields()]
    padded = [np.pad(f, pad, constant_values=-float(HEIGHT)) for f, pad in zip(_fields(), room)]
    return torch.from_numpy(np.stack(padded))


@cache
def _fields() -> list[np.ndarray]:
    return [_field(label(length)) for length in LENGTHS_NM]


def _field(text: str) -> np.ndarray:
    """The signed distance (48, N) float32 of a text in the font that matplotlib ships."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont
    from scipy.ndimage import distance_transform_edt

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    font = ImageFont.truetype(str(path), round(HEIGHT * 0.82))
    canvas = Image.new("L", (int(font.getlength(text)) + 6, HEIGHT))
    ImageDraw.Draw(canvas).text((3, HEIGHT // 2), text, fill=255, font=font, anchor="lm")
    inside = np.asarray(canvas) > 127
    return (distance_transform_edt(inside) - distance_transform_edt(~inside)).astype(np.float32)
