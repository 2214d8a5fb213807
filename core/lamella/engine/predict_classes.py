"""The class of new images, or of objects of several images each, from a trained classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from lamella.contracts.data import Modality, Sample
from lamella.contracts.model import Trainer
from lamella.data.formats.files import readable
from lamella.data.reading import Reading
from lamella.data.samples import FileRow, sample_key
from lamella.data.views import by_wildcards
from lamella.engine.classification import ClassificationMetrics
from lamella.engine.experiment import Experiment
from lamella.engine.export import write_table
from lamella.engine.inputs import find_images, with_frames
from lamella.engine.journal import Journal
from lamella.engine.progress import Progress
from lamella.errors import ContractError, DataError, RunError

_BATCH = 32
Patterns = Mapping[str, str | list[str]]
"""The pattern of files, or several, of every view."""


@dataclass(frozen=True)
class Object:
    """What gets one class: an image, or several views of one thing."""

    row: FileRow
    files: dict[str, str]
    """Names of its files by view; of a single image by ``"image"``."""

    def stamp(self) -> list[list[Any]]:
        """Path, size and time of change (ns) of every file it is read from, by which another one is noticed."""
        found = [(path, path.stat()) for path in self.row.files()]
        return [[readable(str(path.resolve())), one.st_size, one.st_mtime_ns] for path, one in found]

    def sample(self, name: str) -> Sample:
        """Decoded; raises `DataError`."""
        image, _, _, pixel_nm, meta, views = self.row.arrays()
        folder = next(iter(self.row.files())).parent.name
        return Sample(image, None, None, sample_key(readable(folder), name), 0, pixel_nm, meta, name, views=views)


def classifies(trainer: Trainer) -> bool:
    """Whether it gives a class for each sample rather than for each pixel."""
    return any(isinstance(metric, ClassificationMetrics) for metric in trainer.metrics())


def trained_views(experiment: Experiment, trainer: Trainer) -> tuple[list[str], Patterns | None]:
    """The views of what a run was trained on ([] for single images), and the patterns of their files if it had any."""
    for role in type(trainer).roles:
        config = experiment.file.data.get(role)
        if config is not None and isinstance(config.images, dict):
            return list(config.images), config.images
        if config is not None and isinstance(columns := config.columns.get("image"), dict):
            return list(columns), None
    return [], None


def find_objects(
    paths: Sequence[Path], reading: Reading, *, views: list[str], patterns: Patterns | None
) -> dict[str, Object]:
    """The objects in files or folders, by a name that is unique among them.

    Args:
        views: those the run knows; none for single images.
        patterns: of the files of each view, relative to the folders.

    Raises:
        RunError: patterns of views that the run does not know, or none where it needs them.
        ConfigError: a pattern that no file matches.
        DataError: a path that is not there, two files for one view, a file that is two views, or files of several views
            of which no two belong together.
    """
    if not views:
        if patterns:
            raise RunError("this run judges single images; leave out --view")
        found = with_frames(find_images(paths), reading)
        return {
            name: Object(FileRow(one.path, None, None, reading, one.frame), {"image": readable(one.path.name)})
            for name, one in found.items()
        }
    example = " ".join(f"--view '{view}={view}/*.png'" for view in views)
    if not patterns:
        raise RunError(
            f"this run judges objects of several images ({', '.join(views)}); say which files belong together, as "
            f"{example}"
        )
    if unknown := [view for view in patterns if view not in views]:
        raise RunError(f"--view {unknown[0]!r}: this run knows the views {', '.join(views)}")
    if reading.stack == "each":
        raise RunError("--stack each: an object of several images is not read from stacks")
    objects: dict[str, Object] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"{path}: this is no folder; where files belong together, give the folder they are in")
        for stem, files in by_wildcards(path, patterns).items():
            name, number = readable(stem), 2
            while name in objects:
                name, number = f"{readable(stem)}-{number}", number + 1
            named = {view: readable(file.relative_to(path).as_posix()) for view, file in files.items()}
            ordered = {view: files[view] for view in views if view in files}
            objects[name] = Object(FileRow(ordered, None, None, reading, whole=len(ordered) == len(views)), named)
    if objects and max(len(one.files) for one in objects.values()) < len(patterns):
        listed = ", ".join(sorted(file for one in list(objects.values())[:4] for file in one.files.values()))
        told = " ".join(f"--view '{view}={pattern}'" for view, pattern in patterns.items())
        raise DataError(
            f"{paths[0]}: none of {len(objects)} objects has all of {', '.join(patterns)}: files belong together where "
            f"the wildcards of {told} stand for the same text, and here none do ({listed})"
        )
    return objects


def lacking(objects: Mapping[str, Object], views: Sequence[str]) -> dict[str, int]:
    """How many objects have no image of a view, for every view that some lack."""
    counts = {view: sum(view not in one.files for one in objects.values()) for view in views}
    return {view: count for view, count in counts.items() if count}


def judged_already(entries: Mapping[str, Mapping[str, Any]], objects: Mapping[str, Object]) -> set[str]:
    """The objects that were judged from the files that there are now."""
    return {
        name
        for name, entry in entries.items()
        if "p" in entry
        and name in objects
        and entry["files"] == objects[name].files
        and entry.get("stamp") == objects[name].stamp()
    }


def predict_objects(
    objects: Mapping[str, Object], trainer: Trainer, modality: Modality, accelerator: Accelerator, out: Path
) -> None:
    """Predict every object and note its probabilities in the journal of ``out``; what cannot be read is noted too."""
    with (
        Progress("predicting", len(objects), quiet=not accelerator.is_main_process) as progress,
        Journal(out, accelerator.process_index) as journal,
    ):
        done, stamps = 0, {name: one.stamp() for name, one in objects.items()}  # of before they are read
        for samples, failed in _batches(objects):
            for name, probabilities, reason in _judged(samples, failed, trainer, modality, accelerator):
                entry = {"name": name, "files": objects[name].files, "stamp": stamps[name]}
                if reason:
                    journal.note({**entry, "paths": [path for path, *_ in stamps[name]], "failed": reason})
                    progress.say(f"not read: {reason}")
                else:
                    journal.note({**entry, "p": probabilities})
                done += 1
            progress.at(done, {})


def _batches(objects: Mapping[str, Object]) -> Iterator[tuple[list[Sample], dict[str, str]]]:
    """Neighbours of one size, and why others cannot be read, by name."""
    waiting: list[Sample] = []
    failed: dict[str, str] = {}
    for name, one in objects.items():
        try:
            sample = one.sample(name)
        except DataError as error:
            failed[name] = readable(str(error))
            continue
        if waiting and (len(waiting) == _BATCH or waiting[0].image.shape[:2] != sample.image.shape[:2]):
            yield waiting, failed
            waiting, failed = [], {}
        waiting.append(sample)
    yield waiting, failed


def _judged(
    samples: list[Sample], failed: Mapping[str, str], trainer: Trainer, modality: Modality, accelerator: Accelerator
) -> Iterator[tuple[str, list[float], str]]:
    """(name, probabilities, why not) of each."""
    yield from ((name, [], reason) for name, reason in failed.items())
    if not samples:
        return
    try:
        with torch.inference_mode(), accelerator.autocast():
            # (B, K); of several views the batch is a dict
            given: Any = send_to_device(modality.collate(samples), accelerator.device)
            likely = trainer.predict(given).float()
    except (DataError, ContractError) as error:
        if len(samples) == 1:
            yield samples[0].name, [], f"{samples[0].name}: {error}"
            return
        for sample in samples:  # one of them is at fault
            yield from _judged([sample], {}, trainer, modality, accelerator)
        return
    for sample, row in zip(samples, likely.tolist()):
        yield sample.name, row, ""


def write_classes(out: Path, classes: Sequence[str], views: Sequence[str], done: Sequence[Mapping[str, Any]]) -> None:
    """``predictions.csv`` and ``.parquet``: name, class, its probability, that of every class, and missing views."""
    columns: dict[str, type] = {"name": str, "class": str, "probability": float}
    columns |= {f"p({name})": float for name in classes} | ({"missing": str} if views else {})

    def rows() -> Iterator[dict[str, Any]]:
        for entry in done:
            likely = dict(zip(classes, entry["p"], strict=True))
            best = max(likely, key=lambda name: likely[name])
            missing = " ".join(view for view in views if view not in entry["files"])
            each = {f"p({name})": value for name, value in likely.items()}
            yield {"name": entry["name"], "class": best, "probability": likely[best], **each, "missing": missing}

    write_table(out / "predictions", columns, rows())
