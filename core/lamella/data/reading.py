"""How the files of a set are read: what becomes of data bars and of stacks."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lamella.data.burnt_in.databar import find_bar
from lamella.data.burnt_in.scalebar import read_scale_bar
from lamella.data.formats.files import Frame, count_frames, read_mask, read_micrograph
from lamella.data.formats.micrograph import Micrograph
from lamella.errors import DataError

DataBar = Literal["metadata", "find", "keep"]
Stack = Literal["refuse", "each", "mean"]


@dataclass(frozen=True)
class Reading:
    """How image files, and masks drawn on them, become samples."""

    data_bar: DataBar = "metadata"
    """Cut where the file says that a bar begins; also where one is found; or never."""
    stack: Stack = "refuse"
    """What becomes of a file of several frames: an error, a sample each, or their mean."""
    scale_bar: bool = False
    """Whether the pixel size is read from a burnt-in scale bar where the file does not say it."""

    def frames(self, path: Path) -> list[Frame]:
        """The frames of a file that become samples; raises `DataError` for one that cannot be read."""
        if self.stack == "refuse":
            return [None]
        count = count_frames(path)
        if count == 1:
            return [None]
        return ["mean"] if self.stack == "mean" else list(range(count))

    def micrograph(self, path: Path, frame: Frame = None) -> Micrograph:
        """A frame without its data bar; raises `DataError`."""
        whole = read_micrograph(path, frame)
        if self.scale_bar:
            whole = with_scale_bar(whole, str(path))
        if self.data_bar == "keep":
            return replace(whole, rows=None)
        rows = whole.rows
        if rows is None and self.data_bar == "find":
            rows = find_bar(whole.image)
        return whole.without_bar(rows)

    def mask(self, path: Path, of: Micrograph, frame: Frame = None) -> np.ndarray:
        """A mask as it belongs to ``of``: the frame's own, and cut at the bar if it was drawn below it too.

        Raises:
            DataError: a mask that cannot be read, or a stack without that frame.
        """
        mask, height = read_mask(path), of.image.shape[0]
        if isinstance(frame, int) and mask.ndim == 3 and mask.shape[1] >= height and mask.shape[2] > 4:
            if frame >= len(mask):
                raise DataError(f"{path}: it has {len(mask)} frames; its image has one of number {frame} (from 0) too")
            mask = mask[frame]
        return mask[:height] if of.cut and mask.shape[:2] == (height + of.cut, of.image.shape[1]) else mask


def with_scale_bar(found: Micrograph, name: str) -> Micrograph:
    """With the pixel size of its scale bar, where the file does not say it and the bar can be read with confidence."""
    bar = None
    if math.isnan(found.pixel_nm[0]):
        with contextlib.suppress(DataError):
            bar = read_scale_bar(found.image, name)
    size = found.pixel_nm if bar is None else (bar.pixel_nm, bar.pixel_nm)
    sure = 0.0 if bar is None else round(bar.confidence, 3)
    return replace(found, pixel_nm=size, facts=replace(found.facts, scale_bar=sure))


AS_TOLD = Reading()
"""Bars cut where files tell of them, stacks refused."""


def frame_name(name: str, frame: Frame) -> str:
    """What to call a frame of a file: ``NAME-f0003``.

    >>> frame_name("scan", 3), frame_name("scan", None)
    ('scan-f0003', 'scan')
    """
    return f"{name}-f{frame:04d}" if isinstance(frame, int) else name
