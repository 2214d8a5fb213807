"""Tables as CSV and parquet, row by row, so that their length does not matter; and COCO annotations."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lamella.engine.whole import whole

_BATCH = 10_000
_EIGHT = np.ones((3, 3), bool)


def write_table(stem: Path, columns: Mapping[str, type], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``STEM.csv`` and ``STEM.parquet``; nan is an empty cell, and null."""
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    csv_path, parquet_path = (stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "parquet"))
    with (
        whole(csv_path) as text,
        whole(parquet_path) as table,
        text.open("w", newline="", encoding="utf-8") as file,
        parquet.ParquetWriter(table, schema) as writer,
    ):
        sheet = csv.writer(file, lineterminator="\n")
        sheet.writerow(columns)
        for batch in _batches(rows):
            clean = [[_cell(row.get(name)) for name in columns] for row in batch]
            sheet.writerows([["" if cell is None else _short(cell) for cell in row] for row in clean])
            writer.write_table(pyarrow.table(list(zip(*clean, strict=True)), schema=schema))


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def write_coco(
    path: Path, images: Iterable[tuple[str, str, np.ndarray]], classes: Sequence[str], *, least: int = 4
) -> int:
    """Write COCO annotations with run-length masks, image by image, and return how many there are.

    Every connected region of every class is one annotation. Category ids are class ids plus 1, because 0 stands for
    nothing in COCO.

    Args:
        images: (name, file name, class ids (H, W)) of every image.
        least: pixels of a region; smaller ones are left out.
    """
    places, count = [], 0
    with whole(path) as beside, beside.open("w", encoding="utf-8") as file:
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(classes)]
        file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')
        for number, (name, file_name, label) in enumerate(images, 1):
            places.append(
                {"id": number, "name": name, "file_name": file_name, "height": label.shape[0], "width": label.shape[1]}
            )
            for annotation in _annotations(label, len(classes), least):
                file.write(",\n" if count else "\n")
                count += 1
                file.write(json.dumps({"id": count, "image_id": number, **annotation}))
        file.write(f'],\n"images": {json.dumps(places)}}}\n')
    return count


def _annotations(label: np.ndarray, classes: int, least: int) -> Iterator[dict[str, Any]]:
    for number in range(classes):
        numbered, _ = ndimage.label(label == number, _EIGHT)
        for i, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
            here = numbered[rows, columns] == i
            if (area := int(here.sum())) < least:
                continue
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            mask = {"size": list(label.shape), "counts": run_lengths(here, rows.start, columns.start, label.shape)}
            yield {"category_id": number + 1, "area": area, "bbox": box, "iscrowd": 0, "segmentation": mask}


def run_lengths(here: np.ndarray, top: int, left: int, shape: Sequence[int]) -> list[int]:
    """COCO's uncompressed run lengths, column by column, first the zeros, of a mask ``here`` placed in ``shape``.

    >>> run_lengths(np.ones((2, 1), bool), 1, 1, (3, 3))
    [4, 2, 3]
    """
    turns = np.diff(np.pad(here.T.view(np.int8), ((0, 0), (1, 1))), axis=1)
    places = (np.nonzero(turns == turn) for turn in (1, -1))
    starts, stops = ((column + left) * shape[0] + row + top for column, row in places)
    apart = stops[:-1] != starts[1:]  # a run may go on at the head of the next column
    starts, stops = starts[np.r_[True, apart]], stops[np.r_[apart, True]]
    edges = np.stack([starts, stops], 1).ravel()
    return np.diff(np.r_[0, edges, shape[0] * shape[1]]).tolist()
