"""Masks to and from other tools: COCO (run lengths and polygons) and Label Studio (brush masks)."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from lamella import IGNORE
from lamella.engine.checkpoint import write_json
from lamella.errors import DataError
from scipy import ndimage

from lamella_sam.annotate.folder import STATUS, AnnotationFolder

_SIZES = (3, 4, 8, 16)
"""Bits of the four run lengths that Label Studio's run-length code chooses from."""
_UPLOADED = re.compile("^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
Region = tuple[str, str, Callable[[tuple[int, int]], np.ndarray]]
"""The image and the class of a region, and its mask in an image of (height, width)."""


def run_lengths(mask: np.ndarray, *, top: int = 0, left: int = 0, size: tuple[int, int] | None = None) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): column by column, starting with zeros.

    Args:
        top, left: where the mask begins, if it is a part of an image.
        size: height and width of that image.

    >>> run_lengths(np.array([[0, 1], [0, 1]], bool)), run_lengths(np.ones((1, 1)), top=1, size=(2, 2))
    ([2, 2], [1, 1, 2])
    """
    height, width = size or mask.shape
    x, y = np.nonzero(mask.T)
    place = (x + left) * height + y + top
    starts, ends = place[np.diff(place, prepend=-2) > 1], place[np.diff(place, append=height * width + 1) > 1] + 1
    runs = np.diff(np.column_stack([starts, ends]).ravel(), prepend=0, append=height * width).tolist()
    return runs[:-1] if runs[-1] == 0 and len(runs) > 1 else runs


def from_run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of COCO's uncompressed run lengths; raises `DataError` where they do not add up."""
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise DataError(f"COCO run lengths add up to {sum(counts)}, not to {height}×{width} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")


def write_coco(folder: AnnotationFolder, path: Path) -> int:
    """Write all accepted and locked masks as COCO, one annotation per region; returns how many images.

    Category ids are class ids + 1. What is not labelled has no annotation.

    Raises:
        DataError: a file that exists, or no image to write.
    """
    _check_new(path)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(folder.of("accepted", "locked"), start=1):
        label = folder.mask(entry.name)
        images.append(
            {"id": number, "file_name": f"{entry.name}.png", "height": label.shape[0], "width": label.shape[1]}
        )
        for region, where, category in _regions(label):
            annotations.append(_annotation(region, where, label.shape, category, number, len(annotations) + 1))
    if not images:
        raise DataError(f"{folder.path}: no image is accepted, so there is nothing to export")
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(folder.classes)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return len(images)


def _check_new(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file")
    if path.exists():
        raise DataError(f"{path} exists; choose another name, or move it away (`annotate import` reads such a file)")


def _regions(label: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[slice, slice], int]]:
    """Every region of one class: its mask within its box, the box, and the class."""
    for number in np.unique(label[label != IGNORE]):
        parts, _ = ndimage.label(label == number)
        for part, where in enumerate(ndimage.find_objects(parts), start=1):
            yield parts[where] == part, where, int(number)


def _annotation(
    region: np.ndarray, where: tuple[slice, slice], size: tuple[int, int], category: int, image: int, number: int
) -> dict[str, Any]:
    top, left = where[0].start, where[1].start
    counts = run_lengths(region, top=top, left=left, size=size)
    return {
        "id": number, "image_id": image, "category_id": category + 1, "area": int(region.sum()),
        "bbox": [left, top, region.shape[1], region.shape[0]], "iscrowd": 1,
        "segmentation": {"size": list(size), "counts": counts},
    }  # fmt: skip


def read_coco(folder: AnnotationFolder, path: Path, tell: Callable[[str], None]) -> list[str]:
    """Take masks from a COCO file into the folder; later annotations lie on top. Returns the images' names.

    Images are found by file name, with its ending or else without, categories by name; those that the folder does not
    have, images that are accepted, and annotations that cover no pixel (boxes alone, say) are told and left out. Pixels
    without annotation stay as they are, or unlabelled.

    Raises:
        DataError: not COCO, compressed run lengths, or another size of image.
    """
    data = _json(path)

    def regions() -> Iterator[Region]:
        images = {image["id"]: image for image in data["images"]}
        categories = {category["id"]: category["name"] for category in data["categories"]}
        for row in data["annotations"]:
            image = images[row["image_id"]]
            mask = partial(_coco_mask, row.get("segmentation") or [], image, path=path)
            yield _name(folder, image["file_name"]), categories[row["category_id"]], mask

    return _take(folder, regions(), path, "a COCO file with images, categories and annotations", tell)


def _coco_mask(segmentation: Any, image: Mapping[str, Any], shape: tuple[int, int], path: Path) -> np.ndarray:
    size = image.get("height") or shape[0], image.get("width") or shape[1]
    if size != shape:
        raise DataError(
            f"{path}: {image['file_name']} is {size[0]}×{size[1]} pixels there, the image here {shape[0]}×{shape[1]}"
        )
    if isinstance(segmentation, Mapping):
        if not isinstance(segmentation.get("counts"), list):
            raise DataError(f"{path}: compressed run lengths are not read; export uncompressed counts or polygons")
        mask = from_run_lengths(segmentation["counts"], *segmentation["size"])
        if mask.shape != shape:
            raise DataError(
                f"{path}: a mask is {mask.shape[0]}×{mask.shape[1]} pixels, its image {shape[0]}×{shape[1]}"
            )
        return mask
    from skimage.draw import polygon2mask

    out = np.zeros(shape, bool)
    for corners in segmentation:
        points = (
            np.asarray(corners, np.float64).reshape(-1, 2)[:, ::-1] - 0.5
        )  # x, y of corners to row, column of centres
        out |= polygon2mask(shape[:2], points)
    return out


def brush_code(mask: np.ndarray) -> list[int]:
    """Label Studio's run-length code of a mask (H, W), as bytes: four channels of 0 or 255, row by row.

    Source: ``encode_rle`` of label-studio-converter, whose bit stream this is: 32 bits for the count of numbers,
    5 for their width − 1, four times 4 for the run sizes − 1, then runs of (repeated?, size, length − 1, value).
    """
    values = np.repeat(np.where(mask, 255, 0).astype(np.uint8).ravel(), 4)
    bits = [format(len(values), "032b"), format(7, "05b"), *(format(size - 1, "04b") for size in _SIZES)]
    edges = np.flatnonzero(np.diff(values)) + 1
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(values)]):
        while start < end:
            length = min(end - start, 1 << _SIZES[3])
            which = next(i for i, size in enumerate(_SIZES) if length <= 1 << size)
            bits.append(f"1{which:02b}" + format(length - 1, f"0{_SIZES[which]}b") + format(int(values[start]), "08b"))
            start += length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def from_brush_code(code: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of Label Studio's run-length code; raises `DataError` where it is cut short."""
    text = "".join(format(byte, "08b") for byte in code)
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        if place + bits > len(text):
            raise DataError("a Label Studio brush mask is cut short")
        place += bits
        return int(text[place - bits : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < count:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        out += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    if count != height * width * 4:
        raise DataError(f"a Label Studio brush mask has {count // 4} pixels, its image {height}×{width}")
    return np.array(out, np.uint8).reshape(height, width, 4)[..., 3] > 127


def write_label_studio(folder: AnnotationFolder, path: Path) -> int:
    """Write all masks there are as Label Studio tasks: suggestions as predictions, those of a person as annotations.

    Raises `DataError` as `write_coco`.
    """
    _check_new(path)
    tasks = []
    for entry in folder.of(*STATUS):
        if not folder.mask_path(entry.name).is_file():
            continue
        label = folder.mask(entry.name)
        result = [_brush(label == number, folder.classes[number]) for number in np.unique(label[label != IGNORE])]
        kind = "predictions" if entry.status == "suggested" and not folder.touched(entry.name) else "annotations"
        tasks.append({"data": {"image": f"{entry.name}.png"}, kind: [{"result": result}]})
    if not tasks:
        raise DataError(f"{folder.path}: no image has a mask, so there is nothing to export")
    write_json(path, tasks)
    return len(tasks)


def _brush(mask: np.ndarray, name: str) -> dict[str, Any]:
    return {
        "type": "brushlabels", "from_name": "label", "to_name": "image",
        "original_height": mask.shape[0], "original_width": mask.shape[1],
        "value": {"format": "rle", "rle": brush_code(mask), "brushlabels": [name]},
    }  # fmt: skip


def read_label_studio(folder: AnnotationFolder, path: Path, tell: Callable[[str], None]) -> list[str]:
    """Take brush masks of annotations from a Label Studio export; returns the images' names.

    Images are found as in `read_coco`, with or without what Label Studio puts before the name of an uploaded or local
    file; annotations that were skipped are left out, and results that are no brush with a label are told and left out.
    Raises `DataError` as `read_coco`.
    """
    tasks = _json(path)
    others: Counter[str] = Counter()

    def regions() -> Iterator[Region]:
        for task in tasks:
            _, local, given = task["data"]["image"].rpartition("?d=")
            file = Path(unquote(given) if local else given).name
            name = _name(folder, file)
            name = name if name in folder.entries else _name(folder, _UPLOADED.sub("", file))
            taken = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
            for result in (result for one in taken for result in one["result"]):
                value = result.get("value", {})
                if "rle" in value and value.get("brushlabels"):
                    yield name, value["brushlabels"][0], partial(_brush_mask, value["rle"])
                elif value:
                    others["brush without a label" if "rle" in value else str(result.get("type"))] += 1

    names = _take(folder, regions(), path, "a Label Studio export with brush labels", tell)
    if others:
        counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(others.items()))
        tell(f"{path}: what is no brush with a label is left out: {counts}")
    return names


def _brush_mask(code: list[int], shape: tuple[int, int]) -> np.ndarray:
    return from_brush_code(code, *shape)


def _name(folder: AnnotationFolder, file: str) -> str:
    """The image of a file: the one of that whole name, or else of the name without its ending."""
    path = Path(file)
    return path.name if path.name in folder.entries else path.stem


def _take(
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
