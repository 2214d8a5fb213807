"""Pixels as the bytes of a PNG, the way `datasets.Image` stores them."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels (H, W) of 8 or 16 bit, or (H, W, 2) of 8 bit, as a value of a `datasets.Image` column.

    Two channels become a grey picture with a second layer, which reads back as (H, W, 2).

    >>> png(np.zeros((4, 4), np.uint8))["bytes"][1:4]
    b'PNG'
    """
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}
