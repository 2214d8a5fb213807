"""Masks to and from COCO: run lengths, compressed or not, and polygons."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lamella.engine import export
from lamella.errors import DataError

from lamella_sam.annotate.exchange import Region, check_new, filled, image_name, paint, read_json
from lamella_sam.annotate.folder import AnnotationFolder


def from_run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of COCO's uncompressed run lengths; raises `DataError` where they do not add up."""
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise DataError(f"COCO run lengths add up to {sum(counts)}, not to {height}×{width} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")


def from_compressed(text: str) -> list[int]:
    """Run lengths from COCO's compressed ones: numbers of five bits a character, least first, the last with its sign.

    From the fourth on they are differences from the number two places before.

    Source: ``rleFrString`` of cocoapi's maskApi.c. Raises `DataError` for what is none.

    >>> from_compressed("061M"), from_compressed("0PP1")
    ([0, 6, 1, 3], [0, 1024])
    """
    counts: list[int] = []
    number, place = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise DataError(f"{character!r} is no character of COCO's compressed run lengths")
        number |= (bits & 31) << place
        place += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << place
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number, place = 0, 0
    if place:
        raise DataError("COCO's compressed run lengths are cut short")
    return counts


def write_coco(folder: AnnotationFolder, path: Path) -> int:
    """Write all accepted and locked masks as COCO, one annotation per region; returns how many images.

    Category ids are class ids + 1. What is not labelled has no annotation.

    Raises:
        DataError: a file that exists, no image to write, or a mask that an editor has spoiled.
    """
    check_new(path)
    accepted = folder.of("accepted", "locked")
    if not accepted:
        raise DataError(f"{folder.path}: no image is accepted, so there is nothing to export")
    masks = ((entry.name, f"{entry.name}.png", folder.mask(entry.name)) for entry in accepted)
    export.write_coco(path, masks, folder.classes, least=1)
    return len(accepted)


def read_coco(folder: AnnotationFolder, path: Path, tell: Callable[[str], None]) -> list[str]:
    """Take masks from a COCO file into the folder; later annotations lie on top. Returns the images' names.

    Images are found by file name (`image_name`), categories by name; those that the folder does not have, images that
    are accepted, and annotations that cover no pixel (boxes alone, say) are told and left out. Pixels without
    annotation become unlabelled, but in masks that were changed by hand (`paint`).

    Raises:
        DataError: not COCO, run lengths that do not add up, or another size of image.
    """
    data = read_json(path)

    def regions() -> Iterator[Region]:
        images = {image["id"]: image for image in data["images"]}
        names = {number: image_name(folder, image["file_name"]) for number, image in images.items()}
        categories = {category["id"]: category["name"] for category in data["categories"]}
        for row in data["annotations"]:
            image = images[row["image_id"]]
            mask = partial(_coco_mask, row.get("segmentation") or [], image)
            yield names[row["image_id"]], categories[row["category_id"]], mask

    return paint(folder, regions(), path, "a COCO file with images, categories and annotations", tell)


def _coco_mask(segmentation: Any, image: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    size = image.get("height") or shape[0], image.get("width") or shape[1]
    if size != shape:
        raise DataError(f"the image is {size[0]}×{size[1]} pixels there, and {shape[0]}×{shape[1]} here")
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        mask = from_run_lengths(from_compressed(counts) if isinstance(counts, str) else counts, *segmentation["size"])
        if mask.shape != shape:
            raise DataError(f"a mask is {mask.shape[0]}×{mask.shape[1]} pixels, the image {shape[0]}×{shape[1]}")
        return mask
    out = np.zeros(shape, bool)
    for corners in segmentation:
        out |= filled(np.asarray(corners, np.float64).reshape(-1, 2), shape)
    return out
