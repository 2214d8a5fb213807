"""One file through a trained network: its label map, its overlay, and what is noted and measured of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from PIL import Image

from lamella.contracts.batch import IGNORE
from lamella.contracts.data import Modality, Sample
from lamella.contracts.model import Trainer
from lamella.data.formats.files import readable
from lamella.data.reading import AS_TOLD, DataBar, Reading, Stack
from lamella.engine.evaluate import predict_whole
from lamella.engine.inputs import Input, read_sample
from lamella.engine.labelmap import save_image, save_label
from lamella.engine.large import LARGE, predict_large
from lamella.engine.pictures import overlay_picture, with_scale_bar
from lamella.engine.trust.abstain import ALWAYS, Abstention
from lamella.engine.trust.familiar import grey_points
from lamella.errors import RunError
from lamella.measure.tables import measure

_LARGE_TILE, _OVERLAY_SIDE = 512, 2048


@dataclass(frozen=True)
class Wanted:
    """What a prediction writes beside label maps, overlays and areas, and how it reads what it is given."""

    probabilities: bool = False
    measurements: bool = False
    """Tables of thicknesses, critical dimensions and objects."""
    coco: bool = False
    label_format: Literal["png", "tiff"] = "png"
    structures: Sequence[str] = ()
    """Upright structures of several classes, as ``"gate=high-k+liner+metal"``."""
    pixel_nm: float | None = None
    """nm per pixel where the files do not say."""
    data_bar: DataBar | None = None
    """As in ``[data.ROLE]``; else as the run was trained."""
    stack: Stack | None = None
    abstain: bool = False
    """Leave pixels without a class where the run is not sure enough; it was calibrated."""
    views: Mapping[str, str | list[str]] = field(default_factory=dict)
    """Patterns of the files of every view, where an object has several; else as the run was trained."""

    def for_maps(self) -> list[str]:
        """The options that are about label maps."""
        told = {
            "--measure": self.measurements, "--structure": self.structures, "--coco": self.coco,
            "--probabilities": self.probabilities, "--abstain": self.abstain,
            "--label-format": self.label_format != "png",
        }  # fmt: skip
        return [option for option, given in told.items() if given]


LABEL_MAPS = Wanted()
"""Nothing more."""


@dataclass(frozen=True)
class Predictor:
    """A trained run, ready to predict files into a folder."""

    trainer: Trainer
    modality: Modality
    accelerator: Accelerator
    classes: list[str]
    tile: int
    out: Path
    reading: Reading = AS_TOLD
    wanted: Wanted = field(default_factory=Wanted)
    structures: dict[str, list[str]] = field(default_factory=dict)
    rule: Abstention = ALWAYS

    def label_path(self, name: str) -> Path:
        """Where the label map of a file goes."""
        return self.out / f"{name}.label.{'png' if self.wanted.label_format == 'png' else 'tif'}"

    def map_path(self, name: str, number: int) -> Path:
        """Where the probabilities of a file's class of that number go; ``_`` for what no file name can hold."""
        safe = re.sub(r'[/\\:*?"<>|]', "_", self.classes[number])
        return self.out / f"{name}.p-{safe}.png"

    def maps(self, name: str) -> list[Path]:
        """Every map that is wanted of a file: once all are there, it is done."""
        maps = [self.map_path(name, number) for number in range(len(self.classes))] if self.wanted.probabilities else []
        return [self.label_path(name), *maps]

    def predict(self, name: str, image: Input) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Predict one file and write its pictures; its entry for the journal, and measurements if wanted.

        Raises:
            DataError: the file cannot be read.
        """
        stamp = image.stamp()  # of before it is read
        sample = read_sample(name, image, self.reading, self.wanted.pixel_nm)
        pixel = sample.pixel_nm
        with torch.inference_mode(), self.accelerator.autocast():
            large = max(sample.image.shape[:2]) > max(LARGE, self.tile)
            label, grey = self._large(sample) if large else self._whole(sample)
        save_label(label, self.label_path(name), self.classes, pixel)
        # Row by row: bincount makes 64-bit integers of what it is given, eight times a large label map.
        counts = sum(np.bincount(line, minlength=IGNORE + 1) for line in label).tolist()  # type: ignore[union-attr]
        entry = {
            "name": name, "file": readable(image.path.name), "path": readable(str(image.path.resolve())),
            "stamp": stamp, "label": self.label_path(name).name, "pixels": counts[: len(self.classes)],
            "unsure": counts[IGNORE], "pixel_nm": pixel, "grey": grey,
        }  # fmt: skip
        if not self.wanted.measurements:
            return entry, None
        return entry, {"pixel_nm": pixel, **measure(label, self.classes, pixel, self.structures)}

    def _whole(self, sample: Sample) -> tuple[np.ndarray, list[float]]:
        """The label map of an image, and its `grey_points`."""
        batch = send_to_device(self.modality.collate([sample]), self.accelerator.device)
        if isinstance(batch, dict):
            raise RunError("this run makes label maps of several views; measure it with: lamella evaluate RUN")
        likely = predict_whole(self.trainer, batch, self.tile)[0]
        label = self.rule.labels(likely).cpu().numpy()
        if self.wanted.probabilities:
            self._save_maps((self.rule.calibrated(likely) * 255).round().to(torch.uint8).cpu().numpy(), sample)
        return label, self._overlay(self.modality.picture(batch.image[0].cpu()), label, sample)

    def _large(self, sample: Sample) -> tuple[np.ndarray, list[float]]:
        """The same in tiles; picture and grey values of every so-many-th pixel."""
        shape = (len(self.classes), *sample.image.shape[:2])
        maps = np.empty(shape, np.uint8) if self.wanted.probabilities else None
        label = predict_large(
            self.trainer, sample, self.modality, tile=min(self.tile, _LARGE_TILE), device=self.accelerator.device,
            rule=self.rule, maps=maps,
        )  # fmt: skip
        if maps is not None:
            self._save_maps(maps, sample)
        step = -(-max(label.shape) // _OVERLAY_SIDE)
        # Every step-th pixel: each stands for step of them.
        size = (sample.pixel_nm[0] * step, sample.pixel_nm[1] * step)
        image = np.ascontiguousarray(sample.image[::step, ::step])
        small = sample._replace(image=image, pixel_nm=size, whole=sample.image)
        batch = self.modality.collate([small])
        assert not isinstance(batch, dict)
        return label, self._overlay(self.modality.picture(batch.image[0]), label[::step, ::step], small)

    def _save_maps(self, maps: np.ndarray, sample: Sample) -> None:
        """Write probabilities (K, H, W) uint8, 255 being 1, a file for each class."""
        for number, one in enumerate(maps):
            save_image(Image.fromarray(one), self.map_path(sample.name, number), sample.pixel_nm)

    def _overlay(self, picture: np.ndarray, label: np.ndarray, sample: Sample) -> list[float]:
        """Write the overlay; the picture's `grey_points`."""
        mixed = overlay_picture(picture, label, self.classes)
        drawn = with_scale_bar(mixed, sample.pixel_nm[1])
        save_image(drawn, self.out / f"{sample.name}.overlay.png", sample.pixel_nm)
        return grey_points(picture)
