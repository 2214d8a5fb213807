"""What files of other tools have in common: how they are read, found images, and regions painted into masks."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from lamella.errors import DataError

from lamella_sam.annotate.folder import AnnotationFolder

Region = tuple[str, str, Callable[[tuple[int, int]], np.ndarray]]
"""The image and the class of a region, and its mask in an image of (height, width)."""


def paint(
    folder: AnnotationFolder, regions: Iterable[Region], path: Path, kind: str, tell: Callable[[str], None]
) -> list[str]:
    """Paint regions into the masks of the folder, all of them or none; returns the images of which any was painted."""
    masks: dict[str, np.ndarray] = {}
    accepted = {entry.name for entry in folder.of("accepted", "locked")}
    images, classes, kept, painted, empty = set(), set(), set(), set(), 0
    try:
        for name, category, mask in regions:
            if name not in folder.entries:
                images.add(str(name))
            elif name in accepted:
                kept.add(name)
            elif category not in folder.classes:
                classes.add(str(category))
            else:
                label = masks[name] if name in masks else masks.setdefault(name, folder.begun(name))
                covered = mask((label.shape[0], label.shape[1]))
                label[covered] = folder.classes.index(category)
                if covered.any():
                    painted.add(name)
                else:
                    empty += 1
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not {kind} ({error})") from error
    if kept:
        tell(f"{path}: the masks of {', '.join(sorted(kept))} were accepted and stay as they are")
    for unknown, what in ((images, "images"), (classes, "classes")):
        if unknown:
            tell(f"{path}: {folder.path} does not have the {what} {', '.join(sorted(unknown))}; they are left out")
    if empty:
        tell(f"{path}: regions that cover no pixel, such as boxes alone, are left out: {empty}")
    for name in sorted(painted):
        folder.write_mask(name, masks[name])
        folder.entry(name).provenance.append({"imported": str(path)})
    folder.save()
    return sorted(painted)


def image_name(folder: AnnotationFolder, file: str) -> str:
    """The image of a file: the one of that whole name, or else of the name without its ending."""
    path = Path(file)
    return path.name if path.name in folder.entries else path.stem


def filled(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of the pixels whose centre is within a polygon.

    Args:
        corners: (N, 2), x and y in pixels; the first pixel reaches from 0 to 1.

    >>> filled(np.array([[1, 0], [3, 0], [3, 1], [1, 1]]), (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    from skimage.draw import polygon2mask

    return polygon2mask(shape, corners[:, ::-1] - 0.5)


def check_new(path: Path) -> None:
    """Raise `DataError` where there is anything at a path to write to."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file")
    if path.exists():
        raise DataError(f"{path} exists; choose another name, or move it away (`annotate import` reads such a file)")


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises `DataError` where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
