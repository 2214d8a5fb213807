"""Label maps, overlays and areas for new images, from a trained run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from PIL import Image

from lamella.contracts.data import Modality, Sample
from lamella.contracts.model import Trainer
from lamella.data.files import SUFFIXES, read_image, readable
from lamella.data.samples import sample_key
from lamella.engine.checkpoint import Checkpoints, write_json, write_text
from lamella.engine.evaluate import predict_whole
from lamella.engine.large import LARGE, predict_large
from lamella.engine.pictures import colours, overlay_picture
from lamella.engine.progress import Progress
from lamella.engine.run import open_run
from lamella.engine.session import make_accelerator
from lamella.errors import DataError, RunError

_LARGE_TILE, _OVERLAY_SIDE = 512, 2048


@dataclass(frozen=True)
class Predictor:
    """A trained run, ready to predict files into a folder."""

    trainer: Trainer
    modality: Modality
    accelerator: Accelerator
    classes: list[str]
    tile: int
    out: Path
    pixel_nm: float | None
    probabilities: bool

    def predict(self, name: str, path: Path) -> list[int]:
        """Predict one file, write its pictures, and return the pixels of every class. Raises `DataError`."""
        image = read_image(path)
        pixel = (self.pixel_nm or math.nan,) * 2
        key = sample_key(readable(path.parent.name), readable(path.name))
        sample = Sample(image, None, None, key, 0, pixel, {}, name)
        with torch.inference_mode(), self.accelerator.autocast():
            label = self._large(sample) if max(image.shape[:2]) > LARGE else self._whole(sample)
        palette = Image.fromarray(label)
        palette.putpalette([channel for colour in colours(self.classes) for channel in colour])
        save_image(palette, self.out / f"{name}.label.png")
        # Row by row: bincount makes 64-bit integers of what it is given, eight times a large label map.
        return sum(np.bincount(line, minlength=len(self.classes)) for line in label).tolist()  # type: ignore[union-attr]

    def _whole(self, sample: Sample) -> np.ndarray:
        batch = send_to_device(self.modality.collate([sample]), self.accelerator.device)
        if isinstance(batch, dict):
            raise RunError("this run judges samples of several views; measure it with: lamella evaluate RUN")
        likely = predict_whole(self.trainer, batch, self.tile)[0]
        label = likely.argmax(0).to(torch.uint8).cpu().numpy()
        if self.probabilities:
            maps = (likely * 255).round().to(torch.uint8).cpu().numpy()
            for number, name in enumerate(self.classes):
                save_image(Image.fromarray(maps[number]), self.out / f"{sample.name}.p-{name}.png")
        self._overlay(self.modality.picture(batch.image[0].cpu()), label, sample.name)
        return label

    def _large(self, sample: Sample) -> np.ndarray:
        label = predict_large(
            self.trainer, sample, self.modality, tile=min(self.tile, _LARGE_TILE), device=self.accelerator.device
        )
        step = -(-max(label.shape) // _OVERLAY_SIDE)
        small = sample._replace(image=np.ascontiguousarray(sample.image[::step, ::step]))
        batch = self.modality.collate([small])
        assert not isinstance(batch, dict)
        self._overlay(self.modality.picture(batch.image[0]), label[::step, ::step], sample.name)
        return label

    def _overlay(self, picture: np.ndarray, label: np.ndarray, name: str) -> None:
        save_image(Image.fromarray(overlay_picture(picture, label, self.classes)), self.out / f"{name}.overlay.png")


def predict(
    run: Path,
    images: Sequence[Path],
    out: Path,
    *,
    checkpoint: str | None = None,
    pixel_nm: float | None = None,
    probabilities: bool = False,
) -> dict[str, Any]:
    """Predict files (or all images of folders) into ``out``; files that cannot be read are listed, not fatal.

    Writes ``NAME.label.png`` (palette PNG: the pixel value is the class), ``NAME.overlay.png``,
    ``classes.json`` and ``areas.csv`` (pixels and, where the pixel size is known, nm² per class and image); on
    request ``NAME.p-CLASS.png``, probabilities from 0 to 255. Started again, it goes on with what is missing;
    under several processes each takes its share.

    Returns:
        ``{"done": […], "skipped": […], "failed": {name: reason}}``; on the first process, those of all.
    """
    files = find_images(images)
    experiment, trainer, modality, header = open_run(run, checkpoint)
    if trainer.embeds:
        raise RunError(f"{run}: {experiment.trainer.component.full_name} learns without classes; it predicts none")
    accelerator = make_accelerator(experiment.fit.precision)
    names: list[str] = header["data"]["class_names"]
    trainer.to(accelerator.device)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, run, checkpoint)
    predictor = Predictor(
        trainer, modality, accelerator, names, experiment.fit.tile, out, pixel_nm, probabilities
    )  # fmt: skip
    known = {entry["name"] for entry in _journal(out) if "pixels" in entry}
    known = {name for name in known if (out / f"{name}.label.png").is_file()}
    rank, world = accelerator.process_index, accelerator.num_processes
    mine = [(name, path) for name, path in files.items() if name not in known][rank::world]
    with (
        Progress("predicting", len(mine), quiet=not accelerator.is_main_process) as progress,
        (out / f"journal-{rank}.jsonl").open("a", encoding="utf-8") as journal,
    ):
        for number, (name, path) in enumerate(mine):
            entry: dict[str, Any] = {"name": name}
            try:
                entry["pixels"] = predictor.predict(name, path)
            except DataError as error:
                entry["failed"] = str(error)
                progress.say(f"not read: {error}")
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            progress.at(number + 1, {})
    accelerator.wait_for_everyone()
    entries = {entry["name"]: entry for entry in _journal(out) if entry["name"] in files}
    failed = {name: entry["failed"] for name, entry in entries.items() if "failed" in entry}
    if accelerator.is_main_process:
        write_json(out / "classes.json", {name: number for number, name in enumerate(names)})
        write_json(out / "failed.json", failed)
        _write_areas(out / "areas.csv", names, [entries[n] for n in files if "pixels" in entries.get(n, {})], pixel_nm)
    done = [name for name in files if name not in failed and name not in known]
    return {"done": done, "skipped": sorted(known & set(files)), "failed": failed}


def _claim(out: Path, run: Path, checkpoint: str | None) -> None:
    """Note which weights a folder is predicted with; raise `RunError` where it was begun with others."""
    checkpoints = Checkpoints(run)
    name = checkpoint or ("best" if checkpoints.has("best") else "last")
    ours = {"run": str(run.resolve()), "checkpoint": checkpoints.load_pointer(name)}
    note = out / "predicted-by.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != ours:
        raise RunError(f"{out} holds predictions of another run or checkpoint ({note.name}); choose another --out")
    write_json(note, ours)


def _journal(out: Path) -> list[dict[str, Any]]:
    """What all processes have noted so far, one entry a file; a line that was cut short does not count."""
    entries = []
    for path in sorted(out.glob("journal-*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        entries += [json.loads(line) for line in lines if line.endswith("}\n")]
    return entries


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image files by a name that is unique among them; of a folder, the images in it.

    Raises:
        DataError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise DataError(f"{path}: the folder holds no image ({', '.join(SUFFIXES)})")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: there is no such file or folder")
    named: dict[str, Path] = {}
    for path in files:
        stem, full = readable(path.stem), readable(path.name)
        name = stem if stem not in named else full
        number = 2
        while name in named:
            name, number = f"{full}-{number}", number + 1
        named[name] = path
    return named


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture so that it is there whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    image.save(beside, "PNG")
    beside.replace(path)


def _write_areas(path: Path, names: list[str], entries: list[dict[str, Any]], pixel_nm: float | None) -> None:
    extra = [] if pixel_nm is None else [f"{name} (nm²)" for name in names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *(f"{name} (px)" for name in names), *extra])
    for entry in entries:
        nm = [] if pixel_nm is None else [f"{count * pixel_nm**2:.6g}" for count in entry["pixels"]]
        writer.writerow([entry["name"], *entry["pixels"], *nm])
    write_text(path, text.getvalue())
