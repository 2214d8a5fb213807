"""Masks to and from other tools: COCO (run lengths and polygons) and Label Studio (brush masks)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lamella import IGNORE
from lamella.engine.checkpoint import write_json
from lamella.errors import DataError
from scipy import ndimage

from lamella_sam.annotate.folder import AnnotationFolder

_SIZES = (3, 4, 8, 16)
"""Bits of the four run lengths that Label Studio's run-length code chooses from."""


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): column by column, starting with zeros.

    >>> run_lengths(np.array([[0, 1], [0, 1]], bool))
    [2, 2]
    """
    flat = mask.astype(bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def from_run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of COCO's uncompressed run lengths; raises `DataError` where they do not add up."""
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise DataError(f"COCO run lengths add up to {sum(counts)}, not to {height}×{width} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")


def write_coco(folder: AnnotationFolder, path: Path) -> int:
    """Write all accepted and locked masks as COCO, one annotation per region; returns how many images.

    Category ids are class ids + 1. What is not labelled has no annotation.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(folder.of("accepted", "locked"), start=1):
        label = folder.mask(entry.name)
        images.append(
            {"id": number, "file_name": f"{entry.name}.png", "height": label.shape[0], "width": label.shape[1]}
        )
        for region, category in _regions(label):
            annotations.append(_annotation(region, category, number, len(annotations) + 1))
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(folder.classes)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return len(images)


def _regions(label: np.ndarray) -> list[tuple[np.ndarray, int]]:
    found = []
    for number in np.unique(label[label != IGNORE]):
        parts, count = ndimage.label(label == number)
        found += [(parts == part, int(number)) for part in range(1, count + 1)]
    return found


def _annotation(region: np.ndarray, category: int, image: int, number: int) -> dict[str, Any]:
    y, x = np.nonzero(region)
    box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
    return {
        "id": number, "image_id": image, "category_id": category + 1, "area": int(region.sum()), "bbox": box,
        "iscrowd": 1, "segmentation": {"size": list(region.shape), "counts": run_lengths(region)},
    }  # fmt: skip


def read_coco(folder: AnnotationFolder, path: Path) -> list[str]:
    """Take masks from a COCO file into the folder; later annotations lie on top. Returns the images' names.

    Images are found by file name without its ending, categories by name; pixels without annotation stay as they
    are, or unlabelled.

    Raises:
        DataError: not COCO, compressed run lengths, or another size of image.
    """
    data = _json(path)
    try:
        names = {image["id"]: Path(image["file_name"]).stem for image in data["images"]}
        categories = {category["id"]: category["name"] for category in data["categories"]}
        rows = [(names[a["image_id"]], categories[a["category_id"]], a["segmentation"]) for a in data["annotations"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a COCO file with images, categories and annotations ({error})") from error
    masks: dict[str, np.ndarray] = {}
    for name, category, segmentation in rows:
        if name in folder.entries and category in folder.classes:
            label = masks.setdefault(name, _current(folder, name))
            label[_coco_mask(segmentation, label.shape, path)] = folder.classes.index(category)
    return _store(folder, masks, str(path))


def _coco_mask(segmentation: Any, shape: tuple[int, ...], path: Path) -> np.ndarray:
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
    """Write all masks there are as Label Studio tasks: accepted ones as annotations, suggestions as predictions."""
    tasks = []
    for entry in folder.of("suggested", "accepted", "locked"):
        label = folder.mask(entry.name)
        result = [_brush(label == number, folder.classes[number]) for number in np.unique(label[label != IGNORE])]
        kind = "predictions" if entry.status == "suggested" else "annotations"
        tasks.append({"data": {"image": f"{entry.name}.png"}, kind: [{"result": result}]})
    write_json(path, tasks)
    return len(tasks)


def _brush(mask: np.ndarray, name: str) -> dict[str, Any]:
    return {
        "type": "brushlabels", "from_name": "label", "to_name": "image",
        "original_height": mask.shape[0], "original_width": mask.shape[1],
        "value": {"format": "rle", "rle": brush_code(mask), "brushlabels": [name]},
    }  # fmt: skip


def read_label_studio(folder: AnnotationFolder, path: Path) -> list[str]:
    """Take brush masks of annotations from a Label Studio export; raises `DataError`; returns the images' names."""
    masks: dict[str, np.ndarray] = {}
    try:
        for task in _json(path):
            name = Path(task["data"]["image"]).stem
            for result in (r for annotation in task.get("annotations", []) for r in annotation["result"]):
                value = result["value"]
                if name not in folder.entries or "rle" not in value or value["brushlabels"][0] not in folder.classes:
                    continue
                label = masks.setdefault(name, _current(folder, name))
                mask = from_brush_code(value["rle"], *label.shape)
                label[mask] = folder.classes.index(value["brushlabels"][0])
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: not a Label Studio export with brush labels ({error})") from error
    return _store(folder, masks, str(path))


def _current(folder: AnnotationFolder, name: str) -> np.ndarray:
    """The mask there is, or one in which nothing is labelled."""
    if folder.mask_path(name).is_file():
        return folder.mask(name)
    return np.full(folder.size(name), IGNORE, np.uint8)


def _store(folder: AnnotationFolder, masks: Mapping[str, np.ndarray], origin: str) -> list[str]:
    for name, label in masks.items():
        folder.write_mask(name, label)
        folder.entry(name).provenance.append({"imported": origin})
    folder.save()
    return sorted(masks)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
