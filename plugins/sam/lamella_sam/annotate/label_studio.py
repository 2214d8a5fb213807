"""Masks to and from Label Studio: brush masks, and polygons, rectangles and ellipses in."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lamella import IGNORE
from lamella.engine.whole import write_json
from lamella.errors import DataError

from lamella_sam.annotate.exchange import Region, check_new, filled, image_name, paint, read_json
from lamella_sam.annotate.folder import STATUS, AnnotationFolder

_SIZES = (3, 4, 8, 16)
"""Bits of the four run lengths that Label Studio's run-length code chooses from."""
Shape = Callable[[Mapping[str, Any], tuple[int, int]], np.ndarray]
"""What makes the mask of a result's value in an image of (height, width)."""


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
    check_new(path)
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
    """Take masks of annotations from a Label Studio export; later ones lie on top. Returns the images' names.

    Brush masks, polygons, rectangles and ellipses, turned ones too, are taken with the class of their own tag
    (``BrushLabels``) or of a ``Labels`` tag beside it. Images are found, and painted, as in `read_coco`; annotations
    that were skipped are left out, and results that are no shape with a class, or are drawn on another image of the
    task than the first shape, are told and left out. Raises `DataError` as `read_coco`, and for an image that was
    turned there or has other proportions.
    """
    tasks = read_json(path)
    others: Counter[str] = Counter()

    def regions() -> Iterator[Region]:
        for task in tasks:
            name = image_name(folder, task["data"]["image"].rpartition("?d=")[2])
            for one in task.get("annotations") or []:
                if not one.get("was_cancelled"):
                    for category, shape in _shapes(one["result"], others):
                        yield name, category, shape

    names = paint(folder, regions(), path, "a Label Studio export with labelled shapes", tell)
    if others:
        counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(others.items()))
        tell(f"{path}: what is no shape with a class is left out: {counts}")
    return names


def _shapes(
    results: Sequence[Mapping[str, Any]], others: Counter[str]
) -> Iterator[tuple[str, Callable[[tuple[int, int]], np.ndarray]]]:
    """Class and mask of every labelled shape of one annotation; what is none is counted in ``others``.

    A ``Labels`` tag tells the class of a shape in a result of its own, with the same id and the shape once more.
    """
    classes: dict[Any, str] = {}
    for result in results:
        if "id" in result and (category := _category(result.get("value", {}))):
            classes.setdefault(result["id"], category)
    drawn, bare, first = set(), [], None
    for result in results:
        value, number = result.get("value", {}), result.get("id")
        if not value or number in drawn:
            continue
        kind, category = str(result.get("type")), _category(value) or classes.get(number)
        make = next((make for keys, make in _SHAPES if keys <= value.keys()), None)
        if make is None or category is None:
            bare.append((number, kind if make is None else f"{kind} without a class"))
            continue
        if number is not None:
            drawn.add(number)
        first = result.get("to_name") if first is None else first
        if result.get("to_name") != first:
            others[f"{kind} on another image"] += 1
            continue
        yield category, partial(_upright, make, result)
    others.update(kind for number, kind in bare if number not in drawn)


def _upright(make: Shape, result: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    if result.get("image_rotation"):
        raise DataError(
            f"it was turned by {result['image_rotation']}° in Label Studio; turn it back there and export again"
        )
    height, width = (result.get(f"original_{side}") or here for side, here in zip(("height", "width"), shape))
    if not math.isclose(height * shape[1], width * shape[0], rel_tol=0.02):
        raise DataError(f"the image is {height}×{width} pixels in Label Studio, and {shape[0]}×{shape[1]} here")
    return make(result["value"], shape)


def _category(value: Mapping[str, Any]) -> str | None:
    """The class in the value of a result, from whichever tag: ``brushlabels``, ``polygonlabels``, ``labels``, …"""
    return next((names[0] for key, names in value.items() if key.endswith("labels") and names), None)


def _pixels(points: Any, shape: tuple[int, int]) -> np.ndarray:
    """Points (N, 2), x and y in per cent of the image, in pixels."""
    return np.asarray(points, np.float64).reshape(-1, 2) * (np.array(shape[::-1]) / 100.0)


def _brushed(value: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    return from_brush_code(value["rle"], *shape)


def _polygon(value: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    return filled(_pixels(value["points"], shape), shape)


def _rectangle(value: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """A rectangle turned clockwise about its upper left corner."""
    corner, sides = _pixels([[value["x"], value["y"]], [value["width"], value["height"]]], shape)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
    return filled(corner + corners @ _turn(value), shape)


def _ellipse(value: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """An ellipse turned clockwise about its centre: pixels whose centre is within."""
    centre, radii = _pixels([[value["x"], value["y"]], [value["radiusX"], value["radiusY"]]], shape)
    if not (radii > 0).all():
        return np.zeros(shape, bool)
    places = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), axis=-1)
    return np.asarray(((((places - centre) @ _turn(value).T) / radii) ** 2).sum(-1) <= 1.0)


def _turn(value: Mapping[str, Any]) -> np.ndarray:
    """The matrix that turns rows (x, y) by a value's ``rotation`` in degrees, clockwise on a screen (y points down)."""
    angle = math.radians(value.get("rotation") or 0.0)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


_SHAPES: list[tuple[set[str], Shape]] = [
    ({"rle"}, _brushed),
    ({"points"}, _polygon),
    ({"x", "y", "width", "height"}, _rectangle),
    ({"x", "y", "radiusX", "radiusY"}, _ellipse),
]
"""What a value holds, and the shape that it is then."""
