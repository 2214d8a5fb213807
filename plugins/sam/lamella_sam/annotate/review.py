"""What waits for a person: a picture of every suggestion, and clicks that change masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lamella import IGNORE
from lamella.data.formats.files import read_image
from lamella.engine.labelmap import save_image
from lamella.engine.pictures import overlay_picture
from lamella.errors import ConfigError, DataError
from PIL import Image

from lamella_sam.annotate.correct import Click, by_image, fill, object_at, read_clicks, superpixels
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.suggest import Suggester, in_whole, promptable


def draw(folder: AnnotationFolder, name: str) -> Path:
    """Write ``review/NAME.png``: the image, with its mask over it, with superpixel borders; returns the path.

    Raises `DataError` for an image or a mask that cannot be read.
    """
    image = read_image(folder.preview(name))
    image = np.stack([image] * 3, -1) if image.ndim == 2 else image
    panels = [image]
    if folder.mask_path(name).is_file():
        panels.append(overlay_picture(image, folder.mask(name), folder.classes))
    segments = superpixels(folder.image(name))
    edges = np.zeros(segments.shape, bool)
    edges[1:] |= segments[1:] != segments[:-1]
    edges[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    panels.append(np.where(edges[..., None], np.array([255, 220, 0], np.uint8), image))
    path = folder.path / "review" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    save_image(Image.fromarray(np.concatenate(panels, 1)), path)
    return path


def apply_clicks(folder: AnnotationFolder, clicks: Path, by: str, run: Path | None) -> dict[str, int]:
    """Change masks by scripted clicks, all or none of them; returns how many pixels of each image changed.

    Args:
        by: ``superpixel``, or ``object`` as the promptable network of ``run`` sees it.

    Raises:
        ConfigError: another way to fill, or a run without a promptable network.
        DataError: clicks that cannot be read, lie outside of their image, or are in one that is accepted.
    """
    if by not in ("superpixel", "object"):
        raise ConfigError(f"annotate review --by {by!r} is neither superpixel nor object")
    suggester = Suggester(run, folder.classes) if by == "object" and run is not None else None
    network = None if suggester is None else promptable(suggester)
    if by == "object" and network is None:
        raise ConfigError(f"{run}: its trainer has no promptable network; use --by superpixel")
    masks = {}
    for name, here in by_image(read_clicks(clicks, folder.classes)).items():
        label = before = folder.begun(name)
        found = _superpixels(folder, name) if suggester is None else _objects(suggester, network, folder, name)
        for click in here:
            label = fill(label, click, found(click))
        masks[name] = before, label
    return _written(folder, masks)


def label_rest(folder: AnnotationFolder, names: list[str], label: str) -> dict[str, int]:
    """Give all pixels that are not labelled yet one class, in all images or none; returns how many they were in each.

    Args:
        names: the images; none means every one that waits and has a mask. One without a mask becomes all ``label``.

    Raises:
        ConfigError: a class that the folder does not have.
        DataError: no such image, or one that is accepted.
    """
    if label not in folder.classes:
        raise ConfigError(f"annotate review --rest {label!r} is none of the classes {', '.join(folder.classes)}")
    chosen = names or [entry.name for entry in folder.queue() if folder.mask_path(entry.name).is_file()]
    number = folder.classes.index(label)
    begun = ((name, folder.begun(name)) for name in chosen)
    return _written(folder, {name: (mask, np.where(mask == IGNORE, number, mask)) for name, mask in begun})


def _written(folder: AnnotationFolder, masks: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, int]:
    """Write masks, given as they were and as they shall be; returns how many pixels of each changed."""
    for name, (_, after) in masks.items():
        folder.write_mask(name, after)
    return {name: int((before != after).sum()) for name, (before, after) in masks.items()}


def _superpixels(folder: AnnotationFolder, name: str) -> Callable[[Click], np.ndarray]:
    """The segments of an image, whatever is clicked."""
    segments = superpixels(folder.image(name))
    return lambda click: segments


@torch.no_grad()
def _objects(
    suggester: Suggester, network: Any, folder: AnnotationFolder, name: str
) -> Callable[[Click], np.ndarray]:
    """The object under a click on an image as segments: 1 inside, 0 outside. The image is embedded once."""
    image, whole = suggester.batch(folder, name).image, folder.size(name)
    embedding, (height, width) = network.embed(image), image.shape[-2:]

    def found(click: Click) -> np.ndarray:
        if not (0 <= click.y < whole[0] and 0 <= click.x < width):
            return np.zeros(whole, np.int64)  # fill says what is wrong
        if click.y >= height:
            raise DataError(
                f"{name}: the click (x {click.x}, y {click.y}) lies in the data bar, which begins at y {height}; "
                "its object cannot be asked for"
            )
        return in_whole(object_at(network, embedding, (height, width), click).astype(np.int64), whole, 0)

    return found
