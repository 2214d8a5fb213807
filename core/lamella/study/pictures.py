"""What two methods of a study make of the same images: those where they differ most, least, and in between."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.data import Sample
from lamella.engine.evaluate import predict_whole
from lamella.engine.pictures import label_picture, panel_row, stack
from lamella.engine.run import open_run
from lamella.errors import ConfigError
from lamella.study.figures import figure
from lamella.study.groups import image_counts
from lamella.study.study import Cell, Study

SHARES = (1.0, 0.9, 0.5, 0.0)
"""Where the images stand in the order of the reference's gain: the greatest, at nine tenths, the middle, the least."""


def sheet(study: Study, done: Collection[Cell], out: Path) -> Image.Image | None:
    """The sheet a study asks for, of its first seed and the first column in which it shows two rows.

    None where fewer than two of them are done.
    """
    test, planned = study.file.pictures, set(study.cells())
    cells = [Cell(row, "", study.file.seeds[0]) for row in study.file.shown or study.file.rows]
    columns = [[cell._replace(column=column) for cell in cells] for column in study.file.columns]
    several = [column for column in columns if len(planned.intersection(column)) > 1]
    there = [cell for column in several[:1] for cell in column if cell in done]
    return comparison(study, there, test, out) if test is not None and len(there) > 1 else None


def mapped(sample: Sample, study: Study) -> Sample:
    """The sample; raises `ConfigError` where it has no label map to show."""
    if sample.views or not isinstance(sample.label, np.ndarray):
        raise ConfigError(
            f"{study.name}: pictures = {study.file.pictures!r} shows label maps side by side; {sample.name} has none"
        )
    return sample


def comparison(study: Study, cells: Sequence[Cell], test: str, out: Path) -> Image.Image:
    """A sheet of image, label and what each cell predicts, for images chosen by the last cell's gain over the first.

    The choice is by a rule, not by eye: `SHARES` of the ranking by the difference of mIoU, image by image, so the
    sheet shows where the last cell loses as well.

    Args:
        cells: two or more finished cells of one column and seed.
        test: the test set.

    Raises:
        ConfigError: fewer than two cells, a test set without label maps, or rows with other classes.
    """
    if len(cells) < 2:
        raise ConfigError(f"{study.name}: a comparison needs two finished rows, not {len(cells)}")
    opened = [open_run(out / cell.folder, registry=study.registry) for cell in cells]
    experiment, _, modality, header = opened[0]
    table, classes = experiment.open(test), header["data"]["class_names"]
    if any(its["data"]["class_names"] != classes for *_, its in opened):
        raise ConfigError(f"pictures of {test!r}: rows have other classes, or in another order than the first")
    titles = [study.file.rows[cell.row].title or cell.row for cell in cells]
    strips = []
    for index in ranked(cells, test, out):
        sample = mapped(table.read(index), study)
        batch = modality.collate([sample])
        assert isinstance(batch, Batch) and batch.label is not None
        panels = [
            (table.rows[index].name, modality.picture(batch.image[0])),
            ("label", label_picture(batch.label[0].numpy(), classes)),
        ]
        for title, (own, trainer, its, _) in zip(titles, opened):
            seen = its.collate([sample])  # as this row was trained to see it
            assert isinstance(seen, Batch)
            predicted = _predicted(trainer, seen, own.fit.tile_for(trainer))
            panels.append((_titled(title, batch, predicted), label_picture(predicted, classes)))
        strips.append(panel_row(panels, pixel_nm=float(batch.pixel_nm[0, 1])))
    return stack(strips, classes)


def ranked(cells: Sequence[Cell], test: str, out: Path) -> list[int]:
    """The images of a test set at `SHARES` of the ranking by the last cell's gain of mIoU over the first's.

    Images without a labelled pixel have no place in it.
    """
    last, begun = (_each(out / cell.folder, test) for cell in (cells[-1], cells[0]))
    if len(last) != len(begun):
        raise ConfigError(
            f"pictures of {test!r}: {cells[0].row} has {len(begun)} images there and {cells[-1].row} {len(last)}; "
            "pictures compare rows on one test set"
        )
    gains = last - begun
    order = [int(place) for place in np.argsort(gains, kind="stable") if np.isfinite(gains[place])]
    if not order:
        raise ConfigError(f"pictures of {test!r}: none of its images has a labelled pixel")
    return list(dict.fromkeys(order[round(share * (len(order) - 1))] for share in SHARES))


def _each(run: Path, test: str) -> np.ndarray:
    """The mIoU of every image of a test set, nan of one without a labelled pixel."""
    classes, counts = image_counts(run / "counts" / f"{test}.json")
    of = figure("miou", classes)
    return np.array([of(one) if one.any() else np.nan for one in counts])


def _predicted(trainer: Any, batch: Batch, tile: int) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = predict_whole(trainer, batch, tile)[0].argmax(0).numpy()
    return found


def _titled(title: str, batch: Batch, predicted: np.ndarray) -> str:
    assert batch.label is not None
    label = batch.label[0].numpy()
    return f"{title}: {float((label != predicted)[label < IGNORE].mean()):.1%} wrong"
