"""What files of other tools have in common: how they are read, found images, and regions painted into masks."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from lamella import IGNORE
from lamella.errors import DataError

from lamella_sam.annotate.folder import AnnotationFolder

_UPLOADED = re.compile("^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
Region = tuple[str, str, Callable[[tuple[int, int]], np.ndarray]]
"""The image and the class of a region, and its mask in an image of (height, width)."""


def paint(
    folder: AnnotationFolder, regions: Iterable[Region], path: Path, kind: str, tell: Callable[[str], None]
) -> list[str]:
    """Make masks of the folder of regions, all of them or none; returns the images of which any was painted.

    A mask that was suggested, or imported and not changed since, is begun anew: what was erased in the other tool is
    gone. One that was changed by hand stays below, which is told.
    """
    masks: dict[str, np.ndarray] = {}
    by_hand: dict[str, bool] = {}
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
                if name not in masks:
                    by_hand[name] = _changed_by_hand(folder, name)
                    masks[name] = folder.begun(name) if by_hand[name] else _blank(folder, name)
                label = masks[name]
                covered = _covered(mask, label, f"{path}: {name}")
                label[covered] = folder.classes.index(category)
                if covered.any():
                    painted.add(name)
                else:
                    empty += 1
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not {kind} ({error})") from error
    if kept:
        tell(f"{path}: the masks of {', '.join(sorted(kept))} were accepted and stay as they are")
    if below := sorted(name for name in painted if by_hand[name]):
        tell(f"{path}: the masks of {', '.join(below)} were changed by hand; what is imported lies on top of them")
    for unknown, what in ((images, "images"), (classes, "classes")):
        if unknown:
            tell(f"{path}: {folder.path} does not have the {what} {', '.join(sorted(unknown))}; they are left out")
    if empty:
        tell(f"{path}: regions that cover no pixel, such as boxes alone, are left out: {empty}")
    for name in sorted(painted):
        folder.write_mask(name, masks[name])
        folder.entry(name).provenance.append({"imported": str(path), "mask": folder.digest(name)})
    folder.save()
    return sorted(painted)


def _covered(mask: Callable[[tuple[int, int]], np.ndarray], label: np.ndarray, where: str) -> np.ndarray:
    try:
        return mask((label.shape[0], label.shape[1]))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _blank(folder: AnnotationFolder, name: str) -> np.ndarray:
    """A mask in which no pixel is known yet."""
    return np.full(folder.size(name), IGNORE, np.uint8)


def _changed_by_hand(folder: AnnotationFolder, name: str) -> bool:
    imported = [event["mask"] for event in folder.entry(name).provenance if "mask" in event]
    return folder.touched(name) and folder.digest(name) not in imported[-1:]


def image_name(folder: AnnotationFolder, file: str) -> str:
    """The image of a file as another tool names it, with or without its folders; its own name where there is none.

    Tried in this order: as it is, without the escapes of an address (``%20``), without what Label Studio puts before
    the name of an upload, and with images' names as it writes them there, without blanks and marks.
    """
    known = {_as_uploaded(name): name for name in folder.entries} | {name: name for name in folder.entries}
    plain = PurePosixPath(file.replace("\\", "/")).name
    tried = [plain, PurePosixPath(unquote(file).replace("\\", "/")).name]
    tried += [_UPLOADED.sub("", one) for one in tried]
    for one in tried:
        for name in _names(one):
            if name in known:
                return known[name]
    return PurePosixPath(plain).stem


def _names(file: str) -> list[str]:
    """What an image of this file may be called: as the picture of that name, the whole name, and without its ending."""
    stem = PurePosixPath(file).stem
    return [stem, file] if file.lower().endswith(".png") else [file, stem]


def _as_uploaded(name: str) -> str:
    """A name as Django, and so Label Studio, writes an uploaded file's."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def filled(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of the pixels whose centre is within a polygon; fewer than three corners hold none.

    Args:
        corners: (N, 2), x and y in pixels; the first pixel reaches from 0 to 1.

    >>> filled(np.array([[1, 0], [3, 0], [3, 1], [1, 1]]), (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    from skimage.draw import polygon2mask

    if len(corners) < 3:
        return np.zeros(shape, bool)
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
