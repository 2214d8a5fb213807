"""Corrections by clicks: a click gives a class to the superpixel, or to the object, that lies under it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lamella.data.grey import grey
from lamella.errors import DataError

Fill = Literal["superpixel", "object"]


class Click(NamedTuple):
    """One click of a person, or of a script."""

    name: str
    """The image."""
    x: int
    y: int
    label: int
    """The class that belongs there."""


def superpixels(pixels: np.ndarray, *, size: int = 12, compactness: float = 0.1) -> np.ndarray:
    """(H, W) int64 numbers of SLIC superpixels of about ``size``² pixels, from 0.

    Source: Achanta et al., "SLIC superpixels", PAMI 2012, as in scikit-image.
    """
    from skimage.segmentation import slic

    values = grey(pixels).astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.5))
    values = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    count = max(2, round(values.size / size**2))
    return slic(values, n_segments=count, compactness=compactness, channel_axis=None, start_label=0).astype(np.int64)


def fill(label: np.ndarray, click: Click, segments: np.ndarray) -> np.ndarray:
    """The label with the clicked segment in the click's class; raises `DataError` outside of the image."""
    height, width = label.shape
    if not (0 <= click.x < width and 0 <= click.y < height):
        raise DataError(
            f"{click.name}: the click (x {click.x}, y {click.y}) lies outside of the image of {height}×{width} pixels"
        )
    return np.where(segments == segments[click.y, click.x], click.label, label).astype(np.uint8)


@torch.no_grad()
def object_at(network: Any, embedding: torch.Tensor, size: tuple[int, int], click: Click) -> np.ndarray:
    """(H, W) bool: what a promptable network takes for the object under a click; at least the pixel itself.

    Args:
        embedding: of the image, which is of ``size`` (H, W).
    """
    from lamella_sam.prompts import point_prompts
    from lamella_sam.segment import ask

    point = torch.tensor([[[[float(click.x), float(click.y)]]]], device=embedding.device)
    inside = torch.ones(1, 1, 1, dtype=torch.int64, device=embedding.device)
    mask = ask(network, embedding, point_prompts(point, inside, size)).mask[0].cpu().numpy()
    mask[click.y, click.x] = True
    return mask


def read_clicks(path: Path, classes: list[str]) -> list[Click]:
    """Clicks from a JSON file: ``[{"name": …, "x": …, "y": …, "class": …}, …]``; raises `DataError`."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Click(str(row["name"]), int(row["x"]), int(row["y"]), classes.index(row["class"])) for row in rows]
    except OSError as error:
        raise DataError(f"{path}: the clicks cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{path}: clicks are a JSON list of {{name, x, y, class}} with the classes {', '.join(classes)} ({error})"
        ) from error


def by_image(clicks: Iterable[Click]) -> dict[str, list[Click]]:
    """Clicks by the image they are on, in their order."""
    out: dict[str, list[Click]] = {}
    for click in clicks:
        out.setdefault(click.name, []).append(click)
    return out
