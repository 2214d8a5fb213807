"""The image files, and frames of them, that a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamella.data.formats.files import SUFFIXES, Frame, image_files, readable
from lamella.data.reading import Reading, frame_name
from lamella.errors import DataError


@dataclass(frozen=True)
class Input:
    """One image: a file, or a frame of one."""

    path: Path
    frame: Frame = None


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image files by a name that is unique among them; of a folder, the images in it.

    Raises:
        DataError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = image_files(path.iterdir())
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


def with_frames(files: dict[str, Path], reading: Reading) -> dict[str, Input]:
    """Every file, or where stacks are taken apart every frame; a file that cannot be read stays as it is."""
    found: dict[str, Input] = {}
    for name, path in files.items():
        try:
            frames = reading.frames(path)
        except DataError:
            frames = [None]
        found |= {frame_name(name, frame): Input(path, frame) for frame in frames}
    return found
