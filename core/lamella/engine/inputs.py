"""The image files, and frames of them, that a command is given."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamella.contracts.data import Sample
from lamella.contracts.model import Trainer
from lamella.data.formats.files import Frame, files_of, images_in, readable
from lamella.data.reading import AS_TOLD, Reading, frame_name
from lamella.data.samples import sample_key
from lamella.engine.experiment import Experiment
from lamella.errors import DataError, RunError


@dataclass(frozen=True)
class Input:
    """One image: a file, or a frame of one."""

    path: Path
    frame: Frame = None

    def stamp(self) -> list[int]:
        """Size and time of the file, then of those it is read with; another after a change. Empty where it is gone."""
        try:
            told = [path.stat() for path in files_of(self.path)]
        except OSError:
            return []
        return [number for one in told for number in (one.st_size, one.st_mtime_ns)]


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image files by a name that is unique among them; of a folder, the images in it.

    Raises:
        DataError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += images_in(path, "give these")
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: there is no such file or folder")
    named: dict[str, Path] = {}
    for path in files:
        named[_free(readable(path.stem), readable(path.name), named)] = path
    return named


def _free(short: str, full: str, taken: Collection[str]) -> str:
    """A name that is not taken: the short one, the full one, or that with a number."""
    name, number = short if short not in taken else full, 2
    while name in taken:
        name, number = f"{full}-{number}", number + 1
    return name


def check_apart(out: Path, paths: Sequence[Path]) -> None:
    """Refuse to write into a folder of the images that a command is given.

    Raises:
        RunError: ``out`` is one of the folders, or the folder of one of the files.
    """
    if out.resolve() in {(path if path.is_dir() else path.parent).resolve() for path in paths}:
        raise RunError(f"{out} holds the images: another time what is written there would be one; choose another --out")


def with_frames(files: dict[str, Path], reading: Reading) -> dict[str, Input]:
    """Every file, or where stacks are taken apart every frame; a file that cannot be read stays as it is.

    A frame whose name another image has takes the full name of its file: ``scan.tif-f0000``.
    """
    found: dict[str, Input] = {}
    taken = set(files)
    for name, path in files.items():
        try:
            frames = reading.frames(path)
        except DataError:
            frames = [None]
        for frame in frames:
            if isinstance(frame, int):
                called = _free(frame_name(name, frame), frame_name(readable(path.name), frame), taken)
            else:
                called = name
            taken.add(called)
            found[called] = Input(path, frame)
    return found


def as_trained(experiment: Experiment, trainer: Trainer) -> Reading:
    """How the first role of the training was read."""
    trained = [experiment.file.data[role].reading() for role in type(trainer).roles if role in experiment.file.data]
    return trained[0] if trained else AS_TOLD


def read_sample(name: str, image: Input, reading: Reading, pixel_nm: float | None = None) -> Sample:
    """An image as a sample without a label; ``pixel_nm`` is its pixel size where the file does not say it.

    Raises:
        DataError: the file cannot be read.
    """
    found = reading.micrograph(image.path, image.frame)
    unknown = math.isnan(found.pixel_nm[0])
    pixel = (pixel_nm or math.nan,) * 2 if unknown else found.pixel_nm
    key = sample_key(readable(image.path.parent.name), readable(name))
    return Sample(found.image, None, None, key, 0, pixel, found.facts.numbers(), name)
