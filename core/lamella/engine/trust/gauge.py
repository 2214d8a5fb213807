"""A gauge study of a trained run: its measurements of images that are set up anew and taken again, in simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.chain import Chain
from lamella.contracts.data import Modality, Sample
from lamella.contracts.model import Trainer
from lamella.contracts.streams import Streams
from lamella.contracts.warp import Warp
from lamella.engine.evaluate import predict_whole
from lamella.errors import RunError
from lamella.measure.gauge import gauge_rr, percent_interval
from lamella.measure.tables import measure_lengths

FIGURES = (
    "thickness_nm", "cd_top_nm", "cd_mid_nm", "cd_bottom_nm", "sidewall_deg", "ler_nm", "lwr_nm", "pitch_nm",
)  # fmt: skip
"""What is judged of every class, as in ``measurements.csv``."""
TRIALS: dict[str, type] = {
    "image": str, "setup": int, "repeat": int, "class": str, **dict.fromkeys(FIGURES, float),
}  # fmt: skip
SUMMARY: dict[str, type] = {
    "class": str, "figure": str, "images": int, "lost": float, "mean": float, "bias": float, "repeatability": float,
    "setup": float, "interaction": float, "rr": float, "part": float, "total": float, "rr_percent": float,
    "rr_percent_low": float, "rr_percent_high": float, "categories": float, "tolerance_percent": float,
}  # fmt: skip
_LEAST_SIDE = 8


@dataclass(frozen=True)
class Study:
    """How often every image is set up, and taken again from each setup, and by what."""

    setup: Chain
    """Drawn once for each setup, the same for every image: position and focus. What moves pixels comes first."""
    repeat: Chain
    """Drawn anew for every repeat of every image: noise."""
    setups: int = 3
    repeats: int = 3
    seed: int = 0

    def views(self, batch: Batch) -> Iterator[tuple[int, int, Batch]]:
        """(setup, repeat, image) of every trial; the label is `IGNORE` where a view shows what no image shows.

        What a repeat changes is taken on the image that is moved but not yet out of focus, and added afterwards: noise
        is the detector's, and a focus changes the specimen's image alone.
        """
        unknown = torch.zeros_like(batch.image[:, 0], dtype=torch.int64)
        blank = batch._replace(label=unknown, weight=torch.ones_like(batch.image[:, 0]), instance=None)
        moves = Chain(each for each in self.setup if isinstance(each, Warp))
        focus = Chain(each for each in self.setup if not isinstance(each, Warp))
        for setup in range(self.setups):
            visit = torch.full_like(batch.visit, setup)
            alike = Streams.root(self.seed, torch.zeros_like(batch.key), visit, "gauge setup")
            moved = moves(blank, alike)
            placed = focus(moved, alike)
            for repeat in range(self.repeats):
                visit = torch.full_like(batch.visit, setup * self.repeats + repeat)
                again = self.repeat(moved, Streams.root(self.seed, batch.key, visit, "gauge repeat"))
                seen = placed.image + (again.image - moved.image)
                yield setup, repeat, again._replace(image=seen.clamp(0.0, 1.0))


@dataclass(frozen=True)
class Measurer:
    """A trained run that measures images in memory."""

    trainer: Trainer
    modality: Modality
    device: torch.device
    classes: Sequence[str]
    parts: Mapping[str, Sequence[str]]
    """The classes of everything that is judged, by its name."""
    tile: int

    def batch(self, sample: Sample) -> Batch:
        """The image as the run sees it; raises `RunError` for one of several views."""
        batch = send_to_device(self.modality.collate([sample]), self.device)
        if isinstance(batch, dict):
            raise RunError("this run makes label maps of several views; a gauge study is of single images")
        return batch

    def rows(self, view: Batch, pixel_nm: tuple[float, float]) -> list[dict[str, Any]]:
        """The lengths of ``measurements.csv`` of a view."""
        return measure_lengths(self.label(view), self.classes, pixel_nm, self.parts)

    def label(self, view: Batch) -> np.ndarray:
        """The label map (H, W) of a view, without the margins that it shows from outside."""
        bare = view._replace(label=None, weight=None)
        label = predict_whole(self.trainer, bare, self.tile)[0].argmax(0).to(torch.uint8).cpu().numpy()
        return label if view.label is None else within(label, view.label[0].cpu().numpy() == IGNORE)


def within(label: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """A label map without the rows and columns at its borders that are mostly outside; other such pixels are `IGNORE`.

    >>> within(np.ones((9, 9), np.uint8), np.arange(81).reshape(9, 9) < 9).shape
    (8, 9)
    """
    top, bottom = _inner(outside.mean(1))
    left, right = _inner(outside.mean(0))
    if min(bottom - top, right - left) < _LEAST_SIDE:
        raise RunError("the setups leave less than 8 × 8 pixels of an image: weaken the set of --setup")
    return np.where(outside, np.uint8(IGNORE), label)[top:bottom, left:right]


def _inner(share: np.ndarray) -> tuple[int, int]:
    """From where to where less than half is outside."""
    inside = np.flatnonzero(share < 0.5)
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def trials(
    study: Study, measurer: Measurer, samples: Mapping[str, Sample], done: Callable[[int], None]
) -> list[dict[str, Any]]:
    """A row of `TRIALS` for every image, setup, repeat and class; setup and repeat −1 are the image as it is."""
    rows = []
    for number, (name, sample) in enumerate(samples.items()):
        batch = measurer.batch(sample)
        views = [(-1, -1, batch._replace(label=None, weight=None)), *study.views(batch)]
        for setup, repeat, view in views:
            for row in measurer.rows(view, sample.pixel_nm):
                kept = {key: row[key] for key in ("class", *FIGURES)}
                rows.append({"image": name, "setup": setup, "repeat": repeat, **kept})
        done(number + 1)
    return rows


def summary(rows: Sequence[Mapping[str, Any]], study: Study, tolerance_nm: float | None = None) -> list[dict[str, Any]]:
    """A row of `SUMMARY` for every class and figure that two images and more have in every trial.

    Standard deviations, mean and bias (the mean of the trials less that of the images as they are) are in the unit
    of the figure. ``lost``: of images that have the figure as they are, the share of the trials in which it is missing.
    ``tolerance_percent`` is 100·6·rr over the tolerance, of what is in nm.
    """
    found = []
    names = list(dict.fromkeys(row["image"] for row in rows))
    for name in dict.fromkeys(row["class"] for row in rows):
        mine = [row for row in rows if row["class"] == name]
        for figure in FIGURES:
            values, before = _cells(mine, figure, names, study)
            has = np.isfinite(before)
            whole = has & np.isfinite(values).all((1, 2))
            if whole.sum() < 2:
                continue
            found.append({
                "class": name, "figure": figure, "images": int(whole.sum()),
                "lost": float(1 - np.isfinite(values[has]).mean()),
                **_judged(values[whole], before[whole], tolerance_nm if figure.endswith("_nm") else None),
            })  # fmt: skip
    return found


def _cells(
    rows: Sequence[Mapping[str, Any]], figure: str, names: Sequence[str], study: Study
) -> tuple[np.ndarray, np.ndarray]:
    """A figure of every trial (images, setups, repeats), and of the images as they are."""
    values = np.full((len(names), study.setups, study.repeats), math.nan)
    before = np.full(len(names), math.nan)
    for row in rows:
        image = names.index(row["image"])
        if row["setup"] < 0:
            before[image] = row[figure]
        else:
            values[image, row["setup"], row["repeat"]] = row[figure]
    return values, before


def _judged(values: np.ndarray, before: np.ndarray, tolerance: float | None) -> dict[str, float]:
    found = gauge_rr(values)
    low, high = percent_interval(values)
    return {
        **asdict(found), "bias": found.mean - float(before.mean()), "rr": found.rr, "total": found.total,
        "rr_percent": found.percent, "rr_percent_low": low, "rr_percent_high": high, "categories": found.categories,
        "tolerance_percent": math.nan if tolerance is None else 100 * 6 * found.rr / tolerance,
    }  # fmt: skip
